//! `cargo xtask bench scale`, small: it measures what it says, and fails where the wire does not show it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_small_cluster_is_measured() {
    let cluster = Path::new(env!("CARGO_BIN_EXE_postern-cluster"));
    let mut command = Command::new(cluster);
    command.args(["bench", "--pods", "150", "--policies", "20", "--rounds", "3", "--output", "json"]);
    command.arg("--postern").arg(cluster.with_file_name("postern"));
    let output = command.arg("--lab").arg(cluster.with_file_name("postern-lab")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Everything created, and what every API server has: namespaces, a Service and its slice.
    assert!(report["objects"].as_u64().unwrap() >= 150 + 20 + 30 + 100 + 2, "{report:#}");
    assert!(report["received_bytes"].as_u64().unwrap() > 100 * 1024, "{report:#}");
    assert!(report["memory_kib"].as_u64().unwrap() > 1024, "{report:#}");
    for change in ["create", "delete"] {
        for span in ["heard", "enforced"] {
            assert!(report[change][span]["median_ms"].as_f64().unwrap() > 0.0, "{report:#}");
        }
    }
}

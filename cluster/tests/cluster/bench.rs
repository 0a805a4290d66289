//! `cargo xtask bench scale`, small: it measures what it says, and fails where the wire does not show it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_small_cluster_is_measured() {
    let cluster = Path::new(env!("CARGO_BIN_EXE_postern-cluster"));
    let mut command = Command::new(cluster);
    command.args(["bench", "--pods", "150", "--policies", "20", "--services", "30"]);
    command.args(["--rounds", "3", "--churn-seconds", "1", "--output", "json"]);
    command.arg("--postern").arg(cluster.with_file_name("postern"));
    let output = command.arg("--lab").arg(cluster.with_file_name("postern-lab")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Everything created, and what every API server has: namespaces, a Service and its slice.
    assert!(report["objects"].as_u64().unwrap() >= 150 + 20 + 2 * 30 + 30 + 100 + 2, "{report:#}");
    assert!(report["received_bytes"].as_u64().unwrap() > 100 * 1024, "{report:#}");
    assert!(report["memory_kib"].as_u64().unwrap() > 1024, "{report:#}");
    for change in ["create", "delete"] {
        for span in ["heard", "enforced"] {
            assert!(report[change][span]["median_ms"].as_f64().unwrap() > 0.0, "{report:#}");
        }
    }
    // The benchmark itself fails where the agent's maps do not show the updates, Service by Service.
    let churn = &report["churn"];
    assert_eq!(churn["updates"], 100, "{report:#}");
    assert!(churn["seconds"].as_f64().unwrap() >= 0.99, "{report:#}");
    assert!(churn["per_second"].as_f64().unwrap() > 1.0, "{report:#}");
    assert!(churn["agent_cpu_percent_of_a_core"].as_f64().unwrap() > 0.0, "{report:#}");
    // All Services but the emptied ones, and the API server's own.
    let (emptied, frontends) = (churn["emptied"].as_u64().unwrap(), churn["frontends"].as_u64().unwrap());
    assert!(emptied > 0, "{report:#}");
    assert_eq!(frontends, 30 - emptied + 1, "{report:#}");
}

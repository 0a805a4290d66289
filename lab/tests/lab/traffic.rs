//! The benchmark of traffic runs through, measures everything, and measures nothing that is not enforced. What it
//! measures is not judged here: tests share the machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{lab_binary, nothing_left, postern_binary, run, run_alone};

const WORKLOADS: [&str; 5] = ["tcp_latency", "udp_cpu", "connection", "throughput", "throughput_without_gso"];

/// Runs the benchmark with one round, and looks whether it left anything.
fn bench(arguments: &[&str], path: Option<&Path>) -> Output {
    let mut command = Command::new(lab_binary());
    command.args(["bench", "--rounds", "1", "--output", "json", "--postern"]).arg(postern_binary());
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(path) = path {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let all = [path.to_owned()].into_iter().chain(std::env::split_paths(&inherited));
        command.env("PATH", std::env::join_paths(all).unwrap());
    }
    let child = command.spawn().unwrap();
    let name = format!("{}-0", child.id());
    let output = child.wait_with_output().unwrap();
    let state = Path::new(postern_lab::run::STATE).join(&name);
    assert!(nothing_left(&state, &format!("pstn-{name}-")), "something is left");
    output
}

#[test]
fn every_scenario_enforces_and_has_all_figures() {
    run_alone(async {
        let output = bench(&[], None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let skipped: Vec<&str> =
            report["skipped"].as_array().unwrap().iter().map(|s| s["scenario"].as_str().unwrap()).collect();
        assert!(skipped.is_empty() || skipped == ["iptables-set"], "only ipset may be missing: {skipped:?}");
        let scenarios = report["scenarios"].as_array().unwrap();
        let measured: Vec<&str> = scenarios.iter().map(|it| it["scenario"].as_str().unwrap()).collect();
        for kind in ["none-", "floor-", "postern-", "nftables-", "iptables-"] {
            assert!(measured.iter().any(|name| name.starts_with(kind)), "{kind}: {measured:?}");
        }
        assert_eq!(scenarios.len() + skipped.len(), 14);
        for scenario in scenarios {
            for workload in WORKLOADS {
                let figure = &scenario["figures"][workload];
                for value in ["median", "ratio"] {
                    assert!(
                        figure[value].as_f64().is_some_and(|value| value > 0.0),
                        "{workload} of {scenario}"
                    );
                }
            }
        }
        for workload in WORKLOADS {
            assert!(report["noise_floor"][workload].is_f64(), "{workload}");
        }
    });
}

/// An nft that takes the rules and does nothing.
#[test]
fn a_scenario_that_enforces_nothing_is_not_measured() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let nft = folder.path().join("nft");
        std::fs::write(&nft, "#!/bin/sh\ncat > /dev/null\n").unwrap();
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = bench(&["--only", "nftables-set"], Some(folder.path()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("nftables-set does not enforce its policy"), "{said}");
        assert!(output.stdout.is_empty(), "no figures");
    });
}

//! The process that brings a cluster up is killed half-way: the next run sweeps.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use postern_cluster::run;

use crate::support::leftovers;

/// What it says before each step, and how long into that step it is killed.
const POINTS: [(&str, u64); 4] = [
    ("starting 2 nodes", 20),
    ("waiting for the API server", 500),
    ("loading images", 300),
    ("waiting until every node is ready", 1000),
];

#[test]
fn nothing_stays_of_a_cluster_whose_process_was_killed() {
    for (step, milliseconds) in POINTS {
        let mut supervisor = Command::new(env!("CARGO_BIN_EXE_postern-cluster"))
            .arg("supervise")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines().map_while(Result::ok);
        let reached = lines.any(|line| line == step);
        thread::sleep(Duration::from_millis(milliseconds));
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        assert!(reached, "it never said `{step}`");
        let name = format!("{}-0", supervisor.id());
        assert!(!leftovers(&name).is_empty(), "a killed process cannot have cleaned up");
        run::sweep();
        assert_eq!(leftovers(&name), Vec::<String>::new(), "killed {milliseconds} ms after `{step}`");
    }
}

//! `cargo xtask e2e` on a cluster that enforces nothing: it has to say so, and leave nothing there.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_cluster::cluster::{Cluster, Options};
use postern_cluster::image::TOOLS;
use serde_json::Value;

use crate::support::kubectl_ok;

#[test]
fn without_an_enforcer_every_cell_that_policy_denies_differs_and_nothing_stays() {
    let binary = env!("CARGO_BIN_EXE_postern-cluster");
    let mut cluster = Cluster::up(&Options::new(binary.into()), |_| ControlFlow::Continue(())).unwrap();
    let relay = cluster.control().relay().unwrap();
    let config = relay.kubeconfig();

    let mut run = start(binary, config, "3");
    let reports: Vec<Value> = lines(&mut run).map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let differences: Vec<usize> =
        reports.iter().map(|report| report["differences"].as_array().unwrap().len()).collect();
    // Six pods, each to five others, on six ports and through a Service. An answer that a busy machine loses looks like a
    // denial, so not every single one has to differ.
    let all = 6 * 5 * 7;
    assert_eq!(differences[0], 0, "{reports:#?}");
    assert!(differences[1] > all / 2 && differences[1] <= all, "{differences:?}");
    assert!(differences[2] > all / 2 && differences[2] <= all - 7, "{differences:?}");
    let opened = |text: &Value| text.as_str().unwrap().starts_with("shop/db -> shop/api ");
    assert!(!reports[2]["differences"].as_array().unwrap().iter().any(opened), "{reports:#?}");
    let namespaces =
        || kubectl_ok(config, &["get", "namespaces", "--selector=postern.dev/e2e", "--output=name"]);
    assert_eq!(namespaces(), "");

    let mut run = start(binary, config, "3");
    assert!(lines(&mut run).next().is_some(), "a first step");
    assert_eq!(namespaces().lines().count(), 3, "it is at work");
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(namespaces(), "");
}

fn start(binary: &str, kubeconfig: &Path, steps: &str) -> Child {
    let mut command = Command::new(binary);
    command.arg("e2e").arg("--kubeconfig").arg(kubeconfig).args(["--image", TOOLS, "--steps", steps]);
    command.args(["--patience", "8", "--output", "json"]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn lines(run: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok)
}

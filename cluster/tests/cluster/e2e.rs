//! `cargo xtask e2e` on a cluster that enforces nothing: it has to say so, and leave nothing there. And on one where
//! Postern enforces: everything has to be as expected.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_cluster::cluster::{Cluster, Options};
use postern_cluster::image::TOOLS;
use serde_json::Value;

use crate::site::Site;
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

#[test]
fn with_postern_every_cell_of_every_step_is_as_expected() {
    let site = Site::up();
    site.kustomize("apply", "base");
    site.rolled_out("postern");
    story(&site, &[], 17);
}

/// Plays the story, where Postern runs: so many steps, each as expected.
pub(crate) fn story(site: &Site, arguments: &[&str], steps: usize) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern-cluster"));
    command
        .arg("e2e")
        .arg("--kubeconfig")
        .arg(site.kubeconfig())
        .args(["--image", TOOLS, "--output", "json"])
        .args(arguments);
    // A machine that is busy with tests loses answers; each cell that differs is asked again for so long.
    let output = command.args(["--patience", "40"]).output().unwrap();
    let reports = String::from_utf8_lossy(&output.stdout);
    let reports: Vec<Value> = reports.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), steps, "{output:?}");
    for report in &reports {
        let differences = report["differences"].as_array().unwrap();
        assert!(
            differences.is_empty(),
            "{}: {differences:#?}\n{}",
            report["title"],
            site.described("postern")
        );
    }
    // All but the first and the last of the story deny something.
    let cells = |report: &Value| report["expected"].as_array().unwrap().clone();
    let denied = |report: &&Value| cells(report).iter().any(|cell| cell["allowed"] == false);
    assert!(reports.iter().filter(denied).count() >= steps - 2);
    let to_service = |cell: &Value| cell["to"].as_str().unwrap().starts_with("service/");
    assert!(cells(&reports[0]).iter().any(to_service), "Services are asked too");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
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

//! What the tests share: bringing up a lab, and comparing what it shows with what must be.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use postern_lab::lab::{Applied, Lab, Programs};
use postern_lab::matrix::{Key, Matrix, differences, matrix};
use postern_lab::scenario::{Scenario, Snapshot};
use postern_lab::working_copy::{Files, WorkingCopy};
use postern_policy::matrix::IpFamily;
use postern_policy::model::Protocol;

/// Tests that measure time run alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs a test next to others.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    block_on(test);
}

/// Runs a test alone.
pub(crate) fn run_alone(test: impl Future<Output = ()>) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    block_on(test);
}

fn block_on(test: impl Future<Output = ()>) {
    assert!(nix::unistd::geteuid().is_root(), "lab tests need root: cargo xtask test");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

pub(crate) fn lab_binary() -> PathBuf {
    env!("CARGO_BIN_EXE_postern-lab").into()
}

pub(crate) fn postern_binary() -> PathBuf {
    let postern = lab_binary().with_file_name("postern");
    assert!(postern.exists(), "{} is missing: cargo build -p postern", postern.display());
    postern
}

/// Parses files as a scenario.
pub(crate) fn snapshot(files: &Files) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    WorkingCopy::create(folder.path().join("copy")).unwrap().replace(files).unwrap();
    Snapshot::read(&folder.path().join("copy")).unwrap()
}

/// A lab that covers all these states, with agents.
pub(crate) async fn up(states: &[&Files]) -> Lab {
    let programs = Programs { lab: lab_binary(), postern: Some(postern_binary()) };
    let snapshots: Vec<Snapshot> = states.iter().map(|files| snapshot(files)).collect();
    Lab::up(programs, Scenario::covering(&snapshots).unwrap()).await.unwrap()
}

/// A lab without agents.
pub(crate) async fn up_without_agents(states: &[&Files]) -> Lab {
    let programs = Programs { lab: lab_binary(), postern: None };
    let snapshots: Vec<Snapshot> = states.iter().map(|files| snapshot(files)).collect();
    Lab::up(programs, Scenario::covering(&snapshots).unwrap()).await.unwrap()
}

/// What the engine says about files.
pub(crate) fn engine(files: &Files) -> Matrix {
    let snapshot = snapshot(files);
    matrix(postern_policy::matrix::matrix(&snapshot.objects, &snapshot.lab.externals()))
}

/// Applies files and checks that the wire agrees with the engine on every cell.
pub(crate) async fn check(lab: &mut Lab, files: &Files, when: &str) -> (Applied, Matrix) {
    let applied = lab.apply(files).await.unwrap();
    let observed = lab.observe().await.unwrap().matrix;
    let expected = engine(files);
    if !differences(&expected, &observed).is_empty() {
        tell(lab).await;
    }
    assert_same(&expected, &observed, when);
    (applied, observed)
}

/// Prints what helps to understand a failure: each agent's status and log, and what its maps hold.
async fn tell(lab: &mut Lab) {
    for agent in lab.agents_mut() {
        println!("agent of {}: {:#?}\n{}", agent.node(), agent.status(), agent.log());
    }
    println!("{:#?}", lab.dump().await);
}

pub(crate) fn assert_same(expected: &Matrix, observed: &Matrix, when: &str) {
    assert!(!observed.is_empty(), "{when}: nothing was observed");
    let differing: Vec<String> = differences(expected, observed).iter().map(ToString::to_string).collect();
    assert!(differing.is_empty(), "{when}: {} cells differ:\n{}", differing.len(), differing.join("\n"));
}

/// A cell's key, over IPv4.
pub(crate) fn key(from: &str, to: &str, port: u16, protocol: Protocol) -> Key {
    Key { from: from.to_owned(), to: to.to_owned(), port, protocol, ip_family: IpFamily::V4 }
}

/// Whether nothing of a run is left on this machine.
pub(crate) fn nothing_left(state: &Path, netns_prefix: &str) -> bool {
    !state.exists() && postern_lab::netns::names_with_prefix(netns_prefix).is_empty()
}

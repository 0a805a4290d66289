//! Nothing stays behind: after an interruption by ourselves, after a kill by the next run.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::run::{self, STATE};

use crate::manifests::small;
use crate::support::{lab_binary, nothing_left, run as run_test};

/// A lab in a process of its own, up and running.
struct Running {
    child: Child,
    state: PathBuf,
    prefix: String,
    _scenario: tempfile::TempDir,
}

fn start() -> Running {
    let scenario = tempfile::tempdir().unwrap();
    for (name, content) in small().0 {
        std::fs::write(scenario.path().join(name), content).unwrap();
    }
    let mut command = Command::new(lab_binary());
    command.arg("supervise").arg("-f").arg(scenario.path()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let name = format!("{}-0", child.id());
    let running = Running {
        child,
        state: PathBuf::from(STATE).join(&name),
        prefix: format!("pstn-{name}-"),
        _scenario: scenario,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    // Fabric, two nodes, an external and four pods.
    while postern_lab::netns::names_with_prefix(&running.prefix).len() < 8 {
        assert!(Instant::now() < deadline, "the lab does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    running
}

#[test]
fn an_interrupted_lab_takes_itself_down() {
    run_test(async {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut lab = start();
            kill(Pid::from_raw(i32::try_from(lab.child.id()).unwrap()), signal).unwrap();
            assert_eq!(lab.child.wait().unwrap().code(), Some(130));
            assert!(nothing_left(&lab.state, &lab.prefix), "{signal}: something is left");
        }
    });
}

#[test]
fn a_killed_lab_is_swept_by_the_next_one() {
    run_test(async {
        let mut lab = start();
        run::sweep();
        assert!(!nothing_left(&lab.state, &lab.prefix), "a live lab is left alone");
        lab.child.kill().unwrap();
        lab.child.wait().unwrap();
        assert!(!nothing_left(&lab.state, &lab.prefix), "nobody could clean up yet");
        run::sweep();
        assert!(nothing_left(&lab.state, &lab.prefix), "the next run sweeps");
    });
}

//! Tables of commands and what they print, run side by side, until all of it is as expected.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::netns;

use crate::site::Site;
use crate::support::kubectl;

/// How long a change may take until it shows everywhere, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(45);

/// A command, and what it prints.
pub(super) struct Row {
    from: From,
    script: String,
    expected: String,
}

enum From {
    /// Namespace and name.
    Pod(&'static str, &'static str),
    /// A network namespace.
    Host(PathBuf),
}

/// What a pod, `NAMESPACE/NAME`, is told.
pub(super) fn pod(name: &'static str, script: impl Into<String>, expected: impl Into<String>) -> Row {
    let (namespace, name) = name.split_once('/').unwrap();
    Row { from: From::Pod(namespace, name), script: script.into(), expected: expected.into() }
}

/// What a host is told that is no node, given with its network namespace.
pub(super) fn host(netns: &Path, script: impl Into<String>, expected: impl Into<String>) -> Row {
    Row { from: From::Host(netns.to_owned()), script: script.into(), expected: expected.into() }
}

/// A request that prints what is served, and nothing when nobody answers.
pub(super) fn curl(url: &str) -> String {
    format!("curl --silent --fail --max-time 3 {url}")
}

impl Row {
    fn ask(&self, site: &Site) -> String {
        let output = match &self.from {
            From::Pod(namespace, name) => {
                let arguments =
                    ["--request-timeout=20s", "--namespace", namespace, "exec", name, "--", "sh", "-c"];
                kubectl(site.kubeconfig(), &[&arguments[..], &[&self.script]].concat())
            }
            From::Host(path) => {
                // The thread is this row's own.
                netns::enter(path).unwrap();
                Command::new("sh").args(["-c", &self.script]).output().unwrap()
            }
        };
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn title(&self) -> String {
        match &self.from {
            From::Pod(namespace, name) => format!("{namespace}/{name}: {}", self.script),
            From::Host(_) => format!("a host outside: {}", self.script),
        }
    }
}

/// Runs all rows until each prints what it should, all in the same round.
pub(super) fn settles(site: &Site, when: &str, rows: &[Row]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said: Vec<String> = thread::scope(|scope| {
            let asked: Vec<_> = rows.iter().map(|row| scope.spawn(|| row.ask(site))).collect();
            asked.into_iter().map(|row| row.join().unwrap()).collect()
        });
        let wrong: Vec<String> = rows
            .iter()
            .zip(&said)
            .filter(|(row, said)| row.expected != **said)
            .map(|(row, said)| format!("{}\n  says {said:?}, should {:?}", row.title(), row.expected))
            .collect();
        if wrong.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{when}:\n{}\n{}", wrong.join("\n"), site.described("postern"));
        thread::sleep(Duration::from_millis(200));
    }
}

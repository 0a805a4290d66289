//! What several tests need.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use postern_cluster::programs::Program;
use postern_lab::netns;

/// kubectl with a kubeconfig, in this process's own network namespace.
pub(crate) fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(Program::Kubectl.path().unwrap());
    command.arg("--kubeconfig").arg(kubeconfig).arg("--request-timeout=5s").args(arguments);
    command.output().unwrap()
}

/// The same, when it has to work.
pub(crate) fn kubectl_ok(kubeconfig: &Path, arguments: &[&str]) -> String {
    let output = kubectl(kubeconfig, arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kubectl {arguments:?}: {stdout}{stderr}");
    stdout.into_owned()
}

/// All that there is on this machine of the run with this name: namespaces, folders, cgroups, processes.
pub(crate) fn leftovers(run: &str) -> Vec<String> {
    let prefix = format!("pstnc-{run}");
    let mut found = netns::names_with_prefix(&prefix);
    let folders =
        ["/run/postern-cluster", "/var/lib/postern-cluster"].map(|folder| Path::new(folder).join(run));
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(&prefix));
    let cgroups = hierarchies.chain([Path::new("/sys/fs/cgroup").join(&prefix)]);
    found.extend(
        folders
            .into_iter()
            .chain(cgroups)
            .filter(|path| path.exists())
            .map(|path| path.display().to_string()),
    );
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        // Those that end meanwhile cannot be read.
        let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
        let (command, cgroup) = (read("cmdline"), read("cgroup"));
        let said = |bytes: &[u8], what: &str| String::from_utf8_lossy(bytes).contains(what);
        if said(&command, &format!("postern-cluster/{run}/")) || said(&cgroup, &format!("/{prefix}/")) {
            found.push(format!("{}: {}", process.display(), String::from_utf8_lossy(&command)));
        }
    }
    found
}

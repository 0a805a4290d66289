//! What several tests need.

use std::path::Path;
use std::process::{Command, Output};

use postern_cluster::programs::Program;

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

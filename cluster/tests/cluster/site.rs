//! A cluster with the image of `cargo xtask image` on its nodes, and two pods on two nodes, of which one asks the other.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use postern_cluster::cluster::Cluster;
pub(crate) use postern_cluster::cluster::Options;
use postern_cluster::programs::Program;
use postern_cluster::relay::Relay;
use serde_json::json;

use crate::support::{kubectl, kubectl_ok};

/// How long a change may take until it shows.
const PATIENCE: Duration = Duration::from_secs(30);

/// For commands that wait longer than a request may take.
const NO_LIMIT: &str = "--request-timeout=0";

/// A running cluster.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    relay: Relay,
}

impl Site {
    /// Brings up a cluster, with Postern's image.
    pub(crate) fn with(options: &Options) -> Self {
        let image = image();
        let mut cluster = Cluster::up(options, |_| ControlFlow::Continue(())).unwrap();
        cluster.import_image(&image).unwrap();
        let relay = cluster.control().relay().unwrap();
        Self { cluster, relay }
    }

    /// Brings everything up but Postern.
    pub(crate) fn up() -> Self {
        let mut site = Self::with(&options());
        let serve = "socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo hello'";
        site.run("server", 0, serve);
        site.run("client", 1, "sleep 3600");
        site.wait_for_pods("default");
        site
    }

    /// Waits until all pods of a namespace are ready.
    pub(crate) fn wait_for_pods(&self, namespace: &str) {
        let wait = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s", NO_LIMIT];
        self.ok(&[&["--namespace", namespace], &wait[..]].concat());
    }

    /// kubectl apply of a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let mut command = Command::new(Program::Kubectl.path().unwrap());
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(["apply", "--filename=-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn run(&mut self, name: &str, node: usize, script: &str) {
        let spec = json!({ "spec": {
            "nodeName": self.cluster.nodes()[node].name(), "terminationGracePeriodSeconds": 0,
        } });
        let (overrides, image) = (format!("--overrides={spec}"), "--image=postern.test/netshoot:1");
        self.ok(&["run", name, image, &overrides, "--command", "--", "sh", "-c", script]);
    }

    /// The kubeconfig of an administrator.
    pub(crate) fn kubeconfig(&self) -> &Path {
        self.relay.kubeconfig()
    }

    /// kubectl, when it has to work.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        kubectl_ok(self.kubeconfig(), arguments)
    }

    /// kubectl apply or delete of a kustomization in deploy/.
    pub(crate) fn kustomize(&self, verb: &str, folder: &str) {
        let folder = crate::deploy::deploy("kustomize").join(folder);
        self.ok(&[verb, "--kustomize", folder.to_str().unwrap(), NO_LIMIT]);
    }

    /// Deletes a DaemonSet of the namespace postern, and waits until its pods are gone.
    pub(crate) fn delete_daemonset(&self, name: &str) {
        let arguments =
            ["--namespace=postern", "delete", "daemonset", name, "--cascade=foreground", NO_LIMIT];
        self.ok(&arguments);
    }

    /// Waits until a DaemonSet of the namespace postern runs everywhere, as it is wanted now.
    pub(crate) fn rolled_out(&self, name: &str) {
        let daemonset = format!("daemonset/{name}");
        let arguments = ["--namespace=postern", "rollout", "status", &daemonset, "--timeout=120s", NO_LIMIT];
        let output = kubectl(self.kubeconfig(), &arguments);
        assert!(output.status.success(), "{name}: {output:?}\n{}", self.described(name));
    }

    /// What there is to know about a DaemonSet that does not do what it should.
    pub(crate) fn described(&self, name: &str) -> String {
        let selector = format!("--selector=app.kubernetes.io/name={name}");
        let ask = |arguments: &[&str]| {
            let arguments = [&["--namespace=postern"], arguments, &[&selector]].concat();
            String::from_utf8_lossy(&kubectl(self.kubeconfig(), &arguments).stdout).into_owned()
        };
        ask(&["describe", "pods"]) + &ask(&["logs", "--prefix", "--tail=50", "--all-containers"])
    }

    /// Whether the client reaches the server. It tries three times: on a busy machine, what nobody drops may take more than the second
    /// that it has.
    pub(crate) fn reaches(&self) -> bool {
        (0..3).any(|_| self.reaches_at_once())
    }

    fn reaches_at_once(&self) -> bool {
        let address = self.ok(&["get", "pod", "server", "--output=jsonpath={.status.podIP}"]);
        let ask = format!("socat -T2 - TCP:{address}:8080,connect-timeout=1 < /dev/null");
        let output = kubectl(self.kubeconfig(), &["exec", "client", "--", "sh", "-c", &ask]);
        let reaches = String::from_utf8_lossy(&output.stdout).contains("hello");
        if !reaches {
            println!("the client got no answer: {output:?}");
        }
        reaches
    }

    /// Waits until the client reaches the server, or does not any more.
    pub(crate) fn wait_until_reaches(&self, expected: bool, when: &str) {
        eventually(when, || self.reaches() == expected);
    }

    /// Runs something with a node's mounts.
    pub(crate) fn on_node(&self, node: usize, command: &[&str]) -> Output {
        let init = self.cluster.nodes()[node].init().unwrap().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &init, "--mount", "--net", "--"]).args(command).output().unwrap()
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Two nodes, and no names.
pub(crate) fn options() -> Options {
    Options::new(env!("CARGO_BIN_EXE_postern-cluster").into())
}

/// The image, of the sources as they are.
fn image() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postern-image.tar");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["xtask", "image", "--dev", "--target", std::env::consts::ARCH, "--output"])
            .arg(&archive);
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        archive
    };
    IMAGE.get_or_init(make).clone()
}

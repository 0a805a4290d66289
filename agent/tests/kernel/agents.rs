//! Real agents, on nodes of a test's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postern::control::{self, Request, Status};

use crate::pod_netns::PodNetns;
use crate::removal::Pins;

/// How long something may take to become so.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running agent.
pub(crate) struct Agent {
    child: Child,
    socket: PathBuf,
    _pins: Pins,
    _folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    /// Starts one for `node-a`, with pins called so, in the calling thread's namespaces.
    pub(crate) fn start(name: &str, manifests: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
        let (pins, socket) = (Pins::new(name), folder.path().join("postern.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["agent", "--node", "node-a", "--manifests"]).arg(folder.path()).args(arguments);
        command.arg("--bpffs-dir").arg(&pins.0).arg("--socket").arg(&socket).args(["--http-address", "off"]);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        Self { child, socket, _pins: pins, _folder: folder }
    }

    /// What it says of itself, once that is so.
    pub(crate) fn wait_for(&self, is_so: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = control::ask(&self.socket, Request::Status);
            match status {
                Ok(status) if is_so(&status) => return status,
                status => assert!(Instant::now() < deadline, "never so: {status:?}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `postern status` prints.
    pub(crate) fn printed(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        let output = command.arg("status").arg("--socket").arg(&self.socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// How many packets were dropped under a reason.
pub(crate) fn dropped(status: &Status, direction: &str, reason: &str) -> u64 {
    let packets = status.packets.iter().filter(|it| it.direction == direction && it.reason == reason);
    packets.map(|it| it.packets).sum()
}

/// Runs a command in the calling thread's namespaces; returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two pods of a node that forwards between them: `web`, 10.9.1.2 behind `veth-1`, and another, 10.9.2.2 behind `veth-2`.
pub(crate) fn route(pods: &[PodNetns]) {
    sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    for (pod, node) in pods.iter().zip(["10.9.1.1", "10.9.2.1"]) {
        pod.within(|| sh(&format!("ip route add default via {node}")));
    }
}

/// A namespace, and the pod `web` in it; whatever policy is beside it is each test's.
pub(crate) const WEB: &str = "
apiVersion: v1
kind: Node
metadata: { name: node-a }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop }
spec: { nodeName: node-a, containers: [{ name: web, image: web }] }
status: { phase: Running, podIPs: [{ ip: 10.9.1.2 }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
";

//! What becomes of an agent whose log nobody can take: it goes on, and says later what was lost.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use postern::control::{self, Request, Status};

use crate::pod_netns::{PodNetns, enter_node};
use crate::removal::Pins;

const PATIENCE: Duration = Duration::from_mins(1);

const DENIED: &str = "
apiVersion: v1
kind: Node
metadata: { name: node-a }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop }
spec: { nodeName: node-a, containers: [{ name: web, image: web }] }
status: { phase: Running, podIPs: [{ ip: 10.9.1.2 }] }
";

/// Makes the pod isolated or not, under a name: each time is a change that is logged.
fn policy(number: u32) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: deny-{number}, namespace: shop }}
spec: {{ podSelector: {{}}, policyTypes: [Ingress, Egress] }}
"
    )
}

struct Agent {
    child: Child,
    socket: PathBuf,
    folder: tempfile::TempDir,
    _pins: Pins,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start(name: &str, stderr: impl Into<Stdio>, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("manifests")).unwrap();
        std::fs::write(folder.path().join("manifests/all.yaml"), DENIED).unwrap();
        let (pins, socket) = (Pins::new(name), folder.path().join("postern.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["agent", "--node", "node-a", "--http-address", "off"]).args(flags);
        command.arg("--bpffs-dir").arg(&pins.0).arg("--socket").arg(&socket);
        command.arg("--manifests").arg(folder.path().join("manifests"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { child, socket, folder, _pins: pins }
    }

    fn change(&self, number: u32) {
        let manifests = self.folder.path().join("manifests");
        std::fs::write(manifests.join(".new"), policy(number)).unwrap();
        std::fs::rename(manifests.join(".new"), manifests.join("policy.yaml")).unwrap();
    }

    fn until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            match control::ask(&self.socket, Request::Status) {
                Ok(status) if wanted(&status) => return status,
                answer => last = Some(answer),
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended ({ended:?}) before it was {what}");
            thread::sleep(Duration::from_millis(20));
        }
        panic!("not {what} in time: {last:?}");
    }

    /// The exit code, once it was told to stop.
    fn stop(&mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(ended) = self.child.try_wait().unwrap() {
                return ended.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the agent does not stop");
    }
}

fn on_node(test: impl FnOnce() + Send) {
    let node = || {
        enter_node();
        let address = |last: u8| IpAddr::from([10, 9, 1, last]);
        let _pod = PodNetns::create("veth-web", &[address(2)], &[address(1)]);
        test();
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

/// Enforces, and stops as it does else.
fn goes_on(agent: &mut Agent) {
    agent.until("up", |status| status.ready);
    agent.change(1);
    agent.until("enforcing", |status| status.ready && status.endpoints.len() == 1);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_full_disk_does_not_end_the_agent() {
    on_node(|| {
        let full = File::options().write(true).open("/dev/full").unwrap();
        goes_on(&mut Agent::start("full", full, &[]));
    });
}

#[test]
fn a_log_reader_that_is_gone_does_not_end_the_agent() {
    on_node(|| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        goes_on(&mut Agent::start("gone", writer, &[]));
    });
}

#[test]
fn a_log_reader_that_reads_nothing_does_not_stop_the_agent() {
    on_node(|| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mut agent = Agent::start("unread", writer, &["--log-level", "trace"]);
        agent.until("up", |status| status.ready);
        // What the agent keeps for the reader is bounded, too.
        let mut number = 0;
        let lost = loop {
            number += 1;
            agent.change(number);
            let status = agent.until("enforcing", |status| status.ready && status.endpoints.len() == 1);
            if status.log_lines_lost > 0 {
                break status.log_lines_lost;
            }
            assert!(number < 5_000, "nothing is lost");
        };
        assert!(lost > 0);
        // Somebody reads again.
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            let _ = reader.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        thread::sleep(Duration::from_millis(200));
        agent.change(0);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(agent.stop(), Some(0));
        let said = said.join().unwrap();
        assert!(said.contains("log lines were lost"), "{}", &said[said.len().saturating_sub(2000)..]);
        assert!(
            said.contains("agent stops; what is enforced stays enforced"),
            "it is not flushed at the end"
        );
    });
}

/// What the agent says to these flags, with this environment, until it ends by itself.
fn refused(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(["agent", "--node", "n", "--socket", "/nowhere/s", "--bpffs-dir", "/nowhere/b"]).args(flags);
    command.args(["--http-address", "off", "--manifests", "/nowhere/m"]);
    command.env_remove("RUST_LOG").envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn levels_that_are_none_are_refused_wherever_they_stand() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "log-level: loud\n").unwrap();
    let config = file.path().to_str().unwrap();
    let cases = [
        (refused(&["--log-level", "loud"], &[]), 2),
        (refused(&[], &[("RUST_LOG", "loud")]), 2),
        (refused(&["--config", config], &[]), 1),
    ];
    for (number, (output, code)) in cases.into_iter().enumerate() {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "case {number}: {said}");
        assert!(said.contains("\"loud\" is no level"), "case {number}: {said}");
    }
}

#[test]
fn commands_end_well_without_a_reader_and_say_that_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), policy(1)).unwrap();
    let matrix = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["matrix", "-o", "json", "-f"]).arg(folder.path()).stdout(stdout).output().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = matrix(writer.into());
    assert!(gone.status.success() && gone.stderr.is_empty(), "{gone:?}");
    let full = matrix(File::options().write(true).open("/dev/full").unwrap().into());
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output") && !said.contains("panicked"), "{said}");
}

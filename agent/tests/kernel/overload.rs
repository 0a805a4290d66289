//! A real agent whose connections others hold open and say nothing on: it goes on enforcing, and goes on answering.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postern::control::{self, Request, Status};

use crate::pod_netns::{PodNetns, enter_node};
use crate::removal::Pins;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Port of `/readyz`: each node has addresses of its own.
const HTTP: u16 = 9474;

/// More than the agent may have descriptors.
const SILENT: usize = 200;
const NOFILE: usize = 128;

fn manifests(pods: &[u8]) -> String {
    let shared = "
apiVersion: v1
kind: Node
metadata: { name: node-a }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny-all, namespace: shop }
spec: { podSelector: {}, policyTypes: [Ingress, Egress] }
";
    let pods = pods.iter().map(|pod| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: pod-{pod}, namespace: shop }}
spec: {{ nodeName: node-a, containers: [{{ name: c, image: i }}] }}
status: {{ phase: Running, podIPs: [{{ ip: 10.9.{pod}.2 }}] }}
"
        )
    });
    std::iter::once(shared.to_owned()).chain(pods).collect()
}

/// An agent on a node of its own.
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
    /// Starts one in the calling thread's network namespace, after `ulimit` with these words.
    fn start(name: &str, limit: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pins, socket) = (Pins::new(name), folder.path().join("postern.sock"));
        std::fs::create_dir(folder.path().join("manifests")).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit {limit}; exec \"$@\"")).arg("sh");
        command.arg(env!("CARGO_BIN_EXE_postern")).args(["agent", "--node", "node-a"]);
        command.arg("--socket").arg(&socket).arg("--bpffs-dir").arg(&pins.0);
        command.arg("--manifests").arg(folder.path().join("manifests"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut this = Self { child, socket, folder, _pins: pins };
        this.has(&[1]);
        this.until("ready", |status| status.ready && status.endpoints.len() == 1);
        this
    }

    /// Gives it these pods.
    fn has(&mut self, pods: &[u8]) {
        let manifests = self.folder.path().join("manifests");
        std::fs::write(manifests.join(".new"), self::manifests(pods)).unwrap();
        std::fs::rename(manifests.join(".new"), manifests.join("all.yaml")).unwrap();
    }

    fn until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            match control::ask(&self.socket, Request::Status) {
                Ok(status) if wanted(&status) => return status,
                answer => last = Some(answer),
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the agent ended before it was {what}");
            thread::sleep(Duration::from_millis(20));
        }
        panic!("not {what} in time: {last:?}");
    }

    /// How many descriptors it has.
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

/// Runs a test as a node of its own with a loopback device and one pod.
fn on_node(test: impl FnOnce() + Send) {
    let node = || {
        enter_node();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let _pod = pod(1);
        test();
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

fn pod(number: u8) -> PodNetns {
    let address = |last: u8| IpAddr::from([10, 9, number, last]);
    PodNetns::create(&format!("veth-{number}"), &[address(2)], &[address(1)])
}

fn http() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, HTTP).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks as kubelet does. What it says about the connection is its own business.
fn readyz() -> std::io::Result<String> {
    let mut stream = http()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn silent_connections_take_nothing_from_enforcement() {
    on_node(|| {
        let mut agent = Agent::start("overload", &format!("-n {NOFILE}"));
        let before = agent.descriptors();
        let silent: Vec<TcpStream> = (0..SILENT).map_while(|_| http().ok()).collect();
        assert!(silent.len() > NOFILE, "{}", silent.len());
        let mut unread = Vec::new();
        for number in 0..SILENT {
            // The backlog may be full for a moment.
            let Ok(mut stream) = UnixStream::connect(&agent.socket) else { continue };
            stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
            if number % 2 == 0 {
                // Asks for more than it will ever read.
                while stream.write_all(b"{\"request\":\"status\"}\n").is_ok() && number == 0 {}
            }
            unread.push(stream);
        }
        thread::sleep(Duration::from_millis(300));
        let held = agent.descriptors();
        assert!(held < NOFILE * 3 / 4, "{before} descriptors before, {held} now");

        let _second = pod(2);
        agent.has(&[1, 2]);
        let status = agent.until("enforcing the new pod", |status| status.endpoints.len() == 2);
        assert!(status.ready, "{status:?}");
        let answer = readyz().unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");

        drop((silent, unread));
        let deadline = Instant::now() + PATIENCE;
        while agent.descriptors() > before + 6 {
            assert!(Instant::now() < deadline, "{before} descriptors before, {} now", agent.descriptors());
            thread::sleep(Duration::from_millis(20));
        }
        agent.has(&[1]);
        // What was the second pod's veth keeps its policy until it goes.
        agent.until("as it was", |status| {
            status.ready && status.endpoints.iter().filter(|it| !it.departed).count() == 1
        });
        assert!(readyz().unwrap().ends_with("ok\n"));
    });
}

#[test]
fn silent_connections_end() {
    on_node(|| {
        let _agent = Agent::start("silent", "-n 1024");
        for said in ["", "GET /readyz HT", "GET /livez HTTP/1.1\r\nHost: node\r\n\r\n"] {
            let mut stream = http().unwrap();
            stream.write_all(said.as_bytes()).unwrap();
            let begin = Instant::now();
            // To the end: it closes what stays silent.
            let ended = stream.read_to_end(&mut Vec::new());
            assert!(ended.is_ok() && begin.elapsed() < PATIENCE, "{said:?}: {ended:?}");
        }
    });
}

#[test]
fn the_agent_takes_the_descriptors_that_it_may_have() {
    on_node(|| {
        let agent = Agent::start("limit", "-Sn 100; ulimit -Hn 500");
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.child.id())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["500", "500"]);
    });
}

//! The capabilities that the reduced deployment gives the agent (deploy/kustomize/reduced, docs/install/security.md): with
//! these it enforces, and without any one of them it does not start.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use caps::{CapSet, Capability};
use postern::control::{self, Request, Status};
use postern::datapath::attach::{self, Mode};
use postern::datapath::object::{self, GUARD, Settings};
use postern::privileges::NEEDED;

use crate::agents::WEB;
use crate::pod_netns::{PodNetns, enter_node};
use crate::removal::Pins;

/// How long an agent may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// What makes [`WEB`] a pod that may neither send nor receive.
const DENIED: &str = "spec: { podSelector: {}, policyTypes: [Ingress, Egress] }\n";

/// An agent on a node of its own.
struct Agent {
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
    /// Starts one, with pins called so, in the calling thread's network namespace, with no more than the thread's capabilities.
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), format!("{WEB}{DENIED}")).unwrap();
        let (pins, socket) = (Pins::new(name), folder.path().join("postern.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["agent", "--node", "node-a", "--manifests"]).arg(folder.path());
        command.arg("--bpffs-dir").arg(&pins.0).arg("--socket").arg(&socket).args(["--http-address", "off"]);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        Self { child, socket, _pins: pins, _folder: folder }
    }

    /// Waits until it is ready. None: it ended instead.
    fn ready(&mut self) -> Option<Status> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(status) = control::ask(&self.socket, Request::Status)
                && status.ready
            {
                return Some(status);
            }
            if self.child.try_wait().unwrap().is_some() {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "the agent neither becomes ready nor ends: {:?}",
            control::ask(&self.socket, Request::Status).map(|status| status.errors)
        );
    }

    /// What it wrote until it ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

/// Runs a test as a node of its own with the pod of [`DENIED`], with nothing but these capabilities from then on.
fn with(capabilities: &[Capability], test: impl FnOnce(&PodNetns) + Send) {
    let node = || {
        enter_node();
        let address = |last: u8| IpAddr::from([10, 9, 1, last]);
        let pod = PodNetns::create("veth-web", &[address(2)], &[address(1)]);
        // Somebody else's program where the agent looks for how to attach: opening it would take CAP_SYS_ADMIN.
        let mut others = object::load(None, Settings::default()).unwrap();
        if attach::probe() == Mode::Tcx {
            object::program(&mut others, GUARD).unwrap().attach("lo", TcAttachType::Ingress).unwrap();
        }
        // Of this thread, and of what it starts: root's permitted set is what the bounding set leaves it (capabilities(7)).
        for capability in caps::all().into_iter().filter(|it| !capabilities.contains(it)) {
            caps::drop(None, CapSet::Bounding, capability).unwrap();
        }
        test(&pod);
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

#[test]
fn the_agent_enforces_with_the_capabilities_it_is_given() {
    with(&NEEDED, |pod| {
        let mut agent = Agent::start("given");
        let Some(status) = agent.ready() else { panic!("the agent ended: {}", agent.said()) };
        assert_eq!(status.endpoints.len(), 1, "{status:?}");
        assert_eq!(status.attach, format!("{:?}", attach::probe()).to_lowercase());
        pod.within(|| {
            let route = ["route", "add", "default", "via", "10.9.1.1"];
            assert!(Command::new("ip").args(route).status().unwrap().success());
            let socket = std::net::UdpSocket::bind("10.9.1.2:0").unwrap();
            socket.send_to(b"out", "192.0.2.1:9").unwrap();
        });
        let deadline = Instant::now() + PATIENCE;
        let denied = || {
            let packets = control::ask(&agent.socket, Request::Status).unwrap().packets;
            packets.iter().any(|it| it.dropped && it.reason == "denied-by-policy" && it.packets > 0)
        };
        while !denied() {
            assert!(Instant::now() < deadline, "the pod's packet is not denied");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(status.programs, "loaded");
        drop(agent);
        // Opening pins takes no more.
        let mut agent = Agent::start("given");
        let Some(status) = agent.ready() else { panic!("the agent ended: {}", agent.said()) };
        assert_eq!(status.programs, "reused");
    });
}

#[test]
fn it_needs_each_of_them() {
    for missing in NEEDED {
        let others: Vec<Capability> = NEEDED.into_iter().filter(|it| *it != missing).collect();
        with(&others, |_| {
            let mut agent = Agent::start(&missing.to_string());
            assert!(
                agent.ready().is_none(),
                "the agent does not need {missing}: take it out of the manifests"
            );
            let said = agent.said();
            assert!(said.contains(&format!("this process lacks {missing}: run it as root")), "{said}");
        });
    }
}

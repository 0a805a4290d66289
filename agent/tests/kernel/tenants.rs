//! What one tenant's policies take, no other tenant lacks: real agents on a node with a pod of each.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postern::control::{self, Request, Status};
use postern::datapath::maps::Maps;
use postern::datapath::{object, pins, tables};
use postern_common::verdict::{MAX_PORT_PAGES, PortPage, PortPageKey};
use postern_policy::model::Protocol;
use postern_policy::{ClassId, PeerClass, PortSet};

use crate::pod_netns::{PodNetns, enter_node};
use crate::removal::Pins;

const PATIENCE: Duration = Duration::from_mins(1);

/// An agent, and what it is told.
struct Agent {
    child: Child,
    socket: PathBuf,
    pins: Pins,
    folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A namespace with one pod.
fn tenant(name: &str, address: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{ name: {name} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: web, namespace: {name} }}
spec: {{ nodeName: node-a, containers: [{{ name: web, image: web }}] }}
status: {{ phase: Running, podIPs: [{{ ip: {address} }}] }}
---
"
    )
}

/// A policy of these rules, each from a block of its own: ranges of ports.
fn policy(
    namespace: &str,
    name: &str,
    rules: usize,
    ranges: impl Fn(usize) -> Vec<(usize, usize)>,
) -> String {
    let mut yaml = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  podSelector: {{}}\n  ingress:\n"
    );
    for number in 0..rules {
        let (high, low) = (number / 256, number % 256);
        write!(yaml, "  - from: [{{ ipBlock: {{ cidr: 10.{}.{low}.0/24 }} }}]\n    ports: [", 100 + high)
            .unwrap();
        for (first, last) in ranges(number) {
            write!(yaml, "{{ port: {first}, endPort: {last} }}, ").unwrap();
        }
        yaml.push_str("]\n");
    }
    yaml
}

impl Agent {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = "apiVersion: v1\nkind: Node\nmetadata: { name: node-a }\n---\n";
        let tenants = [tenant("bad", "10.9.1.2"), tenant("good", "10.9.2.2")].concat();
        std::fs::write(folder.path().join("pods.yaml"), format!("{node}{tenants}")).unwrap();
        let (pins, socket) = (Pins::new(name), folder.path().join("postern.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["agent", "--node", "node-a", "--manifests"]).arg(folder.path());
        command.arg("--bpffs-dir").arg(&pins.0).arg("--socket").arg(&socket).args(["--http-address", "off"]);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        Self { child, socket, pins, folder }
    }

    fn write(&self, name: &str, yaml: &str) {
        // Whole or not at all, as editors do.
        let (draft, file) = (self.folder.path().join("draft"), self.folder.path().join(name));
        std::fs::write(&draft, yaml).unwrap();
        std::fs::rename(draft, file).unwrap();
    }

    fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            if let Ok(status) = control::ask(&self.socket, Request::Status) {
                if holds(&status) {
                    return status;
                }
                last = Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: {last:#?}");
    }

    fn maps(&self) -> Maps {
        Maps::open(&object::map_folder(&pins::here(&self.pins.0).unwrap())).unwrap()
    }

    /// Whether a TCP port of a pod is open to a block of its policy.
    fn is_open(&self, status: &Status, pod: &str, port: u16) -> bool {
        let maps = self.maps();
        let endpoint = status.endpoints.iter().find(|it| it.pod.as_deref() == Some(pod));
        let class = maps.endpoints.get(&endpoint.unwrap().ifindex, 0).unwrap().ingress_class;
        let verdicts = tables::read_verdicts(&maps).unwrap();
        let mut verdicts = verdicts.range((ClassId(class), PeerClass(0))..(ClassId(class + 1), PeerClass(0)));
        verdicts.any(|(_, ports): (_, &PortSet)| ports.allows(Protocol::Tcp, port))
    }
}

/// Runs a test on a node of its own, with the pods of two tenants.
fn on_node(test: impl FnOnce() + Send) {
    let node = || {
        enter_node();
        let _pods = [1, 2].map(|number| {
            let address = |last: u8| IpAddr::from([10, 9, number, last]);
            PodNetns::create(&format!("veth-{number}"), &[address(2)], &[address(1)])
        });
        test();
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

/// Fifteen wide ranges, of other ports for each rule.
fn wide(number: usize) -> Vec<(usize, usize)> {
    (0..15).map(|range| (range * 4_000 + 1_000 + number, range * 4_000 + 4_500 + number)).collect()
}

/// Fifteen ranges that do not fill a page.
fn narrow(number: usize) -> Vec<(usize, usize)> {
    (0..15).map(|range| (range * 4_000 + 1_000 + number, range * 4_000 + 1_001 + number)).collect()
}

fn small(port: usize) -> String {
    policy("good", "small", 1, |_| vec![(port, port)])
}

#[test]
fn a_tenant_with_many_ranges_costs_no_other_tenant_anything() {
    on_node(|| {
        let agent = Agent::start("tenants-budget");
        agent.until("an agent starts", |status| status.ready);
        agent.write("good.yaml", &small(80));
        // The issue's: 120 rules of fifteen ranges are no burden.
        agent.write("bad.yaml", &policy("bad", "wide", 120, wide));
        agent.until("wide ranges", |status| status.ready && status.endpoints.len() == 2);
        let pages = agent.maps().port_pages.keys().count();
        assert!(pages <= 120 * 31, "{pages} pages for 120 times fifteen ranges");

        // Ten times as many are.
        agent.write("bad.yaml", &policy("bad", "hostile", 1_200, narrow));
        let says =
            |status: &Status| status.errors.iter().any(|error| error.contains("NetworkPolicy bad/hostile"));
        let status =
            agent.until("a policy beyond its budget", |status| says(status) && status.endpoints.len() == 2);
        assert!(!status.ready);
        agent.write("good.yaml", &small(81));
        let changed =
            |status: &Status| agent.is_open(status, "good/web", 81) && !agent.is_open(status, "good/web", 80);
        let status = agent.until("the other tenant's change", changed);
        assert!(says(&status) && !status.ready);
        assert!(!agent.is_open(&status, "bad/web", 1_000));

        agent.write("bad.yaml", &policy("bad", "hostile", 1, narrow));
        agent.until("a smaller policy", |status| status.ready && agent.is_open(status, "bad/web", 1_000));
    });
}

#[test]
fn full_maps_cut_nobody_off() {
    on_node(|| {
        let agent = Agent::start("tenants-full");
        agent.until("an agent starts", |status| status.ready);
        agent.write("good.yaml", &small(80));
        agent.write("bad.yaml", &policy("bad", "small", 1, |_| vec![(80, 80)]));
        agent.until("two policies", |status| status.ready && status.endpoints.len() == 2);
        let mut maps = agent.maps();
        for number in 0..MAX_PORT_PAGES {
            let port_set = u32::MAX - u32::try_from(number).unwrap();
            maps.port_pages
                .insert(PortPageKey { port_set, ..PortPageKey::default() }, PortPage::default(), 0)
                .unwrap();
        }
        // There is no room for any page. Both have what they had, or less where the policy that needs room says so.
        agent.write("bad.yaml", &policy("bad", "hostile", 1, narrow));
        let says =
            |status: &Status| status.errors.iter().any(|error| error.contains("NetworkPolicy bad/hostile"));
        let status = agent.until("a full map", says);
        assert!(!status.ready && agent.is_open(&status, "good/web", 80));
        agent.write("good.yaml", &small(81));
        agent.until("the other tenant's change", |status| agent.is_open(status, "good/web", 81));
    });
}

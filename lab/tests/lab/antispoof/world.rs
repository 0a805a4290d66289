//! Two pods that lie about who they are, their neighbours, and a host outside that hears them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use serde_json::{Value, json};

use crate::inside::{PATIENCE, command, external, node, pod};
use crate::manifests::{Cluster, PodSpec};

/// A pod that sends from addresses that are not its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liar {
    pub(super) id: &'static str,
    pub(super) node: &'static str,
    own: [&'static str; 2],
    neighbours: [&'static str; 2],
}

pub(super) const LIARS: [Liar; 2] = [
    Liar {
        id: "shop/liar-a",
        node: "node-a",
        own: ["10.1.1.2", "fd00:1::2"],
        neighbours: ["10.1.1.3", "fd00:1::3"],
    },
    Liar {
        id: "shop/liar-b",
        node: "node-b",
        own: ["10.1.2.2", "fd00:2::2"],
        neighbours: ["10.1.2.3", "fd00:2::3"],
    },
];

/// Addresses that no pod has, on the network of the bridge.
pub(super) const NOBODY: [&str; 2] = ["10.1.1.77", "fd00:1::77"];

/// The host outside, which hears datagrams here.
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];
const SINK: u16 = 9_999;

impl Liar {
    pub(super) fn own(&self) -> Vec<&'static str> {
        self.own.to_vec()
    }

    pub(super) fn neighbours(&self) -> Vec<&'static str> {
        self.neighbours.to_vec()
    }

    /// Puts addresses on the pod's interface, as a pod with `CAP_NET_ADMIN` can.
    pub(super) fn take_on(&self, lab: &Lab, addresses: &[&str]) {
        for address in addresses {
            let flags = if address.contains(':') { "nodad" } else { "" };
            command(pod(lab, self.id), &format!("ip address replace {address} dev eth0 {flags}"));
        }
    }
}

/// `node-a` has a bridge, `node-b` routes; nothing isolates anybody.
pub(super) fn world() -> Cluster {
    let mut cluster = Cluster::default()
        .lab(&format!(
            "nodes: [{{name: node-a, style: bridge}}, {{name: node-b, style: ptp}}]\n\
             externals: [{{name: outside, ips: [{}, \"{}\"], ports: [{{port: 443, protocol: UDP}}]}}]\n",
            OUTSIDE[0], OUTSIDE[1]
        ))
        .namespace("shop", &[]);
    for liar in LIARS {
        let near = liar.id.replace("shop/liar", "near");
        for (name, ips) in [(liar.id.trim_start_matches("shop/"), liar.own), (&near, liar.neighbours)] {
            let labels: &[_] = if name == near { &[] } else { &[("role", "liar")] };
            let (ports, node) = (&[(80, "TCP"), (53, "UDP")][..], liar.node);
            cluster = cluster.pod(&PodSpec { name, namespace: "shop", node, ips: &ips, labels, ports });
        }
    }
    cluster
}

/// The liars are isolated both ways, and everything is allowed: what does not pass is spoofed.
pub(super) fn all_allowed(cluster: Cluster) -> Cluster {
    let spec = json!({
        "podSelector": { "matchLabels": { "role": "liar" } }, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{}], "egress": [{}]
    });
    cluster.policy("shop", "allow", &spec)
}

/// The liars are exempt.
pub(super) fn opted_out(mut cluster: Cluster) -> Cluster {
    for liar in LIARS {
        annotate(&mut cluster, &liar.id.replace("shop/", "pod-shop-"), &json!("off"));
    }
    cluster
}

pub(super) fn annotate(cluster: &mut Cluster, file: &str, value: &Value) {
    let mut object: Value = serde_json::from_slice(&cluster.0[&format!("{file}.json")]).unwrap();
    object["metadata"]["annotations"] = json!({ "postern.dev/antispoof": value });
    cluster.put(file, &object);
}

pub(super) fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// The host outside's address of the family of another one.
pub(super) fn outside(like: &str, port: u16) -> SocketAddr {
    let [v4, v6] = OUTSIDE;
    SocketAddr::new(if like.contains(':') { v6 } else { v4 }.parse().unwrap(), port)
}

/// Which of these addresses of its interface a pod is heard under by the host outside.
pub(super) fn arrive(lab: &Lab, liar: &Liar, sources: &[&str]) -> BTreeSet<IpAddr> {
    let sinks = OUTSIDE.map(|address| {
        let sink =
            external(lab, "outside").within(|| UdpSocket::bind(outside(address, SINK))).unwrap().unwrap();
        sink.set_nonblocking(true).unwrap();
        sink
    });
    let senders: Vec<(UdpSocket, SocketAddr)> = pod(lab, liar.id)
        .within(|| {
            let sender = |source: &&str| {
                let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
                (socket, outside(source, SINK))
            };
            sources.iter().map(sender).collect()
        })
        .unwrap();
    let mut heard = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while heard.len() < sources.len() && Instant::now() < deadline {
        for (socket, to) in &senders {
            // A neighbour that does not answer makes this fail.
            let _ = socket.send_to(b"whoever", to);
        }
        std::thread::sleep(Duration::from_millis(20));
        for sink in &sinks {
            while let Ok((_, from)) = sink.recv_from(&mut [0; 16]) {
                heard.insert(from.ip());
            }
        }
    }
    heard
}

/// Every liar is heard under its own addresses, and under foreign ones if these pass.
pub(super) fn arrive_all(lab: &Lab, foreign_pass: bool, when: &str) {
    for liar in &LIARS {
        liar.take_on(lab, &NOBODY);
        let all = [&liar.own[..], &NOBODY].concat();
        let expected = if foreign_pass { all.clone() } else { liar.own() };
        assert_eq!(arrive(lab, liar, &all), set(&expected), "{when}: {liar:?}");
    }
}

/// A socket of a liar and one of the host outside, which know each other.
#[derive(Debug)]
pub(super) struct Talk {
    inside: UdpSocket,
    outside: UdpSocket,
}

impl Talk {
    pub(super) fn between(lab: &Lab, liar: &Liar, address: &str, port: u16) -> Self {
        let open = |netns: &Netns, at: SocketAddr, to: SocketAddr| {
            netns.within(|| {
                let socket = UdpSocket::bind(at).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
        };
        let (here, there) = (SocketAddr::new(address.parse().unwrap(), port), outside(address, port));
        Self {
            inside: open(pod(lab, liar.id), here, there).unwrap(),
            outside: open(external(lab, "outside"), there, here).unwrap(),
        }
    }

    /// Whether what the pod says is heard outside.
    pub(super) fn says(&self) -> bool {
        passes(&self.inside, &self.outside)
    }

    /// Whether what is said outside is heard by the pod.
    pub(super) fn is_answered(&self) -> bool {
        passes(&self.outside, &self.inside)
    }
}

fn passes(from: &UdpSocket, to: &UdpSocket) -> bool {
    from.send(b"word").is_ok() && to.recv(&mut [0; 16]).is_ok()
}

/// Starts the agents again with these flags, and waits for them.
pub(super) async fn with_flags(lab: &mut Lab, flags: &[&str]) {
    for agent in lab.agents_mut() {
        agent.restart_with(flags).await.unwrap();
    }
    lab.enforced().await.unwrap();
}

/// Packets of a node's pods that were dropped as spoofed.
pub(super) fn spoofed(lab: &Lab, node: &str) -> u64 {
    let status = lab.agent(node).unwrap().status().unwrap();
    let counted = status.packets.iter().filter(|it| it.reason == "spoofed" && it.direction == "egress");
    counted.map(|it| it.packets).sum()
}

/// What the agent says of the liar's veth: whether it is guarded. Nothing: it carries no program.
pub(super) fn veth(lab: &Lab, liar: &Liar) -> Option<bool> {
    let status = lab.agent(liar.node).unwrap().status().unwrap();
    status.endpoints.iter().find(|it| it.pod.as_deref() == Some(liar.id)).map(|it| it.guarded)
}

/// The host-side veths of a node.
pub(super) fn veths(lab: &Lab, name: &str) -> Vec<String> {
    let links = command(node(lab, name), "ip -o link show type veth");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    names.filter(|name| name.starts_with("veth")).map(str::to_owned).collect()
}

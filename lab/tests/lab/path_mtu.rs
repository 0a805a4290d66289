//! Path MTU discovery under deny-all: a router on the way says that packets are too big, and is heard.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_lab::lab::Lab;
use serde_json::json;

use crate::inside::{ask, ask_udp, command, connect, node, pod};
use crate::manifests::{Cluster, PodSpec, deny_all};
use crate::support::{run, up};

/// Of the last hop, between the other node and its pod: the pods see 1500 on their own links.
const MTU: &str = "1300";
const PODS: [(&str, &str, &str, [&str; 2]); 2] = [
    ("shop/a", "a", "node-a", ["10.1.1.2", "fd00:1::2"]),
    ("shop/b", "b", "node-b", ["10.1.2.2", "fd00:2::2"]),
];

fn pair() -> Cluster {
    let mut cluster = Cluster::default()
        .lab("nodes: [{name: node-a, style: bridge}, {name: node-b, style: ptp}]\n")
        .policy("shop", "deny", &deny_all());
    for (_, name, node, ips) in PODS {
        let spec = PodSpec {
            name,
            namespace: "shop",
            node,
            ips: &ips,
            labels: &[],
            ports: &[(80, "TCP"), (53, "UDP")],
        };
        cluster = cluster.pod(&spec);
    }
    let own = json!([{ "podSelector": {} }]);
    let policy = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": own, "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }],
        "egress": [{ "to": own, "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }]
    });
    cluster.policy("shop", "each-other", &policy)
}

/// Sets what fits on the way from a node to one of its pods, on the node's side alone.
fn set_mtu(lab: &Lab, name: &str, address: &str, mtu: &str) {
    let netns = node(lab, name);
    let route = command(netns, &format!("ip -o route get {address}"));
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    command(netns, &format!("ip link set dev {device} mtu {mtu}"));
}

fn learnt(lab: &Lab, from: &str, to: IpAddr) -> bool {
    command(pod(lab, from), &format!("ip -o route get {to}")).contains(&format!("mtu {MTU}"))
}

/// Both ends: the size that one knows goes into what it announces to the other.
fn forget(lab: &Lab, from: &str, to: IpAddr) {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    for (id, ..) in PODS {
        command(pod(lab, id), &format!("ip {family} route flush cache"));
    }
    assert!(!learnt(lab, from, to), "{from} -> {to}: forgotten");
}

#[test]
fn big_transfers_find_the_size_of_a_narrow_path() {
    run(async {
        let files = pair().0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let patience = Duration::from_secs(5);
        let [a, b] = PODS;
        for ((from, ..), (to, _, node, ips)) in [(a, b), (b, a)] {
            set_mtu(&lab, node, ips[0], MTU);
            for address in ips.map(|ip| ip.parse::<IpAddr>().unwrap()) {
                let inside = pod(&lab, from);
                forget(&lab, from, address);
                // The first datagram of this size is lost, and brings back what the path takes: the next ones come in
                // fragments. Then one that is in fragments anyhow.
                for length in [1400, 4000] {
                    let token = "x".repeat(length);
                    let to_dns = SocketAddr::new(address, 53);
                    let answered = ask_udp(inside, 0, to_dns, &token, patience);
                    assert!(answered, "{from} -> {to} {address}: {length} bytes");
                    assert!(learnt(&lab, from, address), "{from} -> {address}");
                }
                forget(&lab, from, address);
                let stream = connect(inside, SocketAddr::new(address, 80)).unwrap();
                let token = "y".repeat(300_000);
                let answer = ask(&stream, &token, patience).unwrap();
                assert!(answer.len() > token.len(), "{from} -> {to} {address}");
                assert!(learnt(&lab, from, address), "{from} -> {address}");
            }
            set_mtu(&lab, node, ips[0], "1500");
        }
    });
}

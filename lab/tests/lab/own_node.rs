//! A pod and its own node always reach each other, however isolated the pod is; a pod and another node do not.

use std::net::{IpAddr, SocketAddr, TcpListener};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;

use crate::inside::{PATIENCE, ask, ask_udp, connect, node, ping, pod};
use crate::manifests::{Cluster, PodSpec, deny_all};
use crate::support::{run, up};

const STYLES: [&str; 2] = [
    "nodes: [{name: node-a, style: bridge}, {name: node-b, style: ptp}]\n",
    "nodes: [{name: node-a, style: ptp}, {name: node-b, style: bridge}]\n",
];
/// Node, its pod, the pod's addresses, the gateway that the pod sees: an address of the node too.
const PODS: [(&str, &str, [&str; 2], &str); 2] = [
    ("node-a", "a", ["10.1.1.2", "fd00:1::2"], "10.1.1.1"),
    ("node-b", "b", ["10.1.2.2", "fd00:2::2"], "10.1.2.1"),
];
const PORT: u16 = 10_250;

fn isolated(lab: &str) -> Cluster {
    let mut cluster = Cluster::default().lab(lab).policy("shop", "deny", &deny_all());
    for (node, name, ips, _) in PODS {
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
    cluster
}

/// TCP, UDP and a ping, in that order. All at once: what is denied takes its time.
fn reach_pod(from: &Netns, address: IpAddr) -> [bool; 3] {
    std::thread::scope(|scope| {
        let tcp = scope.spawn(|| {
            let stream = connect(from, SocketAddr::new(address, 80));
            stream.is_some_and(|stream| ask(&stream, "node", PATIENCE).is_ok())
        });
        let udp = scope.spawn(|| ask_udp(from, 0, SocketAddr::new(address, 53), "node", PATIENCE));
        let ping = ping(from, address);
        [tcp.join().unwrap(), udp.join().unwrap(), ping]
    })
}

/// TCP to a port that a process of the node listens on, and a ping.
fn reach_node(from: &Netns, address: IpAddr) -> [bool; 2] {
    std::thread::scope(|scope| {
        let tcp = scope.spawn(|| connect(from, SocketAddr::new(address, PORT)).is_some());
        let ping = ping(from, address);
        [tcp.join().unwrap(), ping]
    })
}

fn addresses(lab: &Lab, name: &str, gateway: &str) -> Vec<IpAddr> {
    lab.topology().node_addresses(name).iter().copied().chain([gateway.parse().unwrap()]).collect()
}

#[test]
fn node_and_pod_reach_each_other_under_deny_all() {
    run(async {
        for style in STYLES {
            let files = isolated(style).0;
            let mut lab = up(&[&files]).await;
            lab.apply(&files).await.unwrap();
            let _listening = PODS.map(|(name, ..)| {
                let on = SocketAddr::from(([0; 16], PORT));
                node(&lab, name).within(|| TcpListener::bind(on)).unwrap().unwrap()
            });
            for (own, name, ips, gateway) in PODS {
                let inside = pod(&lab, &format!("shop/{name}"));
                for address in ips.map(|ip| ip.parse().unwrap()) {
                    for (other, ..) in PODS {
                        let reached = reach_pod(node(&lab, other), address);
                        assert_eq!(reached, [other == own; 3], "{style}{other} -> {name} {address}");
                    }
                }
                for (other, .., other_gateway) in PODS {
                    let gateway = if other == own { gateway } else { other_gateway };
                    for address in addresses(&lab, other, gateway) {
                        let reached = reach_node(inside, address);
                        assert_eq!(reached, [other == own; 2], "{style}{name} -> {other} {address}");
                    }
                }
            }
        }
    });
}

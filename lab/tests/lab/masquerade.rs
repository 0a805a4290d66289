//! What the node forwards under its own address is not its own: policy judges it as coming from that address.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use postern_lab::lab::Lab;
use serde_json::json;

use crate::inside::{PATIENCE, ask, ask_udp, command, connect, connect_from, external, node};
use crate::manifests::{Cluster, deny_all, small};
use crate::support::{run, up};

/// Node, its pod's address, the address that the node masquerades as: the first one of the way to the pod.
const WAYS: [(&str, &str, &str); 2] =
    [("node-a", "10.1.1.2", "10.1.1.1"), ("node-b", "10.1.2.2", "10.1.2.1")];
/// Something on the node listens here, and the host outside sends from here.
const PORT: u16 = 10_250;

fn denied() -> Cluster {
    small().policy("shop", "deny", &deny_all())
}

/// Whether the host outside reaches a pod, over TCP and UDP, and as whom it is seen.
fn reach(lab: &Lab, address: &str) -> (Option<String>, bool) {
    let outside = external(lab, "outside");
    let at = |port| SocketAddr::new(address.parse().unwrap(), port);
    let stream = connect_from(outside, PORT, at(80));
    let answer = stream.and_then(|stream| ask(&stream, "token", PATIENCE).ok());
    let seen_as = answer.and_then(|answer| answer.rsplit(' ').next().map(str::to_owned));
    (seen_as, ask_udp(outside, PORT, at(53), "token", PATIENCE))
}

#[test]
fn masqueraded_traffic_is_judged_as_the_address_it_shows() {
    run(async {
        let files = denied().0;
        let from_nodes = WAYS.map(|(_, _, shown)| json!({ "ipBlock": { "cidr": format!("{shown}/32") } }));
        let allowed = denied()
            .policy("shop", "nodes", &json!({ "podSelector": {}, "ingress": [{ "from": from_nodes }] }))
            .0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let mut listening = Vec::new();
        for (name, ..) in WAYS {
            let netns = node(&lab, name);
            command(netns, "nft add table ip lab");
            command(netns, "nft add chain ip lab post { type nat hook postrouting priority 100 ; }");
            command(netns, "nft add rule ip lab post ip saddr 203.0.113.9 masquerade");
            // Sockets of the node with the very port that the traffic comes from make no difference.
            let on = SocketAddr::from(([0; 4], PORT));
            listening.push(
                netns.within(|| (TcpListener::bind(on).unwrap(), UdpSocket::bind(on).unwrap())).unwrap(),
            );
        }
        for (name, address, _) in WAYS {
            assert_eq!(reach(&lab, address), (None, false), "{name} forwards");
            let own = connect(node(&lab, name), SocketAddr::new(address.parse().unwrap(), 80));
            assert!(own.is_some(), "{name} itself");
        }
        lab.apply(&allowed).await.unwrap();
        for (name, address, shown) in WAYS {
            assert_eq!(
                reach(&lab, address),
                (Some(shown.to_owned()), true),
                "{name} forwards, and is allowed"
            );
        }
    });
}

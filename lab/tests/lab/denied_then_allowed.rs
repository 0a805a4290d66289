//! What was denied while a label, or the peer itself, was away is allowed again when it is back, on the same ports too.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use serde_json::json;

use crate::inside::{ask, connect, pod};
use crate::manifests::{Cluster, PodSpec, small};
use crate::support::{run, up};

/// Long enough for a TCP segment to be sent again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a packet to arrive, where it does.
const SOON: Duration = Duration::from_millis(200);
const DB: &str = "shop/db";
const SERVER: &str = "10.1.2.2";

fn socket(lab: &Lab, id: &str, address: &str, port: u16) -> UdpSocket {
    let at = SocketAddr::new(address.parse().unwrap(), port);
    let socket = pod(lab, id).within(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Whether a question arrives, and its answer.
fn asks(client: &UdpSocket, server: &UdpSocket) -> bool {
    let mut buffer = [0; 64];
    // A late packet of an earlier question is none of this one.
    for socket in [client, server] {
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut buffer).is_ok() {}
        socket.set_nonblocking(false).unwrap();
    }
    client.send_to(b"question", server.local_addr().unwrap()).unwrap();
    let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
    server.send_to(b"answer", from).unwrap();
    client.recv(&mut buffer).is_ok()
}

fn relabelled(cluster: &Cluster, name: &str, node: &str, ip: &str) -> Cluster {
    let ports = &[(80, "TCP"), (53, "UDP")];
    let pod = PodSpec { name, namespace: "shop", node, ips: &[ip], labels: &[("app", "stranger")], ports };
    cluster.clone().pod(&pod)
}

#[test]
fn what_was_denied_meanwhile_is_not_dead() {
    run(async {
        let ingress = json!({
            "podSelector": { "matchLabels": { "app": "db" } },
            "ingress": [{ "from": [
                { "podSelector": { "matchLabels": { "app": "web" } } },
                { "namespaceSelector": { "matchLabels": { "tier": "other" } } }
            ] }]
        });
        let egress = json!({
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "db" } } }] }]
        });
        let (into, out) = (small().policy("shop", "db", &ingress), small().policy("shop", "web", &egress));
        let (web, client) = (("shop/web", "10.1.1.2"), ("other/client", "10.1.2.3"));
        let table = [
            ("pod relabelled", &into, relabelled(&into, "web", "node-a", web.1), web),
            ("namespace relabelled", &into, into.clone().namespace("other", &[("tier", "none")]), client),
            ("egress, receiver relabelled", &out, relabelled(&out, "db", "node-b", SERVER), web),
            ("pod made again", &into, into.clone().without("pod-shop-web"), web),
        ];
        let mut lab = up(&[&into.0, &out.0]).await;
        for (port, (what, base, away, (id, address))) in (41_000..).zip(&table) {
            lab.apply(&base.0).await.unwrap();
            let server = socket(&lab, DB, SERVER, 7000);
            let mut asker = socket(&lab, id, address, port);
            for _ in 0..4 {
                assert!(asks(&asker, &server), "{what}: at first");
            }
            let stream = connect(pod(&lab, id), SocketAddr::new(SERVER.parse().unwrap(), 80)).unwrap();
            ask(&stream, "before", PATIENCE).unwrap();

            let comes_again = !away.0.contains_key("pod-shop-web.json");
            lab.apply(&away.0).await.unwrap();
            if comes_again {
                // The server goes on sending to whoever is there no more.
                for _ in 0..3 {
                    server.send_to(b"gossip", (*address, port)).unwrap();
                }
            } else {
                assert!(!asks(&asker, &server), "{what}: away");
                assert!(ask(&stream, "meanwhile", SOON).is_err(), "{what}: away");
            }

            lab.apply(&base.0).await.unwrap();
            if comes_again {
                drop(asker);
                asker = socket(&lab, id, address, port);
            }
            assert!(asks(&socket(&lab, id, address, 0), &server), "{what}: back, from another port");
            let begin = Instant::now();
            assert!(asks(&asker, &server), "{what}: back, from the port of before");
            println!("{what}: answered after {:?}", begin.elapsed());
            if !comes_again {
                let mut rest = [0; 64];
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let length = std::io::Read::read(&mut &stream, &mut rest);
                let length = length.unwrap_or_else(|error| panic!("{what}: back, over TCP: {error}"));
                assert!(rest[..length].starts_with(b"meanwhile"), "{what}: what was sent meanwhile arrives");
            }
        }
    });
}

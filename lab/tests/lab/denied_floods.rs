//! What policy denies leaves nothing behind: no pod that may not be reached fills its node's table of connections.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use postern_lab::sysctl;
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::inside::{command, connect, node, pod};
use crate::manifests::{Cluster, PodSpec};
use crate::support::{run, up};

/// Nobody may reach it.
const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);
const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 3);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 4);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 2);
/// What may be left of a flood.
const LEFT: u64 = 1_000;

/// One pod that nobody may reach, beside others that no policy selects, on this node and another.
fn cluster(style: &str) -> Cluster {
    let lab = format!("nodes: [{{name: node-a, style: {style}}}, {{name: node-b, style: ptp}}]\n");
    let mut cluster = Cluster::default().lab(&lab).namespace("shop", &[]);
    for (name, node, address) in [
        ("victim", "node-a", VICTIM),
        ("flooder", "node-a", FLOODER),
        ("server", "node-a", SERVER),
        ("far", "node-b", FAR),
    ] {
        let (ips, labels) = ([&*address.to_string()], [("app", name)]);
        let ports = &[(80, "TCP"), (53, "UDP")];
        let spec = PodSpec { name, namespace: "shop", node, ips: &ips, labels: &labels, ports };
        cluster = cluster.pod(&spec);
    }
    cluster.policy("shop", "deny", &json!({ "podSelector": { "matchLabels": { "app": "victim" } } }))
}

/// A lab whose first node tracks connections.
async fn tracking(style: &str) -> Lab {
    let files = cluster(style).0;
    let mut lab = up(&[&files]).await;
    lab.apply(&files).await.unwrap();
    track(node(&lab, "node-a"));
    lab
}

/// Has a node track connections, as kube-proxy has nodes do.
pub(crate) fn track(netns: &Netns) {
    // What pods of one bridge send each other passes netfilter too, as Kubernetes asks for.
    sysctl::apply(netns, sysctl::SERVICES).unwrap();
    command(netns, "nft add table inet lab");
    command(netns, "nft add chain inet lab forward { type filter hook forward priority 0 ; }");
    command(netns, "nft add rule inet lab forward ct state invalid drop");
}

/// Connections that a node remembers.
pub(crate) fn remembered(netns: &Netns) -> u64 {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    netns.within(|| std::fs::read_to_string(path).unwrap()).unwrap().trim().parse().unwrap()
}

/// The header of a SYN or of a datagram without payload, from one address to another.
fn header(protocol: u8, (from, from_port): (Ipv4Addr, u16), (to, to_port): (Ipv4Addr, u16)) -> Vec<u8> {
    let mut header = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
    if protocol == 17 {
        // Its length, and no checksum.
        header.extend([0, 8, 0, 0]);
        return header;
    }
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x40, 0, 0, 0, 0, 0]);
    let ends = [from.octets(), to.octets()].concat();
    let words =
        ends.chunks(2).chain(header.chunks(2)).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum = words.sum::<u32>() + u32::from(protocol) + 20;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    header[16..18].copy_from_slice(&(!folded).to_be_bytes());
    header
}

/// Sends so many packets to the victim, each of a connection of its own.
fn flood(from: &Netns, address: Ipv4Addr, protocol: u8, packets: u32) {
    let send = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
        let to = SockAddr::from(SocketAddrV4::new(VICTIM, 0));
        for number in 0..packets {
            let (from_port, to_port) = (1_024 + number % 60_000, 10_000 + number / 60_000);
            let ports = (u16::try_from(from_port).unwrap(), u16::try_from(to_port).unwrap());
            // A full queue loses one, as any wire would.
            let _ = socket.send_to(&header(protocol, (address, ports.0), (VICTIM, ports.1)), &to);
        }
    };
    from.within(send).unwrap();
}

/// Floods the victim from both nodes while a neighbour opens connections; checks that nothing is left, and that none failed.
fn nothing_is_left(lab: &Lab, packets: u32) {
    let (netns, server) = (node(lab, "node-a"), SocketAddr::from((SERVER, 80)));
    let far = pod(lab, "shop/far");
    assert!(connect(far, server).is_some(), "the neighbour");
    let before = remembered(netns);
    let over = AtomicBool::new(false);
    let begin = Instant::now();
    let (tried, failed) = thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let (mut tried, mut failed) = (0_u64, 0);
            while !over.load(Ordering::Relaxed) {
                tried += 1;
                failed += u32::from(!opens(far, server));
                thread::sleep(Duration::from_millis(10));
            }
            (tried, failed)
        });
        let floods = [("shop/flooder", FLOODER), ("shop/far", FAR)].map(|(name, address)| {
            scope.spawn(move || {
                for protocol in [6, 17] {
                    flood(pod(lab, name), address, protocol, packets);
                }
            })
        });
        for flood in floods {
            flood.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        neighbour.join().unwrap()
    });
    println!("{packets} four times in {:?}, {tried} connections beside", begin.elapsed());
    thread::sleep(Duration::from_secs(2));
    // The neighbour's connections stay for a while, as they should.
    let left = remembered(netns).saturating_sub(before + tried);
    assert!(left < LEFT, "{left} entries are left of {} denied packets", 4 * packets);
    assert!(tried > 5 && failed == 0, "{failed} of {tried} connections of a neighbour failed");
}

/// Whether a new connection comes about, if need be by the second SYN.
fn opens(from: &Netns, to: SocketAddr) -> bool {
    let connected = from.within(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    connected.unwrap().is_ok()
}

/// How many packets the agent of node-a tells of that policy did not let in.
pub(crate) fn denied(lab: &Lab) -> u64 {
    let packets = lab.agent("node-a").unwrap().status().unwrap().packets;
    let denied = packets.iter().filter(|it| it.direction == "ingress" && it.reason == "denied-by-policy");
    denied.map(|it| it.packets).sum()
}

#[test]
fn a_million_denied_packets_leave_no_connections() {
    run(async {
        let lab = tracking("ptp").await;
        let before = denied(&lab);
        nothing_is_left(&lab, 250_000);
        let counted = denied(&lab) - before;
        assert!((900_000..=1_000_000).contains(&counted), "{counted} packets of a million were counted");
    });
}

#[test]
fn denied_packets_over_a_bridge_leave_no_connections() {
    run(async { nothing_is_left(&tracking("bridge").await, 10_000) });
}

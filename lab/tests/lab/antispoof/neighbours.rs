//! A pod under deny-all and an accomplice: what only the node may do, no neighbour does in its name, and nothing leaves the node as
//! something that it is not.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::world::with_flags;
use crate::inside::{PATIENCE, command, external, node, pod};
use crate::manifests::{Cluster, PodSpec, deny_all};
use crate::support::{run, up};

/// Name, namespace, node and addresses: two pods on a bridge, and one behind a routed veth.
const PODS: [(&str, &str, &str, [&str; 2]); 3] = [
    ("closed", "shop", "node-a", ["10.1.1.2", "fd00:1::2"]),
    ("liar", "other", "node-a", ["10.1.1.3", "fd00:1::3"]),
    ("routed", "shop", "node-b", ["10.1.2.2", "fd00:2::2"]),
];
const CLOSED: &str = "shop/closed";
const LIAR: &str = "other/liar";
const ROUTED: &str = "shop/routed";

/// The node's addresses on its bridge.
const GATEWAY: [&str; 2] = ["10.1.1.1", "fd00:1::1"];
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// `closed` and `routed` may neither send nor get anything; nothing isolates `liar`.
fn world() -> Cluster {
    let mut cluster = Cluster::default()
        .lab(&format!(
            "nodes: [{{name: node-a, style: bridge}}, {{name: node-b, style: ptp}}]\n\
             externals: [{{name: outside, ips: [{}, \"{}\"], ports: [{{port: 443, protocol: UDP}}]}}]\n",
            OUTSIDE[0], OUTSIDE[1]
        ))
        .policy("shop", "deny", &deny_all());
    for (name, namespace, node, ips) in PODS {
        let ports = &[(80, "TCP")][..];
        cluster = cluster.pod(&PodSpec { name, namespace, node, ips: &ips, labels: &[], ports });
    }
    cluster
}

async fn lab() -> Lab {
    let files = world().0;
    let mut lab = up(&[&files]).await;
    lab.apply(&files).await.unwrap();
    lab
}

/// Whether netfilter is shown what a node's bridge passes on, where the kernel can do so.
fn show_bridged(lab: &Lab, shown: bool) {
    let set = |setting: &str| {
        let path = format!("/proc/sys/net/bridge/{setting}");
        if std::path::Path::new(&path).exists() {
            std::fs::write(path, if shown { "1" } else { "0" }).unwrap();
        }
    };
    node(lab, "node-a").within(|| ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].map(set)).unwrap();
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The pod's address of the family of another one.
fn own(id: &str, like: &str) -> IpAddr {
    let (.., ips) = PODS.into_iter().find(|(name, ..)| id.ends_with(name)).unwrap();
    address(ips[usize::from(like.contains(':'))])
}

/// A device's hardware address.
fn mac(netns: &Netns, device: &str) -> String {
    let shown = command(netns, &format!("ip -o link show dev {device}"));
    shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
}

/// Has a pod take somebody for its neighbour of that address, as whoever claims it can.
fn neighbour(netns: &Netns, address: &str, mac: &str) {
    command(netns, &format!("ip neighbour replace {address} lladdr {mac} dev eth0 nud permanent"));
}

/// Gives a pod one more address.
fn take_on(netns: &Netns, address: &str) {
    let flags = if address.contains(':') { "nodad" } else { "" };
    command(netns, &format!("ip address replace {address} dev eth0 {flags}"));
}

fn udp(netns: &Netns, on: IpAddr, port: u16) -> UdpSocket {
    let socket = netns.within(|| UdpSocket::bind(SocketAddr::new(on, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Whether what one socket sends is heard by the other.
fn is_heard(from: &UdpSocket, to: &UdpSocket, at: SocketAddr) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        // A neighbour that does not answer makes this fail.
        let _ = from.send_to(b"word", at);
        if to.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

/// Whether a connection from an address of one namespace to a listener of another one comes about, and carries something.
fn connects(from: &Netns, as_whom: IpAddr, to: &Netns, at: SocketAddr) -> bool {
    let listener = to.within(|| TcpListener::bind(at)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let connected: io::Result<TcpStream> = from
        .within(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(as_whom, 0).into())?;
            socket.connect_timeout(&at.into(), PATIENCE)?;
            Ok(socket.into())
        })
        .unwrap();
    connected.is_ok() && listener.accept().is_ok()
}

#[test]
fn a_pod_that_shows_the_nodes_address_is_not_the_node() {
    run(async {
        let mut lab = lab().await;
        // Who sends is not checked: what a pod gets is not to depend on that.
        with_flags(&mut lab, &["--antispoof", "off"]).await;
        // Where netfilter sees it, the packet has lost its sender's socket before it gets to the other veth.
        show_bridged(&lab, false);
        let (closed, liar) = (pod(&lab, CLOSED), pod(&lab, LIAR));
        let bridge = mac(node(&lab, "node-a"), "cni0");
        let of_node: Vec<String> =
            lab.topology().node_addresses("node-a").iter().map(ToString::to_string).collect();
        for shown in GATEWAY.iter().copied().chain(of_node.iter().map(String::as_str)) {
            let to = own(CLOSED, shown);
            take_on(liar, shown);
            neighbour(closed, shown, &mac(liar, "eth0"));
            neighbour(liar, &to.to_string(), &mac(closed, "eth0"));
            let (hears, says) = (udp(closed, to, 9000), udp(liar, address(shown), 9000));
            assert!(!is_heard(&says, &hears, SocketAddr::new(to, 9000)), "UDP from {shown}");
            assert!(!connects(liar, address(shown), closed, SocketAddr::new(to, 9001)), "TCP from {shown}");
            command(liar, &format!("ip address delete {shown} dev eth0"));
            neighbour(closed, shown, &bridge);
            let says = udp(node(&lab, "node-a"), address(shown), 9000);
            assert!(is_heard(&says, &hears, SocketAddr::new(to, 9000)), "the node, UDP from {shown}");
            assert!(
                connects(node(&lab, "node-a"), address(shown), closed, SocketAddr::new(to, 9001)),
                "the node, TCP from {shown}"
            );
        }
    });
}

#[test]
fn what_passes_as_the_nodes_goes_to_the_node() {
    run(async {
        let mut lab = lab().await;
        for flags in [&["--antispoof", "off"][..], &["--antispoof", "all"]] {
            with_flags(&mut lab, flags).await;
            let (closed, liar) = (pod(&lab, CLOSED), pod(&lab, LIAR));
            let bridge = mac(node(&lab, "node-a"), "cni0");
            for gateway in GATEWAY {
                let (to, this) = (address(gateway), own(CLOSED, gateway));
                // What the pod starts.
                take_on(liar, gateway);
                neighbour(closed, gateway, &mac(liar, "eth0"));
                neighbour(liar, &this.to_string(), &mac(closed, "eth0"));
                let (says, hears) = (udp(closed, this, 9000), udp(liar, to, 9000));
                let at = SocketAddr::new(to, 9000);
                assert!(!is_heard(&says, &hears, at), "{flags:?}: UDP to {gateway}");
                assert!(
                    !connects(closed, this, liar, SocketAddr::new(to, 9001)),
                    "{flags:?}: TCP to {gateway}"
                );
                // What the node started goes to the node.
                neighbour(closed, gateway, &bridge);
                let nodes = udp(node(&lab, "node-a"), to, 9000);
                for _ in 0..6 {
                    assert!(
                        is_heard(&nodes, &says, SocketAddr::new(this, 9000)),
                        "{flags:?}: {gateway} asks"
                    );
                    assert!(is_heard(&says, &nodes, at), "{flags:?}: {gateway} is answered");
                }
                neighbour(closed, gateway, &mac(liar, "eth0"));
                assert!(!is_heard(&says, &hears, at), "{flags:?}: answers to {gateway}, gone astray");
                neighbour(closed, gateway, &bridge);
                assert!(is_heard(&says, &nodes, at), "{flags:?}: {gateway} again");
                command(liar, &format!("ip address delete {gateway} dev eth0"));
            }
        }
    });
}

#[test]
fn a_bridge_that_takes_another_address_is_still_the_node() {
    run(async {
        let lab = lab().await;
        let (closed, host) = (pod(&lab, CLOSED), node(&lab, "node-a"));
        for (number, changed) in ["0a:cb:00:00:00:77", "0a:cb:00:00:00:78"].into_iter().enumerate() {
            command(host, &format!("ip link set dev cni0 address {changed}"));
            for gateway in GATEWAY {
                neighbour(closed, gateway, changed);
                let port = 9000 + u16::try_from(number).unwrap();
                let (says, hears) =
                    (udp(closed, own(CLOSED, gateway), port), udp(host, address(gateway), port));
                assert!(
                    is_heard(&says, &hears, SocketAddr::new(address(gateway), port)),
                    "{gateway} at {changed}"
                );
            }
        }
    });
}

/// Whether a neighbour solicitation, of 1,278 bytes, is heard by the host outside.
fn solicitation_leaves(lab: &Lab, id: &str) -> bool {
    let to = SocketAddr::new(address(OUTSIDE[1]), 0);
    let open = |netns: &Netns| {
        netns.within(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap()).unwrap()
    };
    let (says, hears) = (open(pod(lab, id)), open(external(lab, "outside")));
    says.set_unicast_hops_v6(255).unwrap();
    hears.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut message = vec![0; 1278];
    message[0] = 135;
    message[8..24].copy_from_slice(&[0x42; 16]);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        says.send_to(&message, &SockAddr::from(to)).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 2048];
        if hears.recv(&mut buffer).is_ok_and(|length| length == message.len()) {
            return true;
        }
    }
    false
}

#[test]
fn what_keeps_the_link_going_does_not_leave_it() {
    run(async {
        let lab = lab().await;
        for id in [CLOSED, ROUTED] {
            assert!(!solicitation_leaves(&lab, id), "{id}");
        }
    });
}

/// A VXLAN packet (RFC 7348) with an Ethernet frame in it: a datagram from an address that is nobody's to the host outside.
fn encapsulated(mac: &str) -> Vec<u8> {
    let octets =
        |text: &str| address(text).to_string().split('.').map(|it| it.parse().unwrap()).collect::<Vec<u8>>();
    let mut ip = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    ip.extend(octets("10.1.1.77"));
    ip.extend(octets(OUTSIDE[0]));
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    // UDP from port 7 to 9999, without a checksum.
    let datagram = [&ip[..], &[0, 7, 0x27, 0x0f, 0, 12, 0, 0], b"word"].concat();
    let to: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    [&[8, 0, 0, 0, 0, 0, 7, 0], &to[..], &[2, 0, 0, 0, 0, 9, 8, 0], &datagram].concat()
}

/// Adds a VXLAN device to a node; its hardware address.
fn vxlan(lab: &Lab, name: &str, port: u16) -> String {
    let host = node(lab, name);
    command(host, &format!("ip link add vx{port} type vxlan external dstport {port}"));
    command(host, &format!("ip link set dev vx{port} up"));
    mac(host, &format!("vx{port}"))
}

/// Whether a datagram in a tunnel packet from a pod to its node is heard outside.
fn tunnels(lab: &Lab, id: &str, to: SocketAddr, mac: &str) -> bool {
    let hears = udp(external(lab, "outside"), address(OUTSIDE[0]), 9999);
    let says = udp(pod(lab, id), own(id, &to.ip().to_string()), 0);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let _ = says.send_to(&encapsulated(mac), to);
        if hears.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn a_node_takes_no_tunnel_apart_for_its_pods() {
    run(async {
        let mut lab = lab().await;
        let outer = |lab: &Lab, name: &str| {
            lab.topology().node_addresses(name).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (vx_a, vx_b) = (vxlan(&lab, "node-a", 4789), vxlan(&lab, "node-b", 4789));
        // Who sends is checked, or not: it depends on that whether a pod without policy gets through.
        for (flags, gets_through) in [("off", true), ("all", false), ("isolated", true), ("bridged", false)] {
            with_flags(&mut lab, &["--antispoof", flags]).await;
            for to in outer(&lab, "node-a").iter().map(String::as_str).chain(GATEWAY) {
                let to = SocketAddr::new(address(to), 4789);
                assert_eq!(tunnels(&lab, LIAR, to, &vx_a), gets_through, "{flags}: other/liar to {to}");
                assert!(!tunnels(&lab, CLOSED, to, &vx_a), "{flags}: shop/closed to {to}");
            }
            for to in outer(&lab, "node-b") {
                let to = SocketAddr::new(address(&to), 4789);
                assert!(!tunnels(&lab, ROUTED, to, &vx_b), "{flags}: shop/routed to {to}");
            }
        }
    });
}

#[test]
fn a_tunnel_device_that_comes_later_gets_nothing_from_flows_that_were_there() {
    run(async {
        let lab = lab().await;
        for (number, gateway) in (0..).zip(GATEWAY) {
            let port = 8472 + number;
            let to = SocketAddr::new(address(gateway), port);
            let says = udp(pod(&lab, CLOSED), own(CLOSED, gateway), 9000);
            let hears = udp(node(&lab, "node-a"), to.ip(), port);
            for _ in 0..10 {
                assert!(is_heard(&says, &hears, to), "{to}");
            }
            drop(hears);
            let mac = vxlan(&lab, "node-a", port);
            let outside = udp(external(&lab, "outside"), address(OUTSIDE[0]), 9999);
            // The agent sees it at once.
            std::thread::sleep(PATIENCE);
            while outside.recv(&mut [0; 16]).is_ok() {}
            let begin = Instant::now();
            while begin.elapsed() < PATIENCE {
                let _ = says.send_to(&encapsulated(&mac), to);
                assert!(outside.recv(&mut [0; 16]).is_err(), "{to}");
            }
            let other = SocketAddr::new(to.ip(), 9002);
            let hears = udp(node(&lab, "node-a"), other.ip(), other.port());
            assert!(is_heard(&says, &hears, other), "no port of a tunnel");
            command(node(&lab, "node-a"), &format!("ip link delete vx{port}"));
            std::thread::sleep(PATIENCE);
            let hears = udp(node(&lab, "node-a"), to.ip(), port);
            assert!(is_heard(&says, &hears, to), "{to}, whose device is gone");
        }
    });
}

/// IP protocols of tunnels that a node takes apart without a port: a raw socket hears what reaches it.
#[test]
fn tunnels_without_ports_do_not_reach_the_node() {
    run(async {
        let lab = lab().await;
        for (protocol, reaches) in
            [(4, false), (41, false), (47, false), (115, false), (137, false), (99, true)]
        {
            for gateway in GATEWAY {
                let to = SocketAddr::new(address(gateway), 0);
                let open = |netns: &Netns| {
                    let open =
                        || Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(protocol)));
                    netns.within(open).unwrap().unwrap()
                };
                let (says, hears) = (open(pod(&lab, CLOSED)), open(node(&lab, "node-a")));
                hears.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let mut arrived = false;
                let begin = Instant::now();
                while !arrived && begin.elapsed() < PATIENCE {
                    says.send_to(&[0; 40], &SockAddr::from(to)).unwrap();
                    arrived = hears.recv(&mut [MaybeUninit::uninit(); 128]).is_ok();
                }
                assert_eq!(arrived, reaches, "protocol {protocol} to {gateway}");
            }
        }
    });
}

//! Connections that are older than the programs: those that policy allows go on, told by the pod's real sockets.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use postern::datapath::object::{Settings, tick};
use postern_common::reason::Reason::{AllowedByPolicy, DeniedByPolicy, Established, Node, NotIsolated};

use crate::frames::{self, End, tcp};
use crate::pod_netns::{self, PodNetns};
use crate::rig::{Answer, Rig};

const POD: [&str; 2] = ["10.0.0.1", "fd00::1"];
const NODE: [&str; 2] = ["10.0.0.2", "fd00::2"];

/// A pod whose policy is added by each test.
const WORLD: &str = web!(
    r"
spec:
  podSelector: {}
"
);

fn addresses(of: [&str; 2]) -> Vec<IpAddr> {
    of.iter().map(|address| address.parse().unwrap()).collect()
}

/// A TCP connection of the pod, made before anything is enforced.
struct Connection {
    pod: End,
    peer: End,
    /// What the pod holds of it, and, as long as it listens, its listener.
    _pod_socket: TcpStream,
    listener: Option<TcpListener>,
    _peer_socket: TcpStream,
}

/// One the peer made to a port the pod listens on.
fn from_peer(netns: &PodNetns, family: usize, port: u16) -> Connection {
    let address: SocketAddr = (addresses(POD)[family], port).into();
    let listener = netns.within(|| TcpListener::bind(address).unwrap());
    let peer_socket = TcpStream::connect(address).unwrap();
    let (pod_socket, peer) = listener.accept().unwrap();
    Connection {
        pod: (POD[family], port),
        peer: (NODE[family], peer.port()),
        _pod_socket: pod_socket,
        listener: Some(listener),
        _peer_socket: peer_socket,
    }
}

/// One the pod made.
fn from_pod(netns: &PodNetns, family: usize, port: u16) -> Connection {
    let address: SocketAddr = (addresses(NODE)[family], port).into();
    let listener = TcpListener::bind(address).unwrap();
    let pod_socket = netns.within(|| TcpStream::connect(address).unwrap());
    let (peer_socket, pod) = listener.accept().unwrap();
    Connection {
        pod: (POD[family], pod.port()),
        peer: (NODE[family], port),
        _pod_socket: pod_socket,
        listener: None,
        _peer_socket: peer_socket,
    }
}

fn world(name: &str) -> PodNetns {
    pod_netns::enter_node();
    PodNetns::create(name, &addresses(POD), &addresses(NODE))
}

/// A rig whose programs see the pod's sockets. The test's node is no node to the policy: its addresses are like any other's.
fn rig(netns: &PodNetns, rules: &str) -> Rig {
    let mut rig = Rig::new("shop/web", &format!("{WORLD}{rules}"));
    rig.on_veth(netns.veth.ifindex, Some(netns.veth.netns.cast_unsigned()));
    rig
}

/// Flags that the middle of a connection has.
const MIDDLE: [&str; 2] = ["A", "FA"];

#[test]
fn go_on_whichever_side_speaks_first() {
    let netns = world("older-go-on");
    for family in [0, 1] {
        let (from_peer, from_pod) = (from_peer(&netns, family, 80), from_pod(&netns, family, 443));
        let server = "  policyTypes: [Ingress, Egress]\n  ingress: [{ports: [{port: 80}]}]\n";
        let client = "  policyTypes: [Ingress, Egress]\n  egress: [{ports: [{port: 443}]}]\n";
        for flags in MIDDLE {
            let Connection { pod, peer, .. } = from_peer;
            assert_eq!(rig(&netns, server).sends(&tcp(pod, peer, flags)), Answer(Established));
            assert_eq!(rig(&netns, server).gets(&tcp(peer, pod, flags)), Answer(Established));
            let Connection { pod, peer, .. } = from_pod;
            assert_eq!(rig(&netns, client).sends(&tcp(pod, peer, flags)), Answer(Established));
            assert_eq!(rig(&netns, client).gets(&tcp(peer, pod, flags)), Answer(Established));
        }
    }
}

#[test]
fn end_where_policy_does_not_allow_who_started_them() {
    let netns = world("older-end");
    for family in [0, 1] {
        let (from_peer, from_pod) = (from_peer(&netns, family, 80), from_pod(&netns, family, 443));
        // Rules of the other direction do not help.
        let server = "  policyTypes: [Ingress, Egress]\n  ingress: [{ports: [{port: 81}]}]\n  egress: [{}]\n";
        let client = "  policyTypes: [Ingress, Egress]\n  egress: [{ports: [{port: 444}]}]\n";
        let Connection { pod, peer, .. } = from_peer;
        assert_eq!(rig(&netns, server).sends(&tcp(pod, peer, "A")), Answer(DeniedByPolicy));
        assert_eq!(rig(&netns, server).gets(&tcp(peer, pod, "A")), Answer(DeniedByPolicy));
        let Connection { pod, peer, .. } = from_pod;
        assert_eq!(rig(&netns, client).sends(&tcp(pod, peer, "A")), Answer(DeniedByPolicy));
        assert_eq!(rig(&netns, client).gets(&tcp(peer, pod, "A")), Answer(DeniedByPolicy));
    }
}

#[test]
fn a_server_that_may_send_does_not_reopen_what_policy_ends() {
    let netns = world("older-server");
    let connection = from_peer(&netns, 0, 80);
    let Connection { pod, peer, .. } = connection;
    let mut rig = rig(&netns, "  policyTypes: [Ingress]\n");
    for _ in 0..3 {
        assert_eq!(rig.sends(&tcp(pod, peer, "A")), Answer(NotIsolated));
        assert_eq!(rig.gets(&tcp(peer, pod, "A")), Answer(DeniedByPolicy));
    }
}

#[test]
fn of_a_server_that_stopped_listening_go_on() {
    let netns = world("older-stopped");
    let mut connection = from_peer(&netns, 0, 80);
    connection.listener.take();
    let Connection { pod, peer, .. } = connection;
    let mut rig = rig(&netns, "  policyTypes: [Ingress, Egress]\n  ingress: [{ports: [{port: 80}]}]\n");
    assert_eq!(rig.sends(&tcp(pod, peer, "A")), Answer(Established));
    assert_eq!(rig.gets(&tcp(peer, pod, "A")), Answer(Established));
}

/// What the flow says of who started it is not asked of the pod's sockets, which have forgotten it.
#[test]
fn a_stranger_does_not_take_up_what_the_node_started() {
    let netns = world("older-stranger");
    let stranger = 77;
    for (family, port) in [(0, 80), (1, 81)] {
        for established in [false, true] {
            let mut connection = from_peer(&netns, family, port);
            connection.listener.take();
            let Connection { pod, peer, .. } = connection;
            let mut rig = rig(&netns, "  policyTypes: [Ingress, Egress]\n");
            rig.own_addresses(&NODE);
            assert_eq!(rig.gets(&tcp(peer, pod, "S")), Answer(Node));
            assert_eq!(rig.sends(&tcp(pod, peer, "SA")), Answer(Established));
            if established {
                assert_eq!(rig.gets(&tcp(peer, pod, "A")), Answer(Established));
            }
            for flags in MIDDLE {
                assert_eq!(rig.gets_by(stranger, &tcp(peer, pod, flags)), Answer(DeniedByPolicy));
            }
            assert_eq!(rig.gets(&tcp(peer, pod, "A")), Answer(Established));
        }
    }
}

#[test]
fn sockets_are_asked_for_some_denied_packets_of_a_tick() {
    let netns = world("older-many");
    let connections = [from_pod(&netns, 0, 443), from_pod(&netns, 0, 443)];
    let rules = "  policyTypes: [Ingress, Egress]\n  egress: [{ports: [{port: 443}]}]\n";
    let world = format!("{WORLD}{rules}");
    let id = netns.veth.netns.cast_unsigned();
    let rig = |asked| {
        let mut rig = Rig::with_settings("shop/web", &world, Settings { asked, ..Settings::default() });
        rig.on_veth(netns.veth.ifindex, Some(id));
        rig
    };
    let (mut one, mut none) = (rig(1), rig(0));
    let frames = connections.each_ref().map(|it| tcp(it.peer, it.pod, "A"));
    let mut denied = 0;
    for _ in 0..50 {
        // In a tick of its own, either is found.
        std::thread::sleep(2 * Duration::from_nanos(tick()));
        assert_eq!(one.gets(&frames[0]), Answer(Established));
        denied += u32::from(one.gets(&frames[1]) == Answer(DeniedByPolicy));
        one.forget_flows();
        assert_eq!(none.gets(&frames[0]), Answer(DeniedByPolicy));
    }
    assert!(denied > 0, "the second of a tick was always found");
    // What is allowed in its own direction is not counted, or else it would be taken for the pod's own.
    for _ in 0..20 {
        let Connection { pod, peer, .. } = connections[0];
        assert_eq!(none.sends(&tcp(pod, peer, "A")), Answer(Established));
        none.forget_flows();
    }
}

#[test]
fn sockets_are_not_asked_where_they_cannot_change_the_verdict() {
    let netns = world("older-useless");
    let Connection { pod, peer, .. } = &from_peer(&netns, 0, 80);
    let world = format!("{WORLD}  policyTypes: [Ingress, Egress]\n");
    let mut rig = Rig::with_settings("shop/web", &world, Settings { asked: 1, ..Settings::default() });
    rig.on_veth(netns.veth.ifindex, Some(netns.veth.netns.cast_unsigned()));
    for _ in 0..3 {
        assert_eq!(rig.gets(&tcp(*peer, *pod, "A")), Answer(DeniedByPolicy));
        assert_eq!(rig.sends(&tcp(*pod, *peer, "A")), Answer(DeniedByPolicy));
    }
    assert_eq!(rig.asked(), 0);
}

#[test]
fn nothing_else_is_taken_for_one() {
    let netns = world("older-forged");
    let Connection { pod, peer, .. } = &from_peer(&netns, 0, 80);
    let (pod, peer) = (*pod, *peer);
    let rules = "  policyTypes: [Ingress, Egress]\n  ingress: [{ports: [{port: 80}]}]\n";
    let mut rig = rig(&netns, rules);
    let other_port = (peer.0, peer.1 ^ 1);
    assert_eq!(
        rig.sends(&tcp(pod, other_port, "A")),
        Answer(DeniedByPolicy),
        "an ACK scan through a listener"
    );
    assert_eq!(rig.sends(&tcp(pod, ("10.0.0.3", peer.1), "A")), Answer(DeniedByPolicy), "another address");
    assert_eq!(rig.sends(&tcp(pod, peer, "SA")), Answer(DeniedByPolicy), "a SYN-ACK is no middle");
    assert_eq!(rig.sends(&frames::udp(pod, peer)), Answer(DeniedByPolicy), "nor is UDP");
    assert_eq!(rig.gets(&tcp(other_port, pod, "A")), Answer(AllowedByPolicy), "judged in its own direction");
    rig.on_veth(netns.veth.ifindex, None);
    assert_eq!(rig.sends(&tcp(pod, peer, "A")), Answer(DeniedByPolicy), "no sockets to ask");
}

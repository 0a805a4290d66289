//! A node takes no tunnel apart for its pods: what stands inside would leave it in any name.

use postern_common::reason::Reason::{
    AllowedByPolicy, DeniedByPolicy, Established, Node, NotIsolated, Spoofed, Tunnel,
};

use crate::frames::{End, fragment, other, tcp, udp};
use crate::rig::{Answer, Rig};

/// A pod that may send anything anywhere, and gets nothing.
const WORLD: &str = web!(
    r"
spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}]}
"
);

const PROTOCOLS: [u8; 5] = [4, 41, 47, 115, 137];
/// The pod, its node, another host: of both families.
const ENDS: [[&str; 3]; 2] = [["10.0.0.1", "10.0.0.254", "10.0.0.9"], ["fd00::1", "fd00::fe", "fd00::9"]];

fn rig(yaml: &str) -> Rig {
    let mut rig = Rig::new("shop/web", yaml);
    rig.own_addresses(&["10.0.0.254", "fd00::fe"]);
    rig.tunnel_ports(&[4789, 65_535]);
    rig
}

#[test]
fn under_policy() {
    // All of it is allowed, nothing is, or only what comes in is isolated.
    for yaml in [
        WORLD.to_owned(),
        WORLD.replace(", egress: [{}]", ""),
        WORLD.replace("[Ingress, Egress], egress: [{}]", "[Ingress]"),
    ] {
        let mut rig = rig(&yaml);
        for [pod, node, host] in ENDS {
            for protocol in PROTOCOLS {
                assert_eq!(rig.sends(&other(pod, node, protocol)), Answer(Tunnel), "{protocol} to {node}");
                assert_ne!(rig.sends(&other(pod, host, protocol)), Answer(Tunnel), "{protocol} to {host}");
                assert_ne!(rig.gets(&other(node, pod, protocol)), Answer(Tunnel), "{protocol} from {node}");
            }
            assert_ne!(rig.sends(&other(pod, node, 99)), Answer(Tunnel));
            for port in [4789, 65_535] {
                assert_eq!(rig.sends(&udp((pod, 9), (node, port))), Answer(Tunnel), "{port} of {node}");
                assert_ne!(rig.sends(&udp((pod, 9), (host, port))), Answer(Tunnel), "{port} of {host}");
                assert_ne!(rig.sends(&tcp((pod, 9), (node, port), "S")), Answer(Tunnel), "TCP {port}");
            }
            for port in [4788, 4790, 0, 65_534, 53] {
                assert_ne!(rig.sends(&udp((pod, 9), (node, port))), Answer(Tunnel), "{port} of {node}");
            }
        }
        for many in ["224.0.0.1", "255.255.255.255"] {
            assert_eq!(rig.sends(&udp(("10.0.0.1", 9), (many, 4789))), Answer(Tunnel), "{many}");
        }
        assert_eq!(rig.sends(&udp(("fd00::1", 9), ("ff02::1", 4789))), Answer(Tunnel));
        assert_eq!(rig.sends(&fragment(("10.0.0.1", 9), ("10.0.0.254", 4789), 7, 0, true)), Answer(Tunnel));
    }
}

#[test]
fn without_policy() {
    let mut rig = rig(WORLD);
    rig.guard();
    for [pod, node, host] in ENDS {
        for protocol in PROTOCOLS {
            assert_eq!(rig.is_guarded(&other(pod, node, protocol)), Answer(Tunnel), "{protocol} to {node}");
            assert_eq!(
                rig.is_guarded(&other(pod, host, protocol)),
                Answer(NotIsolated),
                "{protocol} to {host}"
            );
        }
        assert_eq!(rig.is_guarded(&udp((pod, 9), (node, 4789))), Answer(Tunnel), "{node}");
        assert_eq!(rig.is_guarded(&udp((pod, 9), (node, 4790))), Answer(NotIsolated), "{node}");
        assert_eq!(rig.is_guarded(&udp((pod, 9), (host, 4789))), Answer(NotIsolated), "{host}");
    }
    assert_eq!(rig.is_guarded(&udp(("10.0.0.1", 9), ("255.255.255.255", 4789))), Answer(Tunnel));
    assert_eq!(rig.is_guarded(&udp(("10.0.0.7", 9), ("10.0.0.254", 4789))), Answer(Spoofed));
}

#[test]
fn flows_to_what_has_become_a_tunnel_are_over() {
    let (pod, node): (End, End) = (("10.0.0.1", 9), ("10.0.0.254", 5000));
    let mut rig = rig(WORLD);
    for _ in 0..8 {
        assert_eq!(rig.sends(&udp(pod, node)), Answer(Node));
    }
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Established));
    rig.tunnel_ports(&[5000]);
    rig.advance_generation();
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Tunnel));
    assert_eq!(rig.gets(&udp(node, pod)), Answer(Node), "by itself");
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Tunnel), "that it comes from there opens nothing");
    rig.tunnel_ports(&[]);
    rig.advance_generation();
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Established), "as it was");
}

#[test]
fn what_comes_from_where_a_tunnel_ends_is_not_answered() {
    let (pod, node): (End, End) = (("10.0.0.1", 9), ("10.0.0.254", 4789));
    let mut rig = rig(WORLD);
    for _ in 0..10 {
        assert_eq!(rig.gets(&udp(node, pod)), Answer(Node));
        assert_eq!(rig.sends(&udp(pod, node)), Answer(Tunnel));
    }
    // A flow that was there before.
    rig.tunnel_ports(&[]);
    for _ in 0..4 {
        rig.gets(&udp(node, pod));
        assert_eq!(rig.sends(&udp(pod, node)), Answer(Established));
    }
    rig.tunnel_ports(&[4789]);
    rig.advance_generation();
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Tunnel));
    assert_eq!(rig.gets(&udp(node, pod)), Answer(Node));
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Tunnel));
}

#[test]
fn others_are_judged_as_before() {
    let mut rig = rig(WORLD);
    assert_eq!(rig.sends(&udp(("10.0.0.1", 4789), ("10.0.0.9", 4789))), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&udp(("10.0.0.9", 4789), ("10.0.0.1", 9))), Answer(DeniedByPolicy));
}

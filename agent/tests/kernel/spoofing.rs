//! Anti-spoofing: a guarded pod sends, and answers, from its own addresses alone.

use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Link, Malformed, NotIsolated, Spoofed,
};

use crate::frames::{self, arp, on_link, tcp, udp};
use crate::rig::{Answer, Rig};

/// A pod that may send anything anywhere, and gets nothing.
const WORLD: &str = web!(
    r"
spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}]}
"
);

/// A neighbour advertisement for an address.
fn advertisement(target: &str) -> Vec<u8> {
    let mut frame = on_link("fd00::1", "fe80::9", 136, 255);
    let target: std::net::Ipv6Addr = target.parse().unwrap();
    frame[14 + 40 + 8..][..16].copy_from_slice(&target.octets());
    frame
}

/// What the pod sends, under policy and without any.
fn table() -> Vec<(&'static str, Vec<u8>, Reason)> {
    let (to, to6) = (("10.0.0.9", 80), ("fd00::9", 80));
    vec![
        ("its own address", tcp(("10.0.0.1", 1), to, "S"), AllowedByPolicy),
        ("its own IPv6 address", tcp(("fd00::1", 1), to6, "S"), AllowedByPolicy),
        ("another's", tcp(("10.0.0.2", 1), to, "S"), Spoofed),
        ("another's IPv6 address", tcp(("fd00::2", 1), to6, "S"), Spoofed),
        ("another's, an answer", tcp(("10.0.0.2", 1), to, "SA"), Spoofed),
        ("another's, in the middle", tcp(("10.0.0.2", 1), to, "A"), Spoofed),
        ("another's, without ports", frames::other("10.0.0.2", "10.0.0.9", 47), Spoofed),
        ("another's, a later fragment", frames::fragment(("10.0.0.2", 1), to, 7, 1480, false), Spoofed),
        (
            "another's, an ICMP error",
            {
                let about = udp(("10.0.0.9", 9), ("10.0.0.2", 53));
                frames::icmp_error("10.0.0.2", "10.0.0.9", 3, 3, &about)
            },
            Spoofed,
        ),
        ("no address yet (DHCP)", udp(("0.0.0.0", 68), ("255.255.255.255", 67)), AllowedByPolicy),
        ("a link-local address", tcp(("fe80::77", 1), to6, "S"), AllowedByPolicy),
        ("an ARP request", arp(1, "10.0.0.1", "10.0.0.9"), Link),
        ("an ARP probe", arp(1, "0.0.0.0", "10.0.0.1"), Link),
        ("an ARP request as another", arp(1, "10.0.0.2", "10.0.0.9"), Spoofed),
        ("an ARP reply as another", arp(2, "10.0.0.2", "10.0.0.9"), Spoofed),
        (
            "ARP for something else",
            {
                let mut frame = arp(1, "10.0.0.1", "10.0.0.9");
                frame[17] = 1;
                frame
            },
            Malformed,
        ),
        ("an advertisement of its address", advertisement("fd00::1"), Link),
        ("of its link-local one", advertisement("fe80::1"), Link),
        ("of another's", advertisement("fd00::2"), Spoofed),
        ("of nobody's", advertisement("::"), Spoofed),
        (
            "of what is only padding",
            {
                let mut frame = advertisement("fd00::1");
                frame[14 + 5] = 8;
                frame
            },
            Spoofed,
        ),
        ("a solicitation", on_link("fd00::1", "ff02::1:ff00:9", 135, 255), Link),
        ("while it has no address", on_link("::", "ff02::1:ff00:1", 135, 255), Link),
        ("a solicitation as another", on_link("fd00::2", "ff02::1:ff00:9", 135, 255), Spoofed),
        ("asking for routers", on_link("fe80::1", "ff02::2", 133, 255), Link),
        ("as a router", on_link("fe80::1", "ff02::1", 134, 255), Spoofed),
        ("a redirect", on_link("fe80::1", "ff02::1", 137, 255), Spoofed),
        ("a multicast listener report", on_link("fe80::1", "ff02::16", 143, 1), Link),
    ]
}

#[test]
fn under_policy() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.guard();
    for (what, frame, expected) in table() {
        assert_eq!(rig.sends(&frame), Answer(expected), "{what}");
    }
}

#[test]
fn under_policy_but_opted_out() {
    for (what, frame, expected) in table().into_iter().filter(|(_, _, expected)| *expected == Spoofed) {
        let answer = Rig::new("shop/web", WORLD).sends(&frame);
        assert_ne!(answer, Answer(expected), "{what}");
    }
}

#[test]
fn without_policy() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.guard();
    for (what, frame, expected) in table() {
        let expected = if expected.drops() { expected } else { NotIsolated };
        assert_eq!(rig.is_guarded(&frame), Answer(expected), "{what}");
    }
    let mut cut = tcp(("10.0.0.2", 1), ("10.0.0.9", 80), "S");
    cut.truncate(14 + 20 + 4);
    assert_eq!(rig.is_guarded(&cut), Answer(Spoofed), "what is wrong further on does not hide the source");
    assert_eq!(rig.is_guarded(&frames::ethernet(0x88b5)), Answer(NotIsolated));
}

#[test]
fn what_is_flooded_to_the_pod_opens_nothing_for_it() {
    let mut rig = Rig::new("shop/web", &WORLD.replace("egress: [{}]", "ingress: [{}]"));
    rig.guard();
    let (client, other) = (("10.0.0.9", 40000), ("10.0.0.2", 53));
    assert_eq!(rig.gets(&udp(client, other)), Answer(AllowedByPolicy), "a bridge floods another's");
    assert_eq!(rig.sends(&udp(other, client)), Answer(Spoofed));
    let mut rig = Rig::new("shop/web", &WORLD.replace("egress: [{}]", "ingress: [{}]"));
    rig.guard();
    let own = ("10.0.0.1", 53);
    assert_eq!(rig.gets(&udp(client, own)), Answer(AllowedByPolicy));
    assert_eq!(rig.sends(&udp(own, client)), Answer(Reason::Established));
    assert_eq!(rig.sends(&udp(own, ("10.0.0.8", 1))), Answer(DeniedByPolicy));
}

//! What the link does not work without passes as that only where it is just that, and stays on the link.

use std::net::Ipv6Addr;

use postern_common::reason::Reason::{self, DeniedByPolicy, Link, Malformed, Node};

use crate::frames::{NODE_MAC, arp, extended, on_link, on_link_about, on_link_with, other, with_options};
use crate::rig::{Answer, Rig};

/// A pod that gets and sends nothing.
const WORLD: &str = web!(
    r"
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"
);

const IP: usize = 14;
const MESSAGE: usize = IP + 40;

fn rig() -> Rig {
    Rig::new("shop/web", WORLD)
}

/// Shows all frames to one rig: none leaves a trace.
fn check(table: Vec<(&str, Vec<u8>, Reason)>) {
    let mut rig = rig();
    for (what, frame, expected) in table {
        assert_eq!(rig.gets(&frame), Answer(expected), "{what}");
    }
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A message with so many bytes more.
fn longer(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.resize(frame.len() + bytes, 0);
    let payload = u16::try_from(frame.len() - MESSAGE).unwrap();
    changed(frame, IP + 4, &payload.to_be_bytes())
}

/// A message with so many bytes less.
fn shorter(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.truncate(frame.len() - bytes);
    longer(frame, 0)
}

fn trailed(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.resize(frame.len() + bytes, 0);
    frame
}

/// A hop-by-hop header with a router alert (RFC 2711) in front of a message.
fn alerting(frame: &[u8]) -> Vec<u8> {
    extended(frame, 0, &[58, 0, 5, 2, 0, 0, 1, 0])
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn neighbour_discovery_comes_from_the_link() {
    let mut table = Vec::new();
    for (kind, to) in
        [(133, "ff02::2"), (134, "ff02::1"), (135, "fd00::1"), (136, "fd00::1"), (137, "fd00::1")]
    {
        let message = || on_link("fe80::9", to, kind, 255);
        let options = [58, 0, 1, 4, 0, 0, 0, 0];
        table.extend([
            ("as it should be", message(), Link),
            ("from beyond a router", on_link("fe80::9", to, kind, 254), DeniedByPolicy),
            ("with a code", changed(message(), MESSAGE + 1, &[1]), DeniedByPolicy),
            ("behind hop-by-hop options", extended(&message(), 0, &options), DeniedByPolicy),
            ("behind destination options", extended(&message(), 60, &options), DeniedByPolicy),
            ("in one fragment", extended(&message(), 44, &[58, 0, 0, 0, 0, 0, 0, 7]), DeniedByPolicy),
            ("with bytes behind it", trailed(message(), 1), DeniedByPolicy),
            (
                "with a long load",
                longer(message(), 1200),
                if matches!(kind, 134 | 137) { Link } else { DeniedByPolicy },
            ),
        ]);
    }
    check(table);
}

#[test]
fn neighbour_discovery_has_its_lengths() {
    let ask = || on_link("fe80::9", "fd00::1", 135, 255);
    let tell = || on_link("fe80::9", "fd00::1", 136, 255);
    let routers = || on_link("fe80::9", "ff02::2", 133, 255);
    let router = || on_link("fe80::9", "ff02::1", 134, 255);
    let redirect = || on_link("fe80::9", "fd00::1", 137, 255);
    check(vec![
        ("a solicitation with an address and a nonce", longer(ask(), 16), Link),
        ("with more", longer(ask(), 17), DeniedByPolicy),
        ("without its target", shorter(ask(), 1), DeniedByPolicy),
        ("an advertisement with an address", longer(tell(), 8), Link),
        ("with more", longer(tell(), 9), DeniedByPolicy),
        ("without its target", shorter(tell(), 1), DeniedByPolicy),
        ("asking for routers, with an address and more", longer(routers(), 16), Link),
        ("with more than that", longer(routers(), 17), DeniedByPolicy),
        ("a router's, without its lifetimes", shorter(router(), 1), DeniedByPolicy),
        ("a redirect without its addresses", shorter(redirect(), 1), DeniedByPolicy),
    ]);
}

#[test]
fn neighbour_discovery_goes_to_whom_it_concerns() {
    let about = |source, to, kind, target| on_link_about(source, to, kind, 255, address(target));
    check(vec![
        ("to those who may have it", about("fd00::9", "ff02::1:ff00:1", 135, "fd00::1"), Link),
        ("to whom it is about", about("fd00::9", "fd00::1", 135, "fd00::1"), Link),
        ("is this mine?", about("::", "ff02::1:ff00:1", 135, "fd00::1"), Link),
        ("is this yours?", about("::", "fd00::1", 135, "fd00::1"), DeniedByPolicy),
        ("to another than it is about", about("fd00::9", "fd00::1", 135, "fd00::2"), DeniedByPolicy),
        ("to those who cannot have it", about("fd00::9", "ff02::1:ff00:2", 135, "fd00::1"), DeniedByPolicy),
        ("to a group of another kind", about("fd00::9", "ff02::2:ff00:1", 135, "fd00::1"), DeniedByPolicy),
        ("to all", about("fd00::9", "ff02::1", 135, "fd00::1"), DeniedByPolicy),
        ("about a group", about("fd00::9", "ff05::1", 135, "ff05::1"), DeniedByPolicy),
        ("I have it, all of you", about("fd00::9", "ff02::1", 136, "fd00::9"), Link),
        ("I have it, you there", about("fd00::9", "fd00::1", 136, "fd00::9"), Link),
        ("to some", about("fd00::9", "ff02::2", 136, "fd00::9"), DeniedByPolicy),
        ("to all of the site", about("fd00::9", "ff05::1", 136, "fd00::9"), DeniedByPolicy),
        ("to nobody", about("fd00::9", "::", 136, "fd00::9"), DeniedByPolicy),
        ("about a group", about("fd00::9", "ff02::1", 136, "ff02::9"), DeniedByPolicy),
        ("is there a router?", about("fd00::9", "ff02::2", 133, "::"), Link),
        ("are you a router?", about("fd00::9", "fe80::1", 133, "::"), Link),
        ("asked beyond the link", about("fd00::9", "fd00::1", 133, "::"), DeniedByPolicy),
        ("asked of all", about("fd00::9", "ff02::1", 133, "::"), DeniedByPolicy),
        ("a router's", about("fe80::9", "fd00::1", 134, "::"), Link),
        ("a router's, from beyond the link", about("fd00::9", "fd00::1", 134, "::"), DeniedByPolicy),
        ("a router's, to routers", about("fe80::9", "ff02::2", 134, "::"), DeniedByPolicy),
        ("a redirect from beyond the link", about("fd00::9", "fd00::1", 137, "::"), DeniedByPolicy),
        ("a redirect to nobody", about("fe80::9", "::", 137, "::"), DeniedByPolicy),
        ("a redirect to routers", about("fe80::9", "ff02::2", 137, "::"), DeniedByPolicy),
    ]);
}

#[test]
fn listeners_say_what_they_listen_to_and_no_more() {
    let about = |source, to, kind, hops, group| on_link_about(source, to, kind, hops, address(group));
    let report = || on_link("fe80::9", "ff02::16", 143, 1);
    // So many records, each with so many words of other data and so many sources.
    let records = |count: u16, records: u16, auxiliary: u8, sources: u16| {
        let [high, low] = sources.to_be_bytes();
        let length = 16 * (1 + usize::from(sources)) + 4 * usize::from(auxiliary);
        let record = [&[4, auxiliary, high, low], &vec![0; length][..]].concat();
        let [high, low] = count.to_be_bytes();
        on_link_with("fe80::9", "ff02::16", 143, 1, [0, 0, high, low], &record.repeat(records.into()))
    };
    let query = |to, sources: u16, present: usize| {
        let [high, low] = sources.to_be_bytes();
        let body = [&address("ff05::7").octets(), &[0, 0, high, low][..], &vec![0; 16 * present]].concat();
        on_link_with("fe80::9", to, 130, 1, [0; 4], &body)
    };
    let mut table = Vec::new();
    for (what, frame, expected) in [
        ("a report", report(), Link),
        ("while it has no address", on_link("::", "ff02::16", 143, 1), Link),
        ("from a routable address", on_link("fd00::9", "ff02::16", 143, 1), DeniedByPolicy),
        ("with a hop limit for routers", on_link("fe80::9", "ff02::16", 143, 2), DeniedByPolicy),
        ("to others than listen to reports", on_link("fe80::9", "ff02::1", 143, 1), DeniedByPolicy),
        ("to one", on_link("fe80::9", "fd00::1", 143, 1), DeniedByPolicy),
        ("of nothing", records(0, 0, 0, 0), Link),
        ("of several", records(3, 3, 0, 2), Link),
        ("of as many as a frame holds", records(72, 72, 0, 0), Link),
        ("of more", records(73, 73, 0, 0), DeniedByPolicy),
        ("of more than there are", records(3, 2, 0, 0), DeniedByPolicy),
        ("of fewer than there are", records(2, 3, 0, 0), DeniedByPolicy),
        ("with other data", records(1, 1, 1, 0), DeniedByPolicy),
        ("of 65,535 sources", changed(report(), MESSAGE + 10, &[255, 255]), DeniedByPolicy),
        ("longer than it says", longer(report(), 1), DeniedByPolicy),
        ("an earlier report", about("fe80::9", "ff05::7", 131, 1, "ff05::7"), Link),
        ("to another group", about("fe80::9", "ff05::7", 131, 1, "ff05::8"), DeniedByPolicy),
        ("to one", about("fe80::9", "fd00::1", 131, 1, "fd00::1"), DeniedByPolicy),
        ("longer", longer(about("fe80::9", "ff05::7", 131, 1, "ff05::7"), 4), DeniedByPolicy),
        ("shorter", shorter(about("fe80::9", "ff05::7", 131, 1, "ff05::7"), 1), DeniedByPolicy),
        ("no longer", about("fe80::9", "ff02::2", 132, 1, "ff05::7"), Link),
        ("no longer, to all", about("fe80::9", "ff02::1", 132, 1, "ff05::7"), DeniedByPolicy),
        ("no longer, longer", longer(about("fe80::9", "ff02::2", 132, 1, "ff05::7"), 4), DeniedByPolicy),
        ("who listens?", about("fe80::9", "ff02::1", 130, 1, "::"), Link),
        ("to this?", about("fe80::9", "ff05::7", 130, 1, "ff05::7"), Link),
        ("to that?", about("fe80::9", "ff05::7", 130, 1, "ff05::8"), DeniedByPolicy),
        ("to these sources?", query("ff05::7", 2, 2), Link),
        ("to none", query("ff02::1", 0, 0), Link),
        ("to more than it names", query("ff05::7", 2, 1), DeniedByPolicy),
        ("to fewer than it names", query("ff05::7", 1, 2), DeniedByPolicy),
        ("with half a length", longer(about("fe80::9", "ff02::1", 130, 1, "::"), 3), DeniedByPolicy),
    ] {
        table.extend([
            (what, frame.clone(), expected),
            (what, alerting(&frame), expected),
            (what, extended(&frame, 0, &[58, 1, 5, 2, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0]), DeniedByPolicy),
            (what, extended(&frame, 60, &[58, 0, 1, 4, 0, 0, 0, 0]), DeniedByPolicy),
            (what, trailed(frame, 1), DeniedByPolicy),
        ]);
    }
    check(table);
}

#[test]
fn arp_carries_nothing_else() {
    let request = || arp(1, "10.0.0.9", "10.0.0.1");
    let tagged =
        |frame: Vec<u8>, tags: usize| [&frame[..12], &[0x81, 0, 0, 7].repeat(tags), &frame[12..]].concat();
    let table = vec![
        ("a request", request(), Link),
        ("a reply", arp(2, "10.0.0.9", "10.0.0.1"), Link),
        ("for something else than IPv4", changed(request(), IP + 2, &[0x86, 0xdd]), Malformed),
        ("cut short", request()[..IP + 27].to_vec(), Malformed),
        ("padded", trailed(request(), 18), Link),
        ("a trailer of one byte", trailed(request(), 19), Malformed),
        ("a trailer of many", trailed(request(), 1400), Malformed),
        ("padded behind a tag", tagged(trailed(request(), 18), 1), Link),
        ("a trailer behind a tag", tagged(trailed(request(), 19), 1), Malformed),
        ("padded behind two", tagged(trailed(request(), 18), 2), Link),
        ("a trailer behind two", tagged(trailed(request(), 19), 2), Malformed),
        ("no operation", arp(0, "10.0.0.9", "10.0.0.1"), Malformed),
        ("a reverse request", arp(3, "10.0.0.9", "10.0.0.1"), Malformed),
        ("operation 257", changed(request(), IP + 6, &[1, 1]), Malformed),
    ];
    let mut rig = rig();
    for (what, frame, expected) in table {
        assert_eq!(rig.gets(&frame), Answer(expected), "{what}");
        assert_eq!(rig.sends(&frame), Answer(expected), "{what}, sent");
        if expected == Malformed {
            assert_eq!(rig.is_guarded(&frame), Answer(expected), "{what}, guarded");
        }
    }
}

#[test]
fn what_a_pod_tells_the_link_does_not_leave_it() {
    let mut rig = rig();
    rig.own_addresses(&["fd00::fe"]);
    let to = |mac: [u8; 6], frame: Vec<u8>| changed(frame, 0, &mac);
    let neighbour = [2, 0, 0, 0, 0, 3];
    for kind in [135, 136] {
        let frame = |to| on_link("fd00::1", to, kind, 255);
        assert_eq!(
            rig.sends(&frame("2001:db8::9")),
            Answer(DeniedByPolicy),
            "{kind}: the node would send it on"
        );
        assert_eq!(
            rig.sends(&to(neighbour, frame("fd00::2"))),
            Answer(Link),
            "{kind}: to a neighbour on the bridge"
        );
        assert_eq!(rig.sends(&frame("fd00::fe")), Answer(Link), "{kind}: to the node");
        assert_eq!(
            rig.sends(&to(neighbour, frame("fd00::fe"))),
            Answer(Link),
            "{kind}: to a neighbour in its name"
        );
        assert_eq!(rig.sends(&frame("fe80::2")), Answer(Link), "{kind}: to an address of the link");
        assert_eq!(rig.gets(&on_link("fd00::2", "fd00::1", kind, 255)), Answer(Link), "{kind}: and gets");
    }
    assert_eq!(rig.sends(&on_link("fd00::1", "ff02::1:ff00:2", 135, 255)), Answer(Link));
    // Not a port of a bridge: only what is to the veth's own address is the node's, whose test run has none.
    rig.port_of(0, [0; 6]);
    assert_eq!(rig.sends(&on_link("fd00::1", "2001:db8::9", 135, 255)), Answer(Link));
    rig.port_of(0, NODE_MAC);
    assert_eq!(rig.sends(&on_link("fd00::1", "2001:db8::9", 135, 255)), Answer(DeniedByPolicy));
}

/// Who listens to what over IPv4 is no business of the link's: ARP is broadcast.
#[test]
fn igmp_is_judged_as_what_has_no_ports() {
    let igmp = |source, to| with_options(&changed(other(source, to, 2), IP + 8, &[1]), 1);
    let mut rig = rig();
    for to in ["224.0.0.22", "224.0.0.1", "239.1.1.1"] {
        assert_eq!(rig.sends(&igmp("10.0.0.1", to)), Answer(DeniedByPolicy), "{to}");
        assert_eq!(rig.gets(&igmp("10.0.0.9", to)), Answer(DeniedByPolicy), "{to}");
    }
    rig.own_addresses(&["10.0.0.254"]);
    assert_eq!(rig.gets(&igmp("10.0.0.254", "224.0.0.1")), Answer(Node), "the node's own queries come in");
    let allowing = WORLD.replace("[Ingress, Egress]", "[Egress], egress: [{}]");
    let mut rig = Rig::new("shop/web", &allowing);
    assert_eq!(rig.sends(&igmp("10.0.0.1", "224.0.0.22")), Answer(Reason::AllowedByPolicy));
}

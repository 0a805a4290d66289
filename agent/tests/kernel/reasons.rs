//! Every reason, by a packet that gets it.

use postern_common::endpoint::{Endpoint, QUARANTINE};
use postern_common::reason::Reason;

use crate::frames;
use crate::rig::{Answer, Rig};

/// A pod that is isolated both ways and may be reached on TCP 80 by one client.
const ISOLATED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80}]
"#;

fn rig() -> Rig {
    Rig::new("shop/web", ISOLATED)
}

const WEB: (&str, u16) = ("10.0.0.1", 80);
const CLIENT: (&str, u16) = ("10.0.0.2", 40000);
const WEB6: (&str, u16) = ("fd00::1", 80);
const CLIENT6: (&str, u16) = ("fd00::2", 40000);

#[test]
fn allowed_and_denied_by_policy() {
    let table: &[(&str, Vec<u8>, Reason)] = &[
        ("the allowed port", frames::tcp(CLIENT, WEB, "S"), Reason::AllowedByPolicy),
        ("the same over IPv6", frames::tcp(CLIENT6, WEB6, "S"), Reason::AllowedByPolicy),
        ("another port", frames::tcp(CLIENT, ("10.0.0.1", 81), "S"), Reason::DeniedByPolicy),
        ("another protocol", frames::udp(CLIENT, WEB), Reason::DeniedByPolicy),
        ("SCTP is not TCP", frames::sctp(CLIENT, WEB), Reason::DeniedByPolicy),
        ("another source", frames::tcp(("10.0.0.3", 40000), WEB, "S"), Reason::DeniedByPolicy),
        ("another source over IPv6", frames::tcp(("fd00::3", 40000), WEB6, "S"), Reason::DeniedByPolicy),
        (
            "no ports: needs a rule without ports",
            frames::other("10.0.0.2", "10.0.0.1", 47),
            Reason::DeniedByPolicy,
        ),
        (
            "an echo is none of the rule's ports",
            frames::echo("10.0.0.2", "10.0.0.1", 80, false),
            Reason::DeniedByPolicy,
        ),
        (
            "an echo reply nobody asked for",
            frames::echo("10.0.0.2", "10.0.0.1", 9, true),
            Reason::DeniedByPolicy,
        ),
    ];
    for (what, frame, expected) in table {
        // A rig each: an allowed packet opens a flow that later ones would belong to.
        assert_eq!(rig().gets(frame), Answer(*expected), "{what}");
    }
}

#[test]
fn what_the_pod_sends_is_judged_by_egress_rules() {
    assert_eq!(rig().sends(&frames::tcp(WEB, CLIENT, "S")), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig().sends(&frames::udp(WEB, ("8.8.8.8", 53))), Answer(Reason::DeniedByPolicy));
}

#[test]
fn frames_that_are_not_judged_by_policy() {
    let short_tcp = &frames::tcp(CLIENT, WEB, "S")[..14 + 20 + 6];
    let mut version = frames::tcp(CLIENT, WEB, "S");
    version[14] = 0x55;
    let mut header_length = frames::tcp(CLIENT, WEB, "S");
    header_length[14] = 0x44;
    let mut version6 = frames::tcp(CLIENT6, WEB6, "S");
    version6[14] = 0x45;
    let table: &[(&str, &[u8], Reason)] = &[
        ("ARP", &frames::arp(1, "10.0.0.1", "10.0.0.2"), Reason::Link),
        ("neighbour solicitation", &frames::on_link("fd00::2", "ff02::1:ff00:1", 135, 255), Reason::Link),
        ("router advertisement", &frames::on_link("fe80::1", "ff02::1", 134, 255), Reason::Link),
        ("multicast listener report", &frames::on_link("fe80::1", "ff02::16", 143, 1), Reason::Link),
        ("an ethertype nobody knows", &frames::ethernet(0x88b5), Reason::UnknownEtherType),
        ("a TCP header cut short", short_tcp, Reason::Malformed),
        ("IPv4 with another version", &version, Reason::Malformed),
        ("IPv4 with a header shorter than it can be", &header_length, Reason::Malformed),
        ("IPv6 with another version", &version6, Reason::Malformed),
    ];
    for (what, frame, expected) in table {
        assert_eq!(rig().gets(frame), Answer(*expected), "{what}");
        assert_eq!(rig().sends(frame), Answer(*expected), "{what}, the other way");
    }
}

#[test]
fn options_and_extension_headers_do_not_hide_ports() {
    let (allowed, denied) = (frames::tcp(CLIENT, WEB, "S"), frames::tcp(CLIENT, ("10.0.0.1", 81), "S"));
    for words in 1..=10 {
        assert_eq!(
            rig().gets(&frames::with_options(&allowed, words)),
            Answer(Reason::AllowedByPolicy),
            "{words}"
        );
        assert_eq!(
            rig().gets(&frames::with_options(&denied, words)),
            Answer(Reason::DeniedByPolicy),
            "{words}"
        );
    }
    // Hop-by-hop (0), destination options (60) twice, the second one 16 bytes long.
    let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend([6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (allowed, denied) = (frames::tcp(CLIENT6, WEB6, "S"), frames::tcp(CLIENT6, ("fd00::1", 81), "S"));
    assert_eq!(rig().gets(&frames::extended(&allowed, 0, &chain)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig().gets(&frames::extended(&denied, 0, &chain)), Answer(Reason::DeniedByPolicy));
    // More headers than anyone sends: nobody goes on looking.
    let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
    assert_eq!(rig().gets(&frames::extended(&allowed, 60, &endless)), Answer(Reason::Malformed));
}

#[test]
fn the_own_node_passes() {
    let mut rig = rig();
    rig.own_addresses(&["10.0.0.254"]);
    // Test runs come with a socket, as packets of the node's own processes do; what is merely forwarded is for the lab.
    assert_eq!(rig.gets(&frames::tcp(("10.0.0.254", 40000), ("10.0.0.1", 9999), "S")), Answer(Reason::Node));
    assert_eq!(rig.sends(&frames::udp(WEB, ("10.0.0.254", 53))), Answer(Reason::Node));
    assert_eq!(rig.sends(&frames::udp(WEB, ("10.0.0.253", 53))), Answer(Reason::DeniedByPolicy));
}

#[test]
fn a_direction_that_is_not_isolated_passes_and_its_replies_do_too() {
    let mut rig = rig();
    rig.delete_policy("shop/web");
    assert_eq!(rig.gets(&frames::udp(CLIENT, WEB)), Answer(Reason::NotIsolated));
    rig.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: ingress-only}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    );
    assert_eq!(rig.gets(&frames::udp(("10.9.9.9", 53), ("10.0.0.1", 5353))), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.sends(&frames::udp(("10.0.0.1", 5353), ("10.9.9.9", 53))), Answer(Reason::NotIsolated));
    assert_eq!(rig.gets(&frames::udp(("10.9.9.9", 53), ("10.0.0.1", 5353))), Answer(Reason::Established));
}

#[test]
fn veths_without_a_known_pod() {
    let mut rig = rig();
    let quarantine =
        Endpoint { ingress_class: QUARANTINE, egress_class: QUARANTINE, epoch: 1, ..Endpoint::default() };
    rig.set_endpoint(quarantine);
    assert_eq!(rig.gets(&frames::tcp(CLIENT, WEB, "S")), Answer(Reason::Quarantined));
    assert_eq!(rig.sends(&frames::tcp(WEB, CLIENT, "S")), Answer(Reason::Quarantined));
    assert_eq!(rig.sends(&frames::arp(2, "10.0.0.1", "10.0.0.2")), Answer(Reason::Link));
    rig.remove_endpoint();
    assert_eq!(rig.gets(&frames::tcp(CLIENT, WEB, "S")), Answer(Reason::NoEndpoint));
}

#[test]
fn fragments_follow_the_first() {
    let table: &[(&str, u16, Reason)] =
        &[("allowed", 53, Reason::AllowedByPolicy), ("denied", 54, Reason::DeniedByPolicy)];
    for (what, port, first) in table {
        let mut rig = rig();
        rig.apply(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: udp}
spec: {podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}]}
",
        );
        let (source, destination) = (("10.0.0.2", 40000), ("10.0.0.1", *port));
        let later = |identification| frames::fragment(source, destination, identification, 1480, false);
        assert_eq!(rig.gets(&later(7)), Answer(Reason::OrphanFragment), "{what}: before the first");
        assert_eq!(rig.gets(&frames::fragment(source, destination, 7, 0, true)), Answer(*first), "{what}");
        let follows = if first.drops() { Reason::OrphanFragment } else { Reason::Established };
        assert_eq!(rig.gets(&later(7)), Answer(follows), "{what}: after the first");
        assert_eq!(rig.gets(&later(8)), Answer(Reason::OrphanFragment), "{what}: another datagram's");
        assert_eq!(rig.sends(&later(7)), Answer(Reason::OrphanFragment), "{what}: the other way");
    }
}

//! Frames written by hand, and what becomes of them.

use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Established, Link, Malformed, NoEndpoint, Node, NotIsolated,
    OrphanFragment, Quarantined, Related, SourceRouted, Spoofed, Tunnel, UnknownEtherType,
};
use postern_policy::model::Direction::{self, Egress, Ingress};

use super::super::sequence::{Sequence, Shown, Veth, unhex};
use super::super::world::{Policy, Services};
use super::{Expected, Model};

/// Addresses: the pod, the client, somebody in the block, the node.
pub(super) const POD: &str = "0a000001";
pub(super) const CLIENT: &str = "0a000002";
pub(super) const BLOCK: &str = "0a080101";
pub(super) const NODE: &str = "0a0000fe";
const POD6: &str = "fd000000000000000000000000000001";
const CLIENT6: &str = "fd000000000000000000000000000002";

/// Ports: 40000 to 80, and back.
pub(super) const THERE: &str = "9c400050";
pub(super) const BACK: &str = "00509c40";

pub(super) fn model(policy: Policy) -> Model {
    let veth = Veth { policy, guarded: true, bridged: false };
    Model::new(&Sequence { veth, services: Services::None, steps: Vec::new() }, 1, true)
}

fn ethernet(ethertype: &str, rest: &str) -> String {
    format!("020000000001020000000002{ethertype}{rest}")
}

/// An IPv4 packet: `fragment` is the third word's second half.
pub(super) fn v4(source: &str, destination: &str, protocol: u8, fragment: &str, body: &str) -> String {
    let length = 20 + body.len() / 2;
    let header = format!("4500{length:04x}0007{fragment}40{protocol:02x}0000{source}{destination}");
    ethernet("0800", &format!("{header}{body}"))
}

pub(super) fn v6(source: &str, destination: &str, next: u8, hops: u8, body: &str) -> String {
    let header = format!("60000000{:04x}{next:02x}{hops:02x}{source}{destination}", body.len() / 2);
    ethernet("86dd", &format!("{header}{body}"))
}

pub(super) fn tcp(ports: &str, flags: u8) -> String {
    format!("{ports}000000010000000250{flags:02x}100000000000")
}

pub(super) fn udp(ports: &str) -> String {
    format!("{ports}00080000")
}

/// SYN, SYN with ACK, ACK, RST.
pub(super) const SYN: u8 = 2;
pub(super) const SYN_ACK: u8 = 18;
pub(super) const ACK: u8 = 16;
const RST: u8 = 4;

#[track_caller]
pub(super) fn expect(model: &mut Model, direction: Direction, frame: &str, reason: Reason) {
    let shown = Shown { direction, bytes: unhex(frame), gso: false, forwarded: false };
    assert_eq!(model.judge(&shown), Expected::Exactly(reason), "{shown:?}");
}

/// One frame of a pod that has seen none before.
#[track_caller]
fn first(direction: Direction, frame: &str, reason: Reason) {
    expect(&mut model(Policy::Narrow), direction, frame, reason);
}

/// A router on the link.
const ROUTER: &str = "fe800000000000000000000000000001";

#[test]
fn frames_are_read_as_they_are_meant() {
    let syn = v4(CLIENT, POD, 6, "0000", &tcp(THERE, SYN));
    first(Ingress, &syn, AllowedByPolicy);
    first(Ingress, &format!("{syn}000000000000"), AllowedByPolicy);
    first(Ingress, &syn[..syn.len() - 2], Malformed);
    first(
        Ingress,
        &syn.replacen("08004500", "810000070800" /* one tag */, 1).replacen("0800", "08004500", 1),
        AllowedByPolicy,
    );
    first(Ingress, &syn.replacen("08004500", "88a800078100000708004500", 1), AllowedByPolicy);
    first(Ingress, &syn.replacen("08004500", "88a80007810000078100000708004500", 1), UnknownEtherType);
    first(Ingress, &ethernet("8100", "00"), Malformed);
    first(Ingress, &ethernet("88b5", "0000"), UnknownEtherType);
    first(Ingress, &syn.replacen("08004500", "08005500", 1), Malformed);
    first(Ingress, &syn.replacen("08004500", "08004400", 1), Malformed);
    first(Ingress, &syn.replacen("45000028", "45000029", 1), Malformed);
    first(Ingress, &syn.replacen("45000028", "45000013", 1), Malformed);
    first(Ingress, &syn.replacen("45000028", "45000000", 1), Malformed);
    // A data offset of four words, and of six.
    first(Ingress, &syn.replacen("5002", "4002", 1), Malformed);
    first(Ingress, &syn.replacen("5002", "6002", 1), Malformed);
    first(Ingress, &v4(CLIENT, POD, 17, "0000", "9c400035000000"), Malformed);
    first(Ingress, &v4(CLIENT, POD, 47, "0000", ""), DeniedByPolicy);
    first(Ingress, &v4(BLOCK, POD, 47, "0000", ""), AllowedByPolicy);
}

#[test]
fn ipv4_options_are_walked() {
    let syn = |options: &str| {
        let words = 5 + options.len() / 8;
        let plain = v4(CLIENT, POD, 6, "0000", &format!("{options}{}", tcp(THERE, SYN)));
        plain.replacen("08004500", &format!("08004{words:x}00"), 1)
    };
    let table = [
        ("01010101", AllowedByPolicy),
        ("94040000", AllowedByPolicy),
        ("8307040a00000900", SourceRouted),
        ("018907040a000009", SourceRouted),
        // The end of the list, whatever follows.
        ("00830704", AllowedByPolicy),
        // Options that go beyond the header, or nowhere.
        ("01010107", Malformed),
        ("07050000", Malformed),
        ("07010000", Malformed),
    ];
    for (options, reason) in table {
        first(Ingress, &syn(options), reason);
    }
}

#[test]
fn ipv6_headers_are_walked() {
    let syn = tcp(THERE, SYN);
    let table = [
        (6, String::new(), AllowedByPolicy),
        (0, "3c00010400000000 0600010400000000".to_owned(), AllowedByPolicy),
        // Hop-by-hop options that do not stand first.
        (60, "0000010400000000 0600010400000000".to_owned(), Malformed),
        // Routing headers: nowhere to go any more, somewhere to go.
        (43, "0600000000000000".to_owned(), AllowedByPolicy),
        (43, "0600000100000000".to_owned(), SourceRouted),
        // Authentication, four words more than its length says.
        (51, "06010000 00000000 00000000".to_owned(), AllowedByPolicy),
        // In one piece, twice.
        (44, "0600000000000001".to_owned(), AllowedByPolicy),
        (44, "2c00000000000001 0600000000000001".to_owned(), Malformed),
        (60, format!("{} 0600010400000000", "3c00010400000000".repeat(5)), AllowedByPolicy),
        (60, format!("{} 0600010400000000", "3c00010400000000".repeat(6)), Malformed),
        (60, "06ff".to_owned(), Malformed),
    ];
    for (next, chain, reason) in table {
        let chain = chain.replace(' ', "");
        first(Ingress, &v6(CLIENT6, POD6, next, 64, &format!("{chain}{syn}")), reason);
    }
    first(Ingress, &v6(CLIENT6, POD6, 59, 64, ""), DeniedByPolicy);
    let long = |words: usize| format!("06{:02x}{}", words - 1, "00".repeat(8 * words - 2));
    first(Ingress, &v6(CLIENT6, POD6, 60, 64, &format!("{}{syn}", long(121))), AllowedByPolicy);
    first(Ingress, &v6(CLIENT6, POD6, 60, 64, &format!("{}{syn}", long(122))), Malformed);
}

#[test]
fn the_link_works_and_nobody_pretends() {
    let arp =
        |sender: &str| ethernet("0806", &format!("0001080006040001020000000002{sender}000000000000{CLIENT}"));
    first(Egress, &arp(POD), Link);
    first(Egress, &arp("00000000"), Link);
    first(Egress, &arp(CLIENT), Spoofed);
    first(Ingress, &arp(CLIENT), Link);
    first(Ingress, &arp(CLIENT).replacen("0604", "0603", 1), Malformed);
    // Two addresses further: an ARP frame has room for 18 bytes.
    let padded = |bytes: usize| format!("{}{}", arp(POD), "00".repeat(bytes));
    first(Egress, &padded(18), Link);
    first(Egress, &padded(19), Malformed);
    first(Egress, &arp(POD).replacen("060400010200", "060400030200", 1), Malformed);
    let to_neighbour = |frame: String| frame.replacen("020000000001", "020000000003", 1);
    let neighbour = |kind: u8, code: u8, hops: u8, target: &str| {
        to_neighbour(v6(POD6, CLIENT6, 58, hops, &format!("{kind:02x}{code:02x}000060000000{target}")))
    };
    first(Egress, &neighbour(135, 0, 255, CLIENT6), Link);
    first(
        Egress,
        &neighbour(135, 0, 255, CLIENT6).replacen("020000000003", "020000000001", 1),
        DeniedByPolicy,
    );
    first(Egress, &neighbour(135, 0, 255, POD6), DeniedByPolicy);
    first(Egress, &neighbour(135, 0, 255, &format!("{CLIENT6}{}", "00".repeat(16))), Link);
    first(Egress, &neighbour(135, 0, 255, &format!("{CLIENT6}{}", "00".repeat(17))), DeniedByPolicy);
    first(Egress, &neighbour(135, 0, 254, CLIENT6), DeniedByPolicy);
    first(Egress, &neighbour(135, 1, 255, CLIENT6), DeniedByPolicy);
    first(Egress, &neighbour(136, 0, 255, POD6), Link);
    first(Egress, &neighbour(136, 0, 255, CLIENT6), Spoofed);
    first(Egress, &neighbour(136, 0, 255, ""), Spoofed);
    first(Egress, &neighbour(134, 0, 255, CLIENT6), Spoofed);
    first(Ingress, &neighbour(134, 0, 255, CLIENT6), DeniedByPolicy);
    first(Ingress, &v6(ROUTER, POD6, 58, 255, &format!("86000000{}", "00".repeat(12))), Link);
    first(Ingress, &v6(ROUTER, POD6, 58, 255, &format!("86000000{}", "00".repeat(11))), DeniedByPolicy);
    let listener = |source: &str, hops: u8, body: &str| {
        v6(source, "ff020000000000000000000000000016", 58, hops, &format!("8f00000000{body}"))
    };
    let record = format!("04000000{POD6}");
    first(Ingress, &listener(ROUTER, 1, "000000"), Link);
    first(Ingress, &listener(ROUTER, 1, &format!("000002{record}{record}")), Link);
    first(Ingress, &listener(ROUTER, 1, &format!("000001{record}{record}")), DeniedByPolicy);
    first(
        Ingress,
        &listener(ROUTER, 1, &format!("000001{}", record.replacen("0400", "0401", 1))),
        DeniedByPolicy,
    );
    first(Ingress, &listener(ROUTER, 2, "000000"), DeniedByPolicy);
    first(Ingress, &listener(CLIENT6, 1, "000000"), DeniedByPolicy);
    first(Egress, &v4(CLIENT, POD, 17, "0000", &udp(THERE)), Spoofed);
    first(Egress, &v4("00000000", "ffffffff", 17, "0000", &udp("00440043")), DeniedByPolicy);
}

#[test]
fn fragments_follow_an_allowed_first_one() {
    let piece = |ports: &str, fragment: &str, bytes: usize| {
        v4(CLIENT, POD, 17, fragment, &format!("{}{}", udp(ports), "00".repeat(bytes)))
    };
    let (allowed, denied) = (piece("9c400035", "2000", 16), piece(THERE, "2000", 16));
    let mut model = model(Policy::Narrow);
    expect(&mut model, Ingress, &piece(THERE, "0003", 0), OrphanFragment);
    expect(&mut model, Ingress, &allowed, AllowedByPolicy);
    expect(&mut model, Ingress, &piece(THERE, "0003", 0), Established);
    expect(&mut model, Ingress, &piece(THERE, "0002", 0), Malformed);
    expect(&mut model, Ingress, &piece(THERE, "0003", 0).replacen("0007", "0008", 1), OrphanFragment);
    expect(&mut model, Egress, &v4(POD, CLIENT, 17, "0003", &udp(BACK)), OrphanFragment);
    expect(&mut model, Ingress, &denied, DeniedByPolicy);
    expect(&mut model, Ingress, &piece(THERE, "0003", 0), OrphanFragment);
}

#[test]
fn flows_open_answer_and_are_established() {
    let there = |flags| v4(CLIENT, POD, 6, "0000", &tcp(THERE, flags));
    let back = |flags| v4(POD, CLIENT, 6, "0000", &tcp(BACK, flags));
    let mut model = model(Policy::Nothing);
    expect(&mut model, Ingress, &there(SYN), DeniedByPolicy);
    model.flip(Veth { policy: Policy::Narrow, guarded: true, bridged: false });
    expect(&mut model, Ingress, &there(SYN_ACK), DeniedByPolicy);
    expect(&mut model, Ingress, &there(RST), AllowedByPolicy);
    expect(&mut model, Egress, &back(SYN_ACK), DeniedByPolicy);
    expect(&mut model, Ingress, &there(SYN), AllowedByPolicy);
    expect(&mut model, Egress, &back(SYN_ACK), Established);
    // Half-open ones are looked for behind the endpoint, established ones before it.
    model.flip(Veth { policy: Policy::Missing, guarded: true, bridged: false });
    expect(&mut model, Ingress, &there(ACK), NoEndpoint);
    model.flip(Veth { policy: Policy::Narrow, guarded: true, bridged: false });
    expect(&mut model, Ingress, &there(ACK), Established);
    model.flip(Veth { policy: Policy::Missing, guarded: true, bridged: false });
    expect(&mut model, Ingress, &there(ACK), Established);
    expect(&mut model, Egress, &back(ACK), Established);
    model.flip(Veth { policy: Policy::Nothing, guarded: true, bridged: false });
    expect(&mut model, Ingress, &there(ACK), Established);
    model.advance();
    expect(&mut model, Egress, &back(ACK), DeniedByPolicy);
    expect(&mut model, Ingress, &there(ACK), DeniedByPolicy);
    model.flip(Veth { policy: Policy::Ingress, guarded: true, bridged: false });
    expect(&mut model, Egress, &back(ACK), Established);
    expect(&mut model, Ingress, &there(ACK), Established);
}

#[test]
fn a_denied_flow_is_judged_at_each_packet() {
    let at = |policy| Veth { policy, guarded: true, bridged: false };
    let there = v4(CLIENT, POD, 17, "0000", &udp("9c400035"));
    let back = v4(POD, CLIENT, 17, "0000", &udp("00359c40"));
    let mut model = model(Policy::Narrow);
    expect(&mut model, Ingress, &there, AllowedByPolicy);
    expect(&mut model, Egress, &back, Established);
    expect(&mut model, Ingress, &there, AllowedByPolicy);
    for (direction, frame) in [(Egress, &back), (Ingress, &there)] {
        model.flip(at(Policy::Nothing));
        model.advance();
        expect(&mut model, Ingress, &there, DeniedByPolicy);
        expect(&mut model, Egress, &back, DeniedByPolicy);
        model.flip(at(Policy::Narrow));
        expect(&mut model, direction, frame, Established);
    }
}

#[test]
fn what_the_pod_sends_does_not_tell_who_started() {
    let there = v4(NODE, POD, 17, "0000", &udp("9c401234"));
    let back = v4(POD, NODE, 17, "0000", &udp("12349c40"));
    let mut model = model(Policy::Nothing);
    expect(&mut model, Ingress, &there, Node);
    expect(&mut model, Egress, &back, Established);
    model.advance();
    expect(&mut model, Egress, &back, Node);
    expect(&mut model, Ingress, &there, Node);
    expect(&mut model, Egress, &back, Established);
    expect(&mut model, Ingress, &there, Established);
}

#[test]
fn a_stream_is_established_though_nobody_answers() {
    let there = v4(POD, BLOCK, 17, "0000", &udp(THERE));
    let mut model = model(Policy::Narrow);
    for _ in 0..8 {
        expect(&mut model, Egress, &there, AllowedByPolicy);
    }
    expect(&mut model, Egress, &there, Established);
}

#[test]
fn errors_are_about_something() {
    let quoted = v4(POD, BLOCK, 17, "0000", &udp(THERE)).split_off(28);
    let error =
        |kind: u8, quoted: &str| v4(CLIENT, POD, 1, "0000", &format!("{kind:02x}00000000000000{quoted}"));
    let mut model = model(Policy::Narrow);
    expect(&mut model, Ingress, &error(3, &quoted), DeniedByPolicy);
    expect(&mut model, Egress, &v4(POD, BLOCK, 17, "0000", &udp(THERE)), AllowedByPolicy);
    for kind in [3, 11, 12] {
        expect(&mut model, Ingress, &error(kind, &quoted), Related);
    }
    expect(&mut model, Ingress, &error(5, &quoted), DeniedByPolicy);
    expect(&mut model, Ingress, &error(3, &quoted[..quoted.len() - 2]), DeniedByPolicy);
    // What is quoted stands in the packet, not behind it.
    let short = error(3, &quoted[..quoted.len() - 2]);
    expect(&mut model, Ingress, &format!("{short}0000"), DeniedByPolicy);
    let other = v4(CLIENT, BLOCK, 17, "0000", &udp(THERE)).split_off(28);
    expect(&mut model, Ingress, &error(3, &other), DeniedByPolicy);
}

#[test]
fn the_node_quarantine_and_open_pods() {
    let from_node = v4(NODE, POD, 6, "0000", &tcp("9c401234", SYN));
    first(Ingress, &from_node, Node);
    let mut quarantined = model(Policy::Quarantine);
    expect(&mut quarantined, Ingress, &from_node, Node);
    expect(&mut quarantined, Ingress, &v4(CLIENT, POD, 6, "0000", &tcp(THERE, SYN)), Quarantined);
    expect(&mut quarantined, Ingress, &ethernet("88b5", "0000"), Quarantined);
    expect(&mut model(Policy::Open), Ingress, &ethernet("0800", "ff"), NotIsolated);
    expect(&mut model(Policy::Open), Egress, &v4(CLIENT, POD, 17, "0000", &udp(THERE)), NotIsolated);
    expect(&mut model(Policy::Bare), Egress, &v4(CLIENT, POD, 17, "0000", &udp(THERE)), Spoofed);
    expect(&mut model(Policy::Bare), Ingress, &v4(CLIENT, POD, 17, "0000", &udp(THERE)), NotIsolated);
    expect(&mut model(Policy::Missing), Ingress, &ethernet("0800", "ff"), NoEndpoint);
}

#[test]
fn what_is_astray_is_not_the_nodes() {
    let there = v4(POD, NODE, 17, "0000", &udp(THERE));
    let astray = there.replacen("020000000001", "020000000003", 1);
    let mut model = model(Policy::Nothing);
    expect(&mut model, Egress, &astray, DeniedByPolicy);
    for _ in 0..8 {
        expect(&mut model, Egress, &there, Node);
    }
    expect(&mut model, Egress, &there, Established);
    expect(&mut model, Egress, &astray, DeniedByPolicy);
    expect(&mut model, Egress, &there, Established);
}

#[test]
fn tunnels_end_nowhere() {
    let to = |address: &str, port: &str| v4(POD, address, 17, "0000", &udp(&format!("9c40{port}")));
    for policy in [Policy::Narrow, Policy::Ingress, Policy::Bare, Policy::Quarantine] {
        expect(&mut model(policy), Egress, &to(NODE, "1388"), Tunnel);
        expect(&mut model(policy), Egress, &v4(POD, NODE, 47, "0000", ""), Tunnel);
    }
    first(Egress, &to("e0000001", "1388"), Tunnel);
    first(Egress, &to(BLOCK, "1388"), AllowedByPolicy);
    expect(&mut model(Policy::Open), Egress, &to(NODE, "1388"), NotIsolated);
    let mut model = model(Policy::Egress);
    for _ in 0..10 {
        expect(&mut model, Ingress, &v4(NODE, POD, 17, "0000", &udp("13889c40")), NotIsolated);
        expect(&mut model, Egress, &to(NODE, "1388"), Tunnel);
    }
}

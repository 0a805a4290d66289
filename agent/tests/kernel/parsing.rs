//! Every packet shape: what can be read is judged by what it says, what cannot is dropped.

use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Established, Link, Malformed, OrphanFragment, SourceRouted,
    UnknownEtherType,
};

use crate::frames::{self, End};
use crate::rig::{Answer, Rig};

/// A pod that may be reached on TCP 80, by anyone.
const WORLD: &str = web!(
    r"
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
"
);

const WEB: End = ("10.0.0.1", 80);
const WEB6: End = ("fd00::1", 80);
/// A port that is not allowed.
const OTHER: End = ("10.0.0.1", 81);
const OTHER6: End = ("fd00::1", 81);

/// Offset of the IP header, and of the transport header behind plain ones.
const IP: usize = 14;
const TCP4: usize = IP + 20;
const TCP6: usize = IP + 40;

fn rig() -> Rig {
    Rig::new("shop/web", WORLD)
}

/// A SYN from a port of its own, so that no two frames of a test belong to one flow.
fn syn(source_port: u16, to: End) -> Vec<u8> {
    let source = if to.0.contains(':') { "fd00::9" } else { "10.0.0.9" };
    frames::tcp((source, source_port), to, "S")
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn inserted(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&frame[..at], bytes, &frame[at..]].concat()
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// Shows each frame to a rig of its own.
fn check(table: Vec<(&str, Vec<u8>, Reason)>) {
    let mut rig = rig();
    for (what, frame, expected) in table {
        assert_eq!(rig.gets(&frame), Answer(expected), "{what}");
    }
}

#[test]
fn vlan_tags_do_not_hide_anything() {
    let customer = [0x81, 0, 0, 7];
    let service = [0x88, 0xa8, 0, 9];
    let tagged = |frame: &[u8], tags: &[[u8; 4]]| inserted(frame, 12, &tags.concat());
    let mut table = Vec::new();
    for (port, (name, tags)) in (1000..).step_by(10).zip([
        ("one tag", &[customer][..]),
        ("a service tag", &[service]),
        ("two", &[service, customer]),
    ]) {
        for (offset, (allowed, denied)) in (0..).zip([(WEB, OTHER), (WEB6, OTHER6)]) {
            table.push((name, tagged(&syn(port + offset, allowed), tags), AllowedByPolicy));
            table.push((name, tagged(&syn(port + offset, denied), tags), DeniedByPolicy));
        }
        table.push((name, tagged(&frames::arp(1, "10.0.0.9", "10.0.0.1"), tags), Link));
        table.push((name, tagged(&frames::ethernet(0x88b5), tags), UnknownEtherType));
    }
    table.push(("three", tagged(&syn(2000, WEB), &[service, customer, customer]), UnknownEtherType));
    table.push(("a tag and nothing behind it", cut(tagged(&syn(2001, WEB), &[customer]), 16), Malformed));
    check(table);
}

#[test]
fn packets_that_lie_about_their_length() {
    let (tcp, tcp6) = (syn(1000, WEB), syn(1000, WEB6));
    let length = |frame: &[u8], total: usize| {
        let total = u16::try_from(total).unwrap().to_be_bytes();
        changed(frame.to_vec(), if frame[IP] >> 4 == 4 { IP + 2 } else { IP + 4 }, &total)
    };
    let mut padded = syn(1001, WEB);
    padded.extend([0; 6]);
    let mut padded6 = syn(1001, WEB6);
    padded6.extend([0; 6]);
    check(vec![
        ("more than there is", length(&tcp, 41), Malformed),
        ("less than its header", length(&tcp, 19), Malformed),
        ("none, and not cut by a device", length(&tcp, 0), Malformed),
        ("the TCP header is padding", length(&tcp, 39), Malformed),
        ("padding", padded, AllowedByPolicy),
        ("IPv6: more than there is", length(&tcp6, 21), Malformed),
        ("IPv6: none, and no jumbogram", length(&tcp6, 0), Malformed),
        ("IPv6: the TCP header is padding", length(&tcp6, 19), Malformed),
        ("IPv6: padding", padded6, AllowedByPolicy),
        ("TCP: a data offset of four words", changed(tcp.clone(), TCP4 + 12, &[0x40]), Malformed),
        ("TCP: a data offset beyond the packet", changed(tcp.clone(), TCP4 + 12, &[0x60]), Malformed),
        ("IPv6: the same", changed(tcp6.clone(), TCP6 + 12, &[0x60]), Malformed),
        ("UDP of 7 bytes", frames::with_length(cut(frames::udp(("10.0.0.9", 9), WEB), TCP4 + 7)), Malformed),
        (
            "SCTP of 11 bytes",
            frames::with_length(cut(frames::sctp(("10.0.0.9", 9), WEB), TCP4 + 11)),
            Malformed,
        ),
        (
            "ICMP of 7 bytes",
            frames::with_length(cut(frames::echo("10.0.0.9", "10.0.0.1", 1, false), TCP4 + 7)),
            Malformed,
        ),
    ]);
    // The kernel does not take test frames without a whole IP header.
    for length in TCP4..tcp.len() {
        assert_eq!(rig_of(&tcp[..length]), Answer(Malformed), "cut after {length} bytes");
    }
    for length in TCP6..tcp6.len() {
        assert_eq!(rig_of(&tcp6[..length]), Answer(Malformed), "IPv6, cut after {length} bytes");
    }
}

/// One rig for frames that leave no trace.
fn rig_of(frame: &[u8]) -> Answer {
    thread_local!(static RIG: std::cell::RefCell<Rig> = std::cell::RefCell::new(rig()));
    RIG.with_borrow_mut(|rig| rig.gets(frame))
}

#[test]
fn packets_that_devices_cut_are_judged_by_their_headers() {
    let mut rig = rig();
    // Linux writes a length of zero where it does not fit, and cuts the packet later.
    let large = |to: End, source_port| {
        let mut frame = syn(source_port, to);
        frame.extend([0; 3000]);
        changed(frame, if to.0.contains(':') { IP + 4 } else { IP + 2 }, &[0, 0])
    };
    for (port, (allowed, denied)) in (1000..).zip([(WEB, OTHER), (WEB6, OTHER6)]) {
        assert_eq!(rig.gets_large(&large(allowed, port), 1400), Answer(AllowedByPolicy));
        assert_eq!(rig.gets_large(&large(denied, port), 1400), Answer(DeniedByPolicy));
        assert_eq!(rig.gets(&large(allowed, port + 10)), Answer(Malformed), "not said to be cut");
    }
}

#[test]
fn source_routes_are_dropped() {
    let with = |options: &[u8], to: End, source_port| {
        let words = u8::try_from(options.len() / 4).unwrap();
        changed(frames::with_options(&syn(source_port, to), words), IP + 20, options)
    };
    let (loose, strict) = ([131, 7, 4, 10, 0, 0, 8, 0], [137, 7, 4, 10, 0, 0, 8, 0]);
    let mut behind = vec![1, 7, 7, 4, 0, 0, 0, 0];
    behind.extend(loose);
    check(vec![
        ("loose", with(&loose, WEB, 1000), SourceRouted),
        ("strict", with(&strict, WEB, 1001), SourceRouted),
        ("behind others", with(&behind, WEB, 1002), SourceRouted),
        ("behind the end of options", with(&[0, 131, 7, 4, 10, 0, 0, 8], WEB, 1003), AllowedByPolicy),
        ("inside another option", with(&[7, 8, 131, 7, 4, 10, 0, 0], WEB, 1004), AllowedByPolicy),
        (
            "record route, to a port that is not allowed",
            with(&[7, 7, 4, 0, 0, 0, 0, 0], OTHER, 1005),
            DeniedByPolicy,
        ),
        ("an option of one byte", with(&[7, 1, 0, 0], WEB, 1006), Malformed),
        ("an option longer than the header", with(&[1, 7, 8, 0], WEB, 1007), Malformed),
        ("an option without its length", with(&[1, 1, 1, 7], WEB, 1008), Malformed),
        (
            "IPv6 with segments left",
            frames::extended(&syn(1000, WEB6), 43, &[6, 0, 4, 1, 0, 0, 0, 0]),
            SourceRouted,
        ),
        (
            "IPv6 with none left",
            frames::extended(&syn(1001, WEB6), 43, &[6, 0, 4, 0, 0, 0, 0, 0]),
            AllowedByPolicy,
        ),
    ]);
}

#[test]
fn extension_headers_in_order_and_out_of_order() {
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next: u8| [next, 0, 4, 0, 0, 0, 0, 0];
    let atomic = |next: u8| [next, 0, 0, 0, 0, 0, 0, 7];
    let authentication = |next: u8| [next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let chain = |headers: &[&[u8]]| headers.concat();
    let all =
        chain(&[&options(60), &options(43), &routing(44), &atomic(51), &authentication(60), &options(6)]);
    check(vec![
        ("all of them", frames::extended(&syn(1000, WEB6), 0, &all), AllowedByPolicy),
        ("all of them, to another port", frames::extended(&syn(1000, OTHER6), 0, &all), DeniedByPolicy),
        (
            "hop-by-hop behind another",
            frames::extended(&syn(1001, WEB6), 60, &chain(&[&options(0), &options(6)])),
            Malformed,
        ),
        (
            "hop-by-hop twice",
            frames::extended(&syn(1002, WEB6), 0, &chain(&[&options(0), &options(6)])),
            Malformed,
        ),
        (
            "two fragment headers",
            frames::extended(&syn(1003, WEB6), 44, &chain(&[&atomic(44), &atomic(6)])),
            Malformed,
        ),
        (
            "a header that ends behind the packet",
            frames::extended(&syn(1004, WEB6), 60, &[6, 40, 1, 4, 0, 0, 0, 0]),
            Malformed,
        ),
        ("no next header", frames::extended(&syn(1005, WEB6), 60, &options(59)), DeniedByPolicy),
        (
            "a transport header 1,024 bytes in",
            frames::extended(&syn(1006, WEB6), 60, &{
                // 1,024 bytes into the frame: 970 behind the IPv6 header, of which 968 are a multiple of 8.
                let mut long = vec![0; 968];
                (long[0], long[1]) = (6, 120);
                long
            }),
            AllowedByPolicy,
        ),
        (
            "and beyond",
            frames::extended(&syn(1007, WEB6), 60, &{
                let mut long = vec![0; 976];
                (long[0], long[1]) = (6, 121);
                long
            }),
            Malformed,
        ),
    ]);
}

#[test]
fn fragments_of_both_families() {
    let mut rig = rig();
    let header = |next: u8, offset: u16, more: bool, id: u8| {
        let place = (offset | u16::from(more)).to_be_bytes();
        [next, 0, place[0], place[1], 0, 0, 0, id]
    };
    let fragment = |to: End, offset: u16, more: bool, id: u8| {
        frames::extended(&syn(1000, to), 44, &header(6, offset, more, id))
    };
    assert_eq!(rig.gets(&fragment(WEB6, 1480, false, 1)), Answer(OrphanFragment), "overtakes the first");
    assert_eq!(rig.gets(&fragment(WEB6, 0, true, 1)), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&fragment(WEB6, 1480, false, 1)), Answer(Established));
    assert_eq!(rig.gets(&fragment(WEB6, 1480, false, 2)), Answer(OrphanFragment), "another datagram's");
    assert_eq!(rig.gets(&fragment(OTHER6, 0, true, 3)), Answer(DeniedByPolicy));
    assert_eq!(rig.gets(&fragment(OTHER6, 1480, false, 3)), Answer(OrphanFragment));
    assert_eq!(rig.gets(&fragment(WEB6, 8, false, 1)), Answer(Malformed), "over the first one's TCP flags");
    assert_eq!(rig.gets(&fragment(WEB6, 16, false, 1)), Answer(Malformed));
    assert_eq!(rig.gets(&fragment(WEB6, 24, false, 1)), Answer(Established));
    assert_eq!(
        rig.gets(&fragment(OTHER6, 0, true, 1)),
        Answer(DeniedByPolicy),
        "another first one of the same"
    );
    assert_eq!(rig.gets(&fragment(WEB6, 1480, false, 1)), Answer(OrphanFragment), "takes the leave away");

    let tiny = frames::with_length(cut(syn(1001, WEB), TCP4 + 8));
    assert_eq!(
        rig.gets(&changed(tiny, IP + 6, &[0x20, 0])),
        Answer(Malformed),
        "a first one without TCP's flags"
    );
    let over = |offset: u8| changed(syn(1002, WEB), IP + 6, &[0, offset]);
    assert_eq!(rig.gets(&over(3)), Answer(OrphanFragment));
    assert_eq!(rig.gets(&changed(syn(1002, WEB), IP + 6, &[0x20, 0])), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&over(1)), Answer(Malformed), "over the first one's TCP flags");
    assert_eq!(rig.gets(&over(2)), Answer(Malformed));
    assert_eq!(rig.gets(&over(3)), Answer(Established));

    // The fragment header of the first says options, behind which TCP comes; so do those of the others.
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    let first = frames::extended(&syn(1003, WEB6), 44, &[header(60, 0, true, 9), options].concat());
    assert_eq!(rig.gets(&first), Answer(AllowedByPolicy));
    let later = |next| frames::extended(&syn(1003, WEB6), 44, &header(next, 1480, false, 9));
    assert_eq!(rig.gets(&later(6)), Answer(OrphanFragment), "of another datagram");
    assert_eq!(rig.gets(&later(60)), Answer(Established));
}

//! Frames for the rig, built by a library that knows nothing of ours.

use std::net::IpAddr;

use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// Where all frames with packets go by their MAC address: what a pod sends, to its node.
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// One end of a connection.
pub(crate) type End = (&'static str, u16);

fn ip(source: &str, destination: &str) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], NODE_MAC);
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("two families in one packet"),
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

/// A TCP segment with these flags, out of `SAFR` (SYN, ACK, FIN, RST).
pub(crate) fn tcp(source: End, destination: End, flags: &str) -> Vec<u8> {
    let mut segment = ip(source.0, destination.0).tcp(source.1, destination.1, 1000, 4096);
    for flag in flags.chars() {
        segment = match flag {
            'S' => segment.syn(),
            'A' => segment.ack(2000),
            'F' => segment.fin(),
            'R' => segment.rst(),
            other => panic!("no such flag: {other}"),
        };
    }
    written(|frame| segment.write(frame, &[]).unwrap())
}

/// A datagram with a few bytes of payload.
pub(crate) fn udp(source: End, destination: End) -> Vec<u8> {
    written(|frame| ip(source.0, destination.0).udp(source.1, destination.1).write(frame, b"hello").unwrap())
}

/// An SCTP INIT chunk's packet: common header and the chunk's first bytes (RFC 9260 3.3.2).
pub(crate) fn sctp(source: End, destination: End) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(source.1.to_be_bytes());
    payload.extend(destination.1.to_be_bytes());
    payload.extend([0; 8]);
    payload.extend([1, 0, 0, 20]);
    payload.extend([0; 16]);
    written(|frame| ip(source.0, destination.0).write(frame, IpNumber::SCTP, &payload).unwrap())
}

/// A packet of any other protocol.
pub(crate) fn other(source: &str, destination: &str, protocol: u8) -> Vec<u8> {
    written(|frame| ip(source, destination).write(frame, IpNumber(protocol), &[0; 32]).unwrap())
}

/// An echo request, or its reply.
pub(crate) fn echo(source: &str, destination: &str, identifier: u16, reply: bool) -> Vec<u8> {
    let builder = ip(source, destination);
    written(|frame| match (source.contains(':'), reply) {
        (false, false) => builder.icmpv4_echo_request(identifier, 1).write(frame, b"ping").unwrap(),
        (false, true) => builder.icmpv4_echo_reply(identifier, 1).write(frame, b"ping").unwrap(),
        (true, false) => builder.icmpv6_echo_request(identifier, 1).write(frame, b"ping").unwrap(),
        (true, true) => builder.icmpv6_echo_reply(identifier, 1).write(frame, b"ping").unwrap(),
    })
}

/// An ICMP error about a frame: its packet is quoted whole.
pub(crate) fn icmp_error(source: &str, destination: &str, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let quoted = &about[Ethernet2Header::LEN..];
    let builder = ip(source, destination);
    written(|frame| {
        if source.contains(':') {
            builder.icmpv6_raw(kind, code, [0; 4]).write(frame, quoted).unwrap();
        } else {
            builder.icmpv4_raw(kind, code, [0; 4]).write(frame, quoted).unwrap();
        }
    })
}

/// A fragment of a UDP datagram: the first one (offset 0) holds the ports.
pub(crate) fn fragment(
    source: End,
    destination: End,
    identification: u16,
    offset: u16,
    more: bool,
) -> Vec<u8> {
    let mut frame = udp(source, destination);
    let (mut header, _) = Ipv4Header::from_slice(&frame[Ethernet2Header::LEN..]).unwrap();
    header.identification = identification;
    header.fragment_offset = (offset / 8).try_into().unwrap();
    header.more_fragments = more;
    header.header_checksum = header.calc_header_checksum();
    let bytes = header.to_bytes();
    frame[Ethernet2Header::LEN..Ethernet2Header::LEN + bytes.len()].copy_from_slice(&bytes);
    frame
}

/// Puts bytes of extension headers between an IPv6 header and what it carries. `first` is the number of the first.
pub(crate) fn extended(frame: &[u8], first: u8, extensions: &[u8]) -> Vec<u8> {
    let after = Ethernet2Header::LEN + Ipv6Header::LEN;
    let mut extended = [&frame[..after], extensions, &frame[after..]].concat();
    extended[Ethernet2Header::LEN + 6] = first;
    let payload = u16::try_from(extended.len() - after).unwrap();
    extended[Ethernet2Header::LEN + 4..][..2].copy_from_slice(&payload.to_be_bytes());
    extended
}

/// An IPv4 packet with options: `words` of four bytes.
pub(crate) fn with_options(frame: &[u8], words: u8) -> Vec<u8> {
    let after = Ethernet2Header::LEN + Ipv4Header::MIN_LEN;
    let options = vec![1; usize::from(words) * 4];
    let mut extended = [&frame[..after], &options, &frame[after..]].concat();
    extended[Ethernet2Header::LEN] = 0x40 | (5 + words);
    with_length(extended)
}

/// Makes an IPv4 header's total length that of the frame.
pub(crate) fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(frame.len() - Ethernet2Header::LEN).unwrap();
    frame[Ethernet2Header::LEN + 2..][..2].copy_from_slice(&length.to_be_bytes());
    frame
}

/// An ICMPv6 message of the link itself, as its RFC has it: with a hop limit that tells that no router passed it on. What it is about, if
/// anything, is its destination; of a group of those that may have an address, one in `fd00::/64`.
pub(crate) fn on_link(source: &str, destination: &str, kind: u8, hop_limit: u8) -> Vec<u8> {
    let group: std::net::Ipv6Addr = destination.parse().unwrap();
    let target = match group.segments() {
        [0xff02, 0, 0, 0, 0, 1, high, low] => [0xfd00, 0, 0, 0, 0, 0, high & 0xff, low].into(),
        [0xff02, 0, 0, 0, 0, 0, 0, 1] => "fd00::1".parse().unwrap(),
        _ => group,
    };
    on_link_about(source, destination, kind, hop_limit, target)
}

/// The same about any address.
pub(crate) fn on_link_about(
    source: &str,
    destination: &str,
    kind: u8,
    hop_limit: u8,
    target: std::net::Ipv6Addr,
) -> Vec<u8> {
    let body = match kind {
        133 => vec![],
        134 => vec![0; 8],
        137 => vec![0; 32],
        143 => [&[4, 0, 0, 0], &target.octets()[..]].concat(),
        _ => target.octets().to_vec(),
    };
    // A report has one record.
    let counted = if kind == 143 { [0, 0, 0, 1] } else { [0; 4] };
    on_link_with(source, destination, kind, hop_limit, counted, &body)
}

/// The same of any content.
pub(crate) fn on_link_with(
    source: &str,
    destination: &str,
    kind: u8,
    hop_limit: u8,
    header: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut frame = written(|frame| {
        ip(source, destination).icmpv6_raw(kind, 0, header).write(frame, body).unwrap();
    });
    frame[Ethernet2Header::LEN + 7] = hop_limit;
    frame
}

/// An ARP message (operation 1: request, 2: reply).
pub(crate) fn arp(operation: u8, sender: &str, target: &str) -> Vec<u8> {
    let octets = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut frame = ethernet(0x0806);
    frame.truncate(Ethernet2Header::LEN);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 2]);
    frame.extend(octets(sender));
    frame.extend([0; 6]);
    frame.extend(octets(target));
    frame
}

/// A frame of any ethertype.
pub(crate) fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0; 46]);
    frame
}

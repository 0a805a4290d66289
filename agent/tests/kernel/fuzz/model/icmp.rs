//! ICMP and ICMPv6: echoes, errors and what they quote, and the link's own messages.

use std::net::{IpAddr, Ipv6Addr};

use super::packet::{self, Packet, SCTP, TCP, Transport, UDP, be16};
use super::{ipv4, ipv6};

/// What a message is to flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Echo { identifier: u16, request: bool },
    Error(&'a [u8]),
    Other,
}

/// Sorts a message of at least 8 bytes (RFC 792, RFC 4443).
pub(super) fn message(v6: bool, bytes: &[u8]) -> Message<'_> {
    let identifier = be16(bytes, 4).unwrap_or_default();
    match (v6, bytes[0]) {
        (false, 8) | (true, 128) => Message::Echo { identifier, request: true },
        (false, 0) | (true, 129) => Message::Echo { identifier, request: false },
        // Unreachable, time exceeded, parameter problem; and packet too big.
        (false, 3 | 11 | 12) | (true, 1..=4) => Message::Error(&bytes[8..]),
        _ => Message::Other,
    }
}

/// A packet that an error is about: what it had to tell flows apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// How much of what a packet carries an error quotes at least (RFC 792: 64 bits).
const QUOTED: usize = 8;

/// Reads a quoted packet, of the family of the packet that quotes it. It may be cut off anywhere behind its first
/// `QUOTED` bytes of transport, so that its lengths say nothing.
pub(super) fn quoted(v6: bool, bytes: &[u8]) -> Option<Quoted> {
    let (source, destination, protocol, body) = if v6 {
        let header = ipv6::header(bytes)?;
        let chain = ipv6::walk(header[6], &bytes[40..], usize::MAX, true).ok()?;
        if chain.is_later() {
            return None;
        }
        let (source, destination) = (ipv6::address(header, 8), ipv6::address(header, 24));
        (IpAddr::V6(source), IpAddr::V6(destination), chain.protocol, chain.body)
    } else {
        let header = ipv4::header(bytes)?;
        if ipv4::fragment(header).0 != 0 {
            return None;
        }
        let (source, destination) = (ipv4::address(header, 12), ipv4::address(header, 16));
        (IpAddr::V4(source), IpAddr::V4(destination), header[9], &bytes[header.len()..])
    };
    let body = body.get(..QUOTED)?;
    let (source_port, destination_port) = match protocol {
        TCP | UDP | SCTP => (be16(body, 0)?, be16(body, 2)?),
        packet::ICMP | packet::ICMPV6 => echo(protocol == packet::ICMPV6, body)?,
        _ => return None,
    };
    Some(Quoted { source, destination, protocol, source_port, destination_port })
}

fn echo(v6: bool, body: &[u8]) -> Option<(u16, u16)> {
    match message(v6, body) {
        Message::Echo { identifier, .. } => Some((identifier, identifier)),
        Message::Error(_) | Message::Other => None,
    }
}

/// What only some may tell the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A neighbour advertisement for this address, where it is long enough to hold one.
    Address(Option<Ipv6Addr>),
    /// Router advertisements and redirects.
    Routing,
}

/// What a packet claims to somebody who looks at no more than type, code and hop limit.
pub(super) fn claim(packet: &Packet<'_>) -> Option<Claim> {
    let (IpAddr::V6(_), Transport::Icmp { v6: true, bytes }) = (packet.source, &packet.transport) else {
        return None;
    };
    if packet.fragment.is_some() || packet.hops != 255 || bytes[1] != 0 {
        return None;
    }
    match bytes[0] {
        134 | 137 => Some(Claim::Routing),
        136 => Some(Claim::Address((bytes.len() >= 24).then(|| ipv6::address(bytes, 8)))),
        _ => None,
    }
}

/// Records of a report that are looked at.
const RECORDS: usize = 72;

/// Whether a packet is one of the link's own messages, which are never fragmented (RFC 6980), and have nothing behind them.
pub(super) fn is_link(packet: &Packet<'_>) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination), Transport::Icmp { v6: true, bytes }) =
        (packet.source, packet.destination, &packet.transport)
    else {
        return false;
    };
    if packet.fragment.is_some() || packet.trailer > 0 {
        return false;
    }
    match bytes[0] {
        133..=137 => {
            packet.hops == 255
                && packet.extensions.is_empty()
                && bytes[1] == 0
                && is_neighbour_discovery(source, destination, bytes)
        }
        130..=132 | 143 => {
            packet.hops == 1
                && matches!(packet.extensions[..], [] | [(0, 8)])
                && (is_link_local(source) || source.is_unspecified())
                && is_listener(destination, bytes)
        }
        _ => false,
    }
}

/// RFC 4861 4.
fn is_neighbour_discovery(source: Ipv6Addr, destination: Ipv6Addr, bytes: &[u8]) -> bool {
    let length = bytes.len();
    let is_one = !destination.is_multicast() && !destination.is_unspecified();
    let to_all_or_one = destination == of_link(1) || is_one;
    let target = || (length >= 24).then(|| ipv6::address(bytes, 8)).filter(|it| !it.is_multicast());
    match bytes[0] {
        133 => length <= 24 && (destination == of_link(2) || is_link_local(destination)),
        134 => is_link_local(source) && length >= 16 && to_all_or_one,
        135 => target().is_some_and(|target| {
            let [.., a, b, c] = target.octets();
            let group =
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            length <= 40 && (destination == group || destination == target && !source.is_unspecified())
        }),
        136 => target().is_some() && length <= 32 && to_all_or_one,
        137 => is_link_local(source) && length >= 40 && to_all_or_one,
        _ => false,
    }
}

/// RFC 2710 3, RFC 3810 5.
fn is_listener(destination: Ipv6Addr, bytes: &[u8]) -> bool {
    let length = bytes.len();
    if bytes[0] == 143 {
        let Some(records) = be16(bytes, 6).map(usize::from).filter(|records| *records <= RECORDS) else {
            return false;
        };
        let mut rest = &bytes[8..];
        for _ in 0..records {
            let Some(sources) = be16(rest, 2) else { return false };
            // Neither may a record have auxiliary data, nor end behind the message.
            match (rest[1], rest.get(20 + 16 * usize::from(sources)..)) {
                (0, Some(behind)) => rest = behind,
                _ => return false,
            }
        }
        return rest.is_empty() && destination == of_link(0x16);
    }
    if length < 24 || !destination.is_multicast() {
        return false;
    }
    let group = ipv6::address(bytes, 8);
    match bytes[0] {
        130 => {
            let sources = be16(bytes, 26).map(usize::from);
            (length == 24 || sources.is_some_and(|sources| length == 28 + 16 * sources))
                && (destination == of_link(1) || destination == group)
        }
        131 => length == 24 && destination == group,
        132 => length == 24 && destination == of_link(2),
        _ => false,
    }
}

/// A well-known group of the link.
fn of_link(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, number)
}

/// `fe80::/10`
pub(super) fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

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

/// The link's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Solicitations.
    Solicitation,
    /// A neighbour advertisement for this address, where it is long enough to hold one.
    NeighbourAdvertisement(Option<Ipv6Addr>),
    /// Router advertisements and redirects.
    OfRouters,
    /// Multicast listener messages.
    Listener,
}

/// Whether a packet is one of the link's own messages, which are never fragmented (RFC 6980).
pub(super) fn link(packet: &Packet<'_>) -> Option<Link> {
    let (IpAddr::V6(source), Transport::Icmp { v6: true, bytes }) = (packet.source, &packet.transport) else {
        return None;
    };
    if packet.fragment.is_some() {
        return None;
    }
    match bytes[0] {
        133..=137 if packet.hops != 255 || bytes[1] != 0 => None,
        133 | 135 => Some(Link::Solicitation),
        134 | 137 => Some(Link::OfRouters),
        136 => Some(Link::NeighbourAdvertisement((bytes.len() >= 24).then(|| ipv6::address(bytes, 8)))),
        130..=132 | 143 if packet.hops == 1 && (is_link_local(source) || source.is_unspecified()) => {
            Some(Link::Listener)
        }
        _ => None,
    }
}

/// `fe80::/10`
pub(super) fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

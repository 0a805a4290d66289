//! Reads frames as `docs/packet-path.md` ("Reading") and the RFCs say. Written from these alone, in plain slices.
//!
//! Where a frame is wrong in several ways, what stands first in it decides.

use std::net::{IpAddr, Ipv4Addr};

use postern_common::reason::Reason;

use super::{ipv4, ipv6};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// A request or reply, or another message of the same form.
    Arp {
        /// Whose address the sender says it has.
        sender: Ipv4Addr,
    },
    /// A packet, or a fragment of one.
    Ip(Packet<'a>),
}

/// A packet of either family; both addresses are of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Time to live, or hop limit.
    pub(super) hops: u8,
    /// Where it is one of several fragments.
    pub(super) fragment: Option<Fragment>,
    /// What stands behind all headers of the network layer, whatever it is.
    pub(super) protocol: u8,
    /// IPv6 extension headers in front of that, with their lengths.
    pub(super) extensions: Vec<(u8, usize)>,
    /// Bytes of the frame behind the packet.
    pub(super) trailer: usize,
    pub(super) transport: Transport<'a>,
}

/// Which part of which datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) identification: u32,
    /// What the IP or fragment header says is next, which is the same in all of them.
    pub(super) protocol: u8,
    pub(super) part: Part,
}

/// Which of a datagram's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// So many from the beginning.
    First(usize),
    /// Those from here on.
    Later(usize),
}

impl Part {
    /// Bytes at an offset in units of 8 bytes.
    pub(super) fn at(offset: u16, bytes: &[u8]) -> Self {
        if offset == 0 { Self::First(bytes.len()) } else { Self::Later(8 * usize::from(offset)) }
    }
}

/// What a packet carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Transport<'a> {
    /// TCP, UDP, SCTP.
    Ports {
        protocol: u8,
        source: u16,
        destination: u16,
        /// TCP's.
        flags: Flags,
    },
    /// ICMP or ICMPv6, over either family, from the type on.
    Icmp { v6: bool, bytes: &'a [u8] },
    /// Anything else.
    Other,
    /// The later part of something.
    Later,
}

/// TCP's flags, all off for other protocols.
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) fin: bool,
    pub(super) syn: bool,
    pub(super) rst: bool,
    pub(super) ack: bool,
}

impl Flags {
    fn of(byte: u8) -> Self {
        Self { fin: byte & 1 != 0, syn: byte & 2 != 0, rst: byte & 4 != 0, ack: byte & 16 != 0 }
    }
}

/// Big-endian 16 bits.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The ethertype behind VLAN tags, and where what it names begins.
fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    for tag in 0.. {
        let ethertype = be16(frame, at)?;
        if tag == 2 || !matches!(ethertype, 0x8100 | 0x88a8) {
            return Some((ethertype, at + 2));
        }
        at += 4;
    }
    None
}

/// Reads a frame; an error is why it is dropped.
pub(super) fn read(frame: &[u8], gso: bool) -> Result<Content<'_>, Reason> {
    let (ethertype, at) = ethertype(frame).ok_or(Reason::Malformed)?;
    match ethertype {
        0x0800 => ipv4::read(&frame[at..], gso).map(Content::Ip),
        0x0806 => arp(&frame[at..]),
        0x86dd => ipv6::read(&frame[at..], at, gso).map(Content::Ip),
        _ => Err(Reason::UnknownEtherType),
    }
}

/// Whether a frame says that it is ARP, or ends before it says what it is.
pub(super) fn is_of_no_family(frame: &[u8]) -> bool {
    matches!(ethertype(frame), None | Some((0x0806, _)))
}

/// Where a frame says it comes from, whatever else is wrong with it; nothing where it is of no family or too short.
pub(super) fn source(frame: &[u8]) -> Option<IpAddr> {
    let (ethertype, at) = ethertype(frame)?;
    let bytes = &frame[at..];
    match ethertype {
        0x0800 if bytes.len() >= 20 => Some(ipv4::address(bytes, 12).into()),
        0x86dd if bytes.len() >= 40 => Some(ipv6::address(bytes, 8).into()),
        _ => None,
    }
}

/// RFC 826, for Ethernet (1) and IPv4 (0x0800) with their address lengths: a request (1) or a reply (2), in a frame that is padded to its 60
/// bytes, and as many more as it has tags, at most.
fn arp(bytes: &[u8]) -> Result<Content<'_>, Reason> {
    let is_message = bytes.len() >= 28 && bytes[..7] == [0, 1, 8, 0, 6, 4, 0] && matches!(bytes[7], 1 | 2);
    if !is_message || bytes.len() > 60 - 14 {
        return Err(Reason::Malformed);
    }
    Ok(Content::Arp { sender: Ipv4Addr::new(bytes[14], bytes[15], bytes[16], bytes[17]) })
}

/// Reads what an unfragmented packet or a first fragment carries; `body` ends where the packet does.
pub(super) fn transport(protocol: u8, body: &[u8]) -> Result<Transport<'_>, Reason> {
    let needed = match protocol {
        TCP => 20,
        SCTP => 12,
        UDP | ICMP | ICMPV6 => 8,
        _ => return Ok(Transport::Other),
    };
    if body.len() < needed {
        return Err(Reason::Malformed);
    }
    if protocol == ICMP || protocol == ICMPV6 {
        return Ok(Transport::Icmp { v6: protocol == ICMPV6, bytes: body });
    }
    let flags = if protocol == TCP {
        let words = usize::from(body[12] >> 4);
        if words < 5 || body.len() < 4 * words {
            return Err(Reason::Malformed);
        }
        Flags::of(body[13])
    } else {
        Flags::default()
    };
    let (Some(source), Some(destination)) = (be16(body, 0), be16(body, 2)) else {
        return Err(Reason::Malformed);
    };
    Ok(Transport::Ports { protocol, source, destination, flags })
}

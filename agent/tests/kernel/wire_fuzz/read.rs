//! Frames read as those who get them do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::shape::{ICMP, ICMPV6, TCP, UDP};

/// A frame that was read.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    /// Bytes, tags among them.
    pub(super) length: usize,
    pub(super) tags: usize,
    pub(super) content: Content<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum Content<'a> {
    Arp { operation: u16, sender: Ipv4Addr },
    Ip(Packet<'a>),
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) hops: u8,
    /// Whether it stands right behind the IP header, and whether behind nothing else but hop-by-hop options of 8 bytes.
    pub(super) is_first: bool,
    pub(super) body: &'a [u8],
    /// Bytes of the frame behind the packet.
    pub(super) behind: usize,
}

impl Packet<'_> {
    /// Source and destination port; an echo's identifier for both; zeroes where there are none.
    pub(super) fn ports(&self) -> (u16, u16) {
        let word = |at| self.body.get(at..at + 2).map_or(0, |it: &[u8]| u16::from_be_bytes([it[0], it[1]]));
        match self.protocol {
            TCP | UDP => (word(0), word(2)),
            ICMP | ICMPV6 if self.is_echo() => (word(4), word(4)),
            _ => (0, 0),
        }
    }

    pub(super) fn kind(&self) -> Option<u8> {
        matches!(self.protocol, ICMP | ICMPV6).then(|| self.body.first().copied()).flatten()
    }

    fn is_echo(&self) -> bool {
        self.is_request() || self.is_echo_reply()
    }

    pub(super) fn is_request(&self) -> bool {
        matches!((self.protocol, self.kind()), (ICMP, Some(8)) | (ICMPV6, Some(128)))
    }

    fn is_echo_reply(&self) -> bool {
        matches!((self.protocol, self.kind()), (ICMP, Some(0)) | (ICMPV6, Some(129)))
    }

    /// Whether it belongs to flows.
    pub(super) fn has_flow(&self) -> bool {
        matches!(self.protocol, TCP | UDP) || self.is_echo()
    }
}

/// Reads a frame as far as there is sense in it.
pub(super) fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (mut at, mut tags) = (12, 0);
    while matches!(bytes.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        (at, tags) = (at + 4, tags + 1);
    }
    let rest = &bytes[at + 2..];
    let content = match bytes.get(at..at + 2)? {
        [8, 0] => Content::Ip(v4(rest)?),
        [0x86, 0xdd] => Content::Ip(v6(rest)?),
        [8, 6] if rest.len() >= 28 && rest[..6] == [0, 1, 8, 0, 6, 4] => Content::Arp {
            operation: u16::from_be_bytes([rest[6], rest[7]]),
            sender: Ipv4Addr::new(rest[14], rest[15], rest[16], rest[17]),
        },
        _ => Content::Other,
    };
    Some(Frame { length: bytes.len(), tags, content })
}

/// What a raw socket gets of IPv4: all of the packet. (Of IPv6 it gets no header.)
pub(super) fn v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let header = 4 * usize::from(*bytes.first()? & 15);
    let length = usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?).into());
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        protocol: bytes[9],
        hops: bytes[8],
        is_first: true,
        body: bytes.get(header..length)?,
        behind: bytes.len() - length,
    })
}

fn v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let length = 40 + usize::from(u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?));
    let address =
        |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?).into());
    let (mut protocol, mut body, mut is_first) = (bytes[6], bytes.get(40..length)?, true);
    if protocol == 0 {
        (protocol, body, is_first) = (*body.first()?, body.get(8..)?, false);
    }
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        protocol,
        hops: bytes[7],
        is_first,
        body,
        behind: bytes.len() - length,
    })
}

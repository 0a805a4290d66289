//! IPv4 (RFC 791), options included.

use aya_ebpf::programs::TcContext;

use super::{Fragment, Packet, transport};
use crate::frame::{self, ETHERNET, Unreadable};

/// Fragment offset in units of eight bytes.
const OFFSET: u16 = 0x1fff;
/// More fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;

/// The fixed part of the header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version_and_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    time_to_live: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

/// Parses the IPv4 header behind an Ethernet header and the transport header behind that.
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet<[u8; 4]>) -> Result<(), Unreadable> {
    let header: Header = frame::read(ctx, ETHERNET)?;
    let length = usize::from(header.version_and_length & 0x0f) * 4;
    if header.version_and_length >> 4 != 4 || length < size_of::<Header>() {
        return Err(Unreadable::Malformed);
    }
    packet.source = header.source;
    packet.destination = header.destination;
    packet.protocol = header.protocol;
    packet.identification = u32::from(u16::from_be(header.identification));
    let fragment = u16::from_be(header.fragment);
    if fragment & OFFSET != 0 {
        packet.fragment = Fragment::Later;
        return Ok(());
    }
    if fragment & MORE_FRAGMENTS != 0 {
        packet.fragment = Fragment::First;
    }
    transport::parse(ctx, ETHERNET + length, header.protocol, &mut packet.transport)
}

/// Gives an ICMP error the identity of the flow it is about: see [`crate::family::Address::quote`]. A later fragment is
/// about nothing that can be told: it has no ports.
#[inline(never)]
pub fn quote(ctx: &TcContext, packet: &mut Packet<[u8; 4]>) -> bool {
    let offset = packet.transport.inner;
    let Ok(header) = ctx.load::<Header>(offset) else {
        return false;
    };
    let length = usize::from(header.version_and_length & 0x0f) * 4;
    if header.version_and_length >> 4 != 4
        || length < size_of::<Header>()
        || u16::from_be(header.fragment) & OFFSET != 0
        || header.source != packet.destination
        || !transport::quote(ctx, offset + length, header.protocol, &mut packet.transport)
    {
        return false;
    }
    packet.source = header.destination;
    packet.protocol = header.protocol;
    true
}

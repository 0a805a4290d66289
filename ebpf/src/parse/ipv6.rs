//! IPv6 (RFC 8200) with extension headers.

use aya_ebpf::programs::TcContext;

use super::{Fragment, Packet, transport};
use crate::frame::{self, ETHERNET, Unreadable};

/// Extension headers that are followed; more is not seen outside of attacks (RFC 8200 4.1 has each at most once, the
/// destination options twice).
const MAX_EXTENSIONS: usize = 6;

/// No transport header is looked for beyond this offset of the frame.
const MAX_OFFSET: usize = 1024;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Fragment offset in units of eight bytes.
const OFFSET: u16 = 0xfff8;
/// More fragments follow.
const MORE_FRAGMENTS: u16 = 1;

/// The fixed header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version_class_label: [u8; 4],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// Parses the IPv6 header behind an Ethernet header, its extension headers, and the transport header behind those.
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet<[u8; 16]>) -> Result<(), Unreadable> {
    let header: Header = frame::read(ctx, ETHERNET)?;
    if header.version_class_label[0] >> 4 != 6 {
        return Err(Unreadable::Malformed);
    }
    packet.source = header.source;
    packet.destination = header.destination;
    let mut protocol = header.next_header;
    let mut offset = ETHERNET + size_of::<Header>();
    let mut extensions = 0;
    while is_extension(protocol) {
        if extensions == MAX_EXTENSIONS || offset > MAX_OFFSET {
            return Err(Unreadable::Malformed);
        }
        let extension: [u8; 8] = frame::read(ctx, offset)?;
        let words = usize::from(extension[1]);
        let next = extension[0];
        if protocol == FRAGMENT {
            let place = u16::from_be_bytes([extension[2], extension[3]]);
            packet.identification =
                u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
            if place & OFFSET != 0 {
                packet.fragment = Fragment::Later;
                packet.protocol = next;
                return Ok(());
            }
            if place & MORE_FRAGMENTS != 0 {
                packet.fragment = Fragment::First;
            }
        }
        offset += match protocol {
            FRAGMENT => 8,
            // RFC 4302 2.2: in words of four bytes, minus two.
            AUTHENTICATION => (words + 2) * 4,
            _ => (words + 1) * 8,
        };
        protocol = next;
        extensions += 1;
    }
    if offset > MAX_OFFSET {
        return Err(Unreadable::Malformed);
    }
    packet.protocol = protocol;
    transport::parse(ctx, offset, protocol, &mut packet.transport)
}

#[inline(always)]
fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// Gives an ICMPv6 error the identity of the flow it is about: see [`crate::family::Address::quote`]. Of extension
/// headers, the fragment header of a first fragment is followed: packets that are too big may have one.
#[inline(never)]
pub fn quote(ctx: &TcContext, packet: &mut Packet<[u8; 16]>) -> bool {
    let offset = packet.transport.inner;
    let Ok(header) = ctx.load::<Header>(offset) else {
        return false;
    };
    let mut protocol = header.next_header;
    let mut offset = offset + size_of::<Header>();
    if protocol == FRAGMENT {
        let Ok(extension) = ctx.load::<[u8; 8]>(offset) else {
            return false;
        };
        if u16::from_be_bytes([extension[2], extension[3]]) & OFFSET != 0 {
            return false;
        }
        protocol = extension[0];
        offset += extension.len();
    }
    if header.version_class_label[0] >> 4 != 6
        || header.source != packet.destination
        || !transport::quote(ctx, offset, protocol, &mut packet.transport)
    {
        return false;
    }
    packet.source = header.destination;
    packet.protocol = protocol;
    true
}

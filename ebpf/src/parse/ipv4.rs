//! IPv4 (RFC 791), options included.

use aya_ebpf::programs::TcContext;

use super::{Fragment, Packet, Transport, transport};
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
pub fn parse(ctx: &TcContext) -> Result<Packet<[u8; 4]>, Unreadable> {
    let header: Header = frame::read(ctx, ETHERNET)?;
    let length = usize::from(header.version_and_length & 0x0f) * 4;
    if header.version_and_length >> 4 != 4 || length < size_of::<Header>() {
        return Err(Unreadable::Malformed);
    }
    let fragment = u16::from_be(header.fragment);
    let identification = u32::from(u16::from_be(header.identification));
    let fragment = if fragment & OFFSET != 0 {
        Fragment::Later(identification)
    } else if fragment & MORE_FRAGMENTS != 0 {
        Fragment::First(identification)
    } else {
        Fragment::Whole
    };
    let transport = match fragment {
        Fragment::Later(_) => Transport::default(),
        Fragment::First(_) | Fragment::Whole => transport::parse(ctx, ETHERNET + length, header.protocol)?,
    };
    Ok(Packet {
        source: header.source,
        destination: header.destination,
        protocol: header.protocol,
        fragment,
        transport,
    })
}

//! IPv6 (RFC 8200) with extension headers.

use aya_ebpf::programs::TcContext;

use super::{Fragment, Packet, Transport, transport};
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
pub fn parse(ctx: &TcContext) -> Result<Packet<[u8; 16]>, Unreadable> {
    let header: Header = frame::read(ctx, ETHERNET)?;
    if header.version_class_label[0] >> 4 != 6 {
        return Err(Unreadable::Malformed);
    }
    let mut protocol = header.next_header;
    let mut offset = ETHERNET + size_of::<Header>();
    let mut fragment = Fragment::Whole;
    let mut extensions = 0;
    while is_extension(protocol) {
        if extensions == MAX_EXTENSIONS || offset > MAX_OFFSET {
            return Err(Unreadable::Malformed);
        }
        let extension: [u8; 8] = frame::read(ctx, offset)?;
        if protocol == FRAGMENT {
            let place = u16::from_be_bytes([extension[2], extension[3]]);
            let identification = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
            if place & OFFSET != 0 {
                fragment = Fragment::Later(identification);
            } else if place & MORE_FRAGMENTS != 0 {
                fragment = Fragment::First(identification);
            }
        }
        offset += match protocol {
            FRAGMENT => 8,
            // RFC 4302 2.2: in words of four bytes, minus two.
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        protocol = extension[0];
        if let Fragment::Later(_) = fragment {
            break;
        }
        extensions += 1;
    }
    let transport = match fragment {
        Fragment::Later(_) => Transport::default(),
        Fragment::First(_) | Fragment::Whole => {
            if offset > MAX_OFFSET {
                return Err(Unreadable::Malformed);
            }
            transport::parse(ctx, offset, protocol)?
        }
    };
    Ok(Packet { source: header.source, destination: header.destination, protocol, fragment, transport })
}

#[inline(always)]
fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

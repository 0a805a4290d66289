//! IPv6 (RFC 8200) with extension headers.

use aya_ebpf::programs::TcContext;

use super::frame::{self, Unreadable};
use super::packet::{Datagram, Fragment, NO_HEADER, Packet};
use super::skb::Routed;
use super::transport as transport_header;
use crate::opaque::opaque;

/// Extension headers that are followed; more is not seen outside of attacks (RFC 8200 4.1 has each at most once, the
/// destination options twice).
const MAX_EXTENSIONS: usize = 6;

/// No transport header is looked for beyond this offset of the frame.
pub const MAX_OFFSET: usize = 1024;

/// Hop-by-hop options.
pub(super) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Fragment offset, in units of eight bytes that stand three bits higher: in bytes, that is.
const OFFSET: u16 = 0xfff8;
/// More fragments follow.
const MORE_FRAGMENTS: u16 = 1;

/// Length of the fixed header.
pub(super) const LENGTH: usize = size_of::<Header>();

/// The fixed header.
#[expect(clippy::struct_field_names, reason = "the RFC's name")]
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version_class_label: [u8; 4],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// The first eight bytes of an extension header: all of a fragment header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next_header: u8,
    length: u8,
    /// Fragment header: offset and flags; routing header: type and segments left.
    third: [u8; 2],
    identification: u32,
}

/// Parses the IPv6 header at a byte offset of the frame, its extension headers, and the transport header behind those.
#[inline(always)]
pub fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<[u32; 4]>) -> Result<(), Unreadable> {
    let header: Header = frame::read(ctx, start)?;
    copy(&mut packet.source, header.source);
    copy(&mut packet.destination, header.destination);
    packet.hop_limit = header.hop_limit;
    packet.next_header = header.next_header;
    let mut protocol = header.next_header;
    let mut offset = start + size_of::<Header>();
    let payload = usize::from(u16::from_be(header.payload_length));
    // Zero is a GSO packet too big for the field, or a jumbogram, whose length is in an option (RFC 2675 3).
    let is_jumbo = payload == 0 && (protocol == HOP_BY_HOP || frame::is_gso(ctx));
    let end = if is_jumbo { frame::length(ctx) } else { offset + payload };
    if header.version_class_label[0] >> 4 != 6 || end > frame::length(ctx) {
        return Err(Unreadable::Malformed);
    }
    packet.end = end;
    let mut extensions = 0;
    let mut fragmented = false;
    let mut goes_on = is_extension(protocol);
    while goes_on {
        if extensions == MAX_EXTENSIONS || offset > MAX_OFFSET {
            return Err(Unreadable::Malformed);
        }
        let extension: Extension = frame::read(ctx, offset)?;
        let next = extension.next_header;
        let behind = offset + length(protocol, extension);
        if behind > end {
            return Err(Unreadable::Malformed);
        }
        match protocol {
            // RFC 8200 4.1: the hop-by-hop header comes first.
            HOP_BY_HOP if extensions != 0 => return Err(Unreadable::Malformed),
            ROUTING if extension.third[1] != 0 => return Err(Unreadable::SourceRouted),
            FRAGMENT => {
                if fragmented {
                    return Err(Unreadable::Malformed);
                }
                fragmented = true;
                let place = u16::from_be_bytes(extension.third);
                packet.datagram = Datagram {
                    identification: extension.identification,
                    protocol: next,
                    offset: usize::from(place & OFFSET),
                    length: end - behind,
                };
                if place & OFFSET != 0 {
                    packet.fragment = Fragment::Later;
                    packet.protocol = next;
                    return Ok(());
                }
                if place & MORE_FRAGMENTS != 0 {
                    packet.fragment = Fragment::First;
                }
            }
            _ => {}
        }
        offset = behind;
        protocol = next;
        extensions += 1;
        goes_on = is_another(next);
    }
    if offset > MAX_OFFSET {
        return Err(Unreadable::Malformed);
    }
    packet.protocol = protocol;
    transport_header::parse(ctx, offset, end, protocol, &mut packet.transport)
}

/// Copies an address by words: the compiler would call a function that copies bytes.
#[inline(always)]
fn copy(to: &mut [u32; 4], [a, b, c, d]: [u32; 4]) {
    let to = (&raw mut *to).cast::<u32>();
    // SAFETY: these are the address's four words.
    unsafe {
        to.write_volatile(a);
        to.add(1).write_volatile(b);
        to.add(2).write_volatile(c);
        to.add(3).write_volatile(d);
    }
}

/// Length of an extension header in bytes.
#[inline(always)]
fn length(header: u8, extension: Extension) -> usize {
    let words = usize::from(extension.length);
    match header {
        FRAGMENT => 8,
        // RFC 4302 2.2: in words of four bytes, minus two.
        AUTHENTICATION => (words + 2) * 4,
        _ => (words + 1) * 8,
    }
}

#[inline(always)]
fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// The same at the end of a loop, which goes back by one jump for that: the compiler would have each header jump back by itself, and lay the
/// loop out so that kernels before 6.7 see no jump (see `agent/tests/kernel/control_flow.rs`).
#[inline(always)]
fn is_another(header: u8) -> bool {
    opaque(u64::from(is_extension(header))) != 0
}

/// Gives an ICMPv6 error the identity of the flow it is about: see [`super::Headers::quote`].
#[inline(never)]
pub fn quote(ctx: &TcContext, packet: &mut Packet<[u32; 4]>) -> bool {
    let mut offset = packet.transport.body;
    let Ok(header) = ctx.load::<Header>(offset) else {
        return false;
    };
    if header.version_class_label[0] >> 4 != 6 || header.source != packet.destination {
        return false;
    }
    let mut protocol = header.next_header;
    offset += size_of::<Header>();
    let mut extensions = 0;
    let mut fragmented = false;
    let mut goes_on = is_extension(protocol);
    while goes_on {
        if extensions == MAX_EXTENSIONS {
            return false;
        }
        let Ok(extension) = ctx.load::<Extension>(offset) else {
            return false;
        };
        match protocol {
            HOP_BY_HOP if extensions != 0 => return false,
            // A later fragment is about nothing that can be told: it has no ports.
            FRAGMENT if fragmented || u16::from_be_bytes(extension.third) & OFFSET != 0 => return false,
            FRAGMENT => fragmented = true,
            _ => {}
        }
        offset += length(protocol, extension);
        protocol = extension.next_header;
        extensions += 1;
        goes_on = is_another(protocol);
    }
    if !transport_header::quote(ctx, offset, packet.end, protocol, &mut packet.transport) {
        return false;
    }
    packet.source = header.destination;
    packet.protocol = protocol;
    true
}

/// Protocol and offset of the transport header of a packet that has been routed, of which netfilter may have put fragments together;
/// [`NO_HEADER`] where it is in an earlier fragment. What
/// cannot be read here, other than for not being linear, is not what [`parse`] can read.
#[inline(always)]
pub fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
    let mut protocol: u8 = skb.read(6).ok_or(Unreadable::NotLinear)?;
    let mut offset = size_of::<Header>() as u32;
    let mut extensions = 0;
    let mut goes_on = is_extension(protocol);
    while goes_on {
        if extensions == MAX_EXTENSIONS || offset > MAX_OFFSET as u32 {
            return Err(Unreadable::Malformed);
        }
        let read = skb.read::<[u8; 4]>(offset);
        let [next, words, third, segments_left] = read.ok_or(Unreadable::NotLinear)?;
        match protocol {
            HOP_BY_HOP if extensions != 0 => return Err(Unreadable::Malformed),
            ROUTING if segments_left != 0 => return Err(Unreadable::SourceRouted),
            FRAGMENT if u16::from_be_bytes([third, segments_left]) & OFFSET != 0 => {
                return Ok((next, NO_HEADER));
            }
            _ => {}
        }
        let third = [third, segments_left];
        let extension = Extension { next_header: next, length: words, third, identification: 0 };
        offset += length(protocol, extension) as u32;
        protocol = next;
        extensions += 1;
        goes_on = is_another(next);
    }
    Ok((protocol, offset))
}

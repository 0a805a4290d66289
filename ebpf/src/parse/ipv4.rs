//! IPv4 (RFC 791), options included.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;

use super::frame::{self, Unreadable};
use super::packet::{Datagram, Fragment, NO_HEADER, Packet};
use super::skb::Routed;
use super::transport as transport_header;

/// Fragment offset in units of eight bytes.
const OFFSET: u16 = 0x1fff;
/// More fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;

/// Most bytes of options.
const MAX_OPTIONS: usize = 40;

/// Option kinds (RFC 791 3.1).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

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
    source: u32,
    destination: u32,
}

/// Parses the IPv4 header at a byte offset of the frame, and the transport header behind it.
#[inline(always)]
pub fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<u32>) -> Result<(), Unreadable> {
    let header: Header = frame::read(ctx, start)?;
    packet.source = header.source;
    packet.destination = header.destination;
    packet.protocol = header.protocol;
    let length = usize::from(header.version_and_length & 0x0f) * 4;
    let total = usize::from(u16::from_be(header.total_length));
    // Linux writes zero where a GSO packet is too big for the field (`iph_set_totlen`).
    let end = if total == 0 && frame::is_gso(ctx) { frame::length(ctx) } else { start + total };
    if header.version_and_length >> 4 != 4
        || length < size_of::<Header>()
        || end < start + length
        || end > frame::length(ctx)
    {
        return Err(Unreadable::Malformed);
    }
    if length > size_of::<Header>() {
        let (options, length) = (start + size_of::<Header>(), length - size_of::<Header>());
        // SAFETY: `ctx` is the running program's.
        match unsafe {
            walk_options_apart(ctx.skb.skb, &raw mut packet.cursor, options as u32, length as u32)
        } {
            options::FINE => {}
            options::SOURCE_ROUTED => return Err(Unreadable::SourceRouted),
            _ => return Err(Unreadable::Malformed),
        }
    }
    packet.end = end;
    let fragment = u16::from_be(header.fragment);
    if fragment & (OFFSET | MORE_FRAGMENTS) != 0 {
        packet.datagram = Datagram {
            identification: u32::from(header.identification),
            protocol: header.protocol,
            offset: usize::from(fragment & OFFSET) * 8,
            length: end - start - length,
        };
        if fragment & OFFSET != 0 {
            packet.fragment = Fragment::Later;
            return Ok(());
        }
        packet.fragment = Fragment::First;
    }
    transport_header::parse(ctx, start + length, end, header.protocol, &mut packet.transport)
}

/// Walks the options. A packet with a source route is not for whom its header says.
///
/// The cursor stands in the packet's memory, from which the verifier takes any number as it comes: all rounds of the loop are alike to
/// it. By a helper call, since packet pointers may not be passed to functions. Checked apart by the verifier.
///
/// # Safety
///
/// The cursor must be readable and writable.
#[inline(always)]
unsafe fn walk_options(ctx: &TcContext, cursor: *mut usize, start: usize, length: usize) -> u32 {
    let mut rounds = 0;
    while rounds < MAX_OPTIONS {
        // SAFETY: the caller's.
        let at = unsafe { read_volatile(cursor) };
        if at >= length {
            break;
        }
        let Ok(kind) = ctx.load::<u8>(start + at) else { return options::MALFORMED };
        let size = match kind {
            option::END => break,
            option::NO_OPERATION => 1,
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => return options::SOURCE_ROUTED,
            _ => {
                let Ok(size) = ctx.load::<u8>(start + at + 1) else { return options::MALFORMED };
                if size < 2 || at + usize::from(size) > length {
                    return options::MALFORMED;
                }
                usize::from(size)
            }
        };
        // SAFETY: the same.
        unsafe { write_volatile(cursor, at + size) };
        rounds += 1;
    }
    options::FINE
}

/// [`walk_options`], which the verifier checks apart: one of [`options`]' numbers.
///
/// # Safety
///
/// The `skb` must be the running program's, and the cursor readable and writable, or null.
#[unsafe(export_name = "walk_options")]
#[inline(never)]
unsafe extern "C" fn walk_options_apart(
    skb: *mut __sk_buff,
    cursor: *mut usize,
    start: u32,
    length: u32,
) -> u32 {
    if cursor.is_null() {
        return options::MALFORMED;
    }
    // SAFETY: the caller's.
    unsafe { walk_options(&TcContext::new(skb), cursor, start as usize, length as usize) }
}

/// What options are. No enum: of what a function returns that is checked apart, nothing is known.
mod options {
    /// They can be walked, and name no routers.
    pub(super) const FINE: u32 = 0;
    /// They contradict themselves.
    pub(super) const MALFORMED: u32 = 1;
    /// They name routers to go through.
    pub(super) const SOURCE_ROUTED: u32 = 2;
}

/// Gives an ICMP error the identity of the flow it is about: see [`super::Headers::quote`]. A later fragment is
/// about nothing that can be told: it has no ports.
#[inline(never)]
pub fn quote(ctx: &TcContext, packet: &mut Packet<u32>) -> bool {
    let (offset, end) = (packet.transport.body, packet.end);
    let Ok(header) = ctx.load::<Header>(offset) else {
        return false;
    };
    let length = usize::from(header.version_and_length & 0x0f) * 4;
    if header.version_and_length >> 4 != 4
        || length < size_of::<Header>()
        || u16::from_be(header.fragment) & OFFSET != 0
        || header.source != packet.destination
        || !transport_header::quote(ctx, offset + length, end, header.protocol, &mut packet.transport)
    {
        return false;
    }
    packet.source = header.destination;
    packet.protocol = header.protocol;
    true
}

/// Protocol and offset of the transport header of a packet that was parsed before, and has been routed; [`NO_HEADER`] where it is in an
/// earlier fragment.
#[inline(always)]
pub fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
    let version_and_length: u8 = skb.read(0).ok_or(Unreadable::NotLinear)?;
    let protocol: u8 = skb.read(9).ok_or(Unreadable::NotLinear)?;
    let fragment: u16 = skb.read(6).ok_or(Unreadable::NotLinear)?;
    if u16::from_be(fragment) & OFFSET != 0 {
        return Ok((protocol, NO_HEADER));
    }
    Ok((protocol, u32::from(version_and_length & 0x0f) * 4))
}

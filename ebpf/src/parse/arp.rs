//! ARP (RFC 826), for IPv4 over Ethernet.

use aya_ebpf::programs::TcContext;

use super::frame::{self, Unreadable};

/// Ethernet, IPv4, and the lengths of their addresses.
const FOR_IPV4: [u16; 3] = [1, 0x0800, 0x0604];

/// The message.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    kind: [u16; 3],
    operation: u16,
    sender_hardware: [u16; 3],
    sender: [u16; 2],
    target_hardware: [u16; 3],
    target: [u16; 2],
}

/// Bytes of the shortest Ethernet frame behind its header: what a message is padded to, and no more.
const LONGEST: usize = 46;

/// Who a request or reply says it is from.
#[inline(always)]
pub fn sender(ctx: &TcContext, offset: usize) -> Result<u32, Unreadable> {
    let message: Message = frame::read(ctx, offset)?;
    if message.kind.map(u16::from_be) != FOR_IPV4
        || !matches!(u16::from_be(message.operation), 1 | 2)
        || frame::length(ctx) > offset + LONGEST
    {
        return Err(Unreadable::Malformed);
    }
    let [[a, b], [c, d]] = message.sender.map(u16::to_ne_bytes);
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

//! The headers of IPv4 and IPv6, for whoever reads either.

use aya_ebpf::programs::TcContext;

use super::frame::Unreadable;
use super::packet::Packet;
use super::skb::Routed;
use super::{ipv4, ipv6, link};
use crate::address::Address;

/// How packets of one family are read.
pub trait Headers: Address {
    /// Byte offset of the source address in the IP header; the destination's is behind it.
    const SOURCE: u32;

    /// Bytes of a frame that hold all headers that are read.
    const HEADERS: u32;

    /// Parses a packet of this family at a byte offset of the frame.
    fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable>;

    /// Gives an ICMP error the identity of the flow it is about, as a packet of that flow which goes the error's way.
    ///
    /// Says whether it could: the quoted packet must be readable and have been sent by whom the error goes to
    /// (RFC 5508 4.2). Nothing is changed where it could not.
    fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool;

    /// Well-formed neighbour discovery or multicast listener discovery, without which the link does not work. The IP header begins at a
    /// byte offset of the frame.
    fn is_link_control(ctx: &TcContext, packet: &Packet<Self>, start: usize) -> bool;

    /// Whether somebody who is not strict takes this for neighbour discovery.
    fn may_be_neighbour_discovery(packet: &Packet<Self>) -> bool;

    /// Protocol of a packet that has been routed, and byte offset of its transport header behind the IP header's beginning:
    /// [`super::NO_HEADER`] where that is in an earlier fragment.
    fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable>;
}

impl Headers for u32 {
    const SOURCE: u32 = 12;

    // Ethernet with two tags, the longest IPv4 header and the longest TCP header.
    const HEADERS: u32 = 22 + 60 + 60;

    #[inline(always)]
    fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable> {
        ipv4::parse(ctx, start, packet)
    }

    #[inline(always)]
    fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool {
        ipv4::quote(ctx, packet)
    }

    #[inline(always)]
    fn is_link_control(_ctx: &TcContext, _packet: &Packet<Self>, _start: usize) -> bool {
        false
    }

    #[inline(always)]
    fn may_be_neighbour_discovery(_packet: &Packet<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
        ipv4::transport(skb)
    }
}

impl Headers for [u32; 4] {
    const SOURCE: u32 = 8;

    // As far as a transport header may begin, and the longest TCP header.
    const HEADERS: u32 = ipv6::MAX_OFFSET as u32 + 60;

    #[inline(always)]
    fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable> {
        ipv6::parse(ctx, start, packet)
    }

    #[inline(always)]
    fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool {
        ipv6::quote(ctx, packet)
    }

    #[inline(always)]
    fn is_link_control(ctx: &TcContext, packet: &Packet<Self>, start: usize) -> bool {
        link::is_link_control(ctx, packet, start)
    }

    #[inline(always)]
    fn may_be_neighbour_discovery(packet: &Packet<Self>) -> bool {
        link::may_be_neighbour_discovery(packet)
    }

    #[inline(always)]
    fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
        ipv6::transport(skb)
    }
}

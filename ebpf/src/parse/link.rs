//! What an IPv6 link does not work without: neighbour discovery (RFC 4861), and who listens to which group (RFC 2710, RFC 3810). As
//! these have it: it stays on the link, and there is nothing in it but what it is about.

use core::ops::RangeInclusive;

use aya_ebpf::programs::TcContext;
use postern_common::IPPROTO_ICMPV6;

use super::frame;
use super::ipv6;
use super::packet::{Fragment, Packet, Transport};
use crate::address::{is_link_local, is_multicast};

/// ICMPv6 types.
mod kind {
    pub(super) const LISTENER_QUERY: u8 = 130;
    pub(super) const LISTENER_REPORT: u8 = 131;
    pub(super) const LISTENER_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const SOLICITATION: u8 = 135;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const LISTENER_REPORT_V2: u8 = 143;
}

/// Router and neighbour solicitation and advertisement, redirect.
const NEIGHBOUR_DISCOVERY: RangeInclusive<u8> = kind::ROUTER_SOLICITATION..=kind::REDIRECT;
/// Multicast listener query, report, done.
const LISTENER: RangeInclusive<u8> = kind::LISTENER_QUERY..=kind::LISTENER_DONE;

/// The first eight bytes of all ICMPv6 messages.
const HEADER: usize = 8;
/// Length of a hop-by-hop header with a router alert (RFC 2711).
const ROUTER_ALERT: usize = 8;

/// Records of a listener report that are walked: as many as an Ethernet frame has room for.
const MAX_RECORDS: u32 = 72;

/// All nodes of the link, all its routers, and all of them that listen to reports (RFC 4291 2.7.1, RFC 3810 5.2.14).
const ALL_NODES: [u32; 4] = of_link(1);
const ALL_ROUTERS: [u32; 4] = of_link(2);
const ALL_MLDV2_ROUTERS: [u32; 4] = of_link(0x16);

/// `ff02::` and a number.
const fn of_link(number: u32) -> [u32; 4] {
    [0xff02_0000_u32.to_be(), 0, 0, number.to_be()]
}

/// The group that those listen to who may have an address (RFC 4291 2.7.1).
#[inline(always)]
fn solicited_node(address: &[u32; 4]) -> [u32; 4] {
    [0xff02_0000_u32.to_be(), 0, 1_u32.to_be(), address[3] | 0xff00_0000_u32.to_be()]
}

/// Well-formed neighbour discovery or multicast listener discovery (ICMPv6 130 to 137, and 143), without which the link does not work.
/// The IP header begins at a byte offset of the frame.
#[inline(always)]
pub fn is_link_control(ctx: &TcContext, packet: &Packet<[u32; 4]>, start: usize) -> bool {
    // None of them may come in fragments (RFC 6980 5).
    if packet.protocol != IPPROTO_ICMPV6 || packet.fragment != Fragment::Whole {
        return false;
    }
    // No frame of these is so short that it is padded.
    if !may_be_link_control(packet.transport.kind) || frame::length(ctx) != packet.end {
        return false;
    }
    if NEIGHBOUR_DISCOVERY.contains(&packet.transport.kind) {
        is_neighbour_discovery(ctx, packet, start)
    } else {
        is_listener(ctx, packet, start)
    }
}

/// Neighbour discovery has a hop limit that no router lets through (RFC 4861 6.1, 7.1, 8.1).
#[inline(never)]
fn is_neighbour_discovery(ctx: &TcContext, packet: &Packet<[u32; 4]>, start: usize) -> bool {
    let Transport { kind, code, body, .. } = packet.transport;
    if packet.hop_limit != 255 || code != 0 || body != start + ipv6::LENGTH + HEADER {
        return false;
    }
    let length = packet.end.wrapping_sub(body).wrapping_add(HEADER);
    let Packet { source, destination, .. } = packet;
    // To everybody, or to one; nobody is sent to at `::` (RFC 4291 2.5.2).
    let is_one = !is_multicast(destination) && *destination != [0; 4];
    let is_proper = *destination == ALL_NODES || is_one;
    match kind {
        kind::ROUTER_SOLICITATION => {
            length <= 24 && (*destination == ALL_ROUTERS || is_link_local(destination))
        }
        kind::ROUTER_ADVERTISEMENT => is_link_local(source) && length >= 16 && is_proper,
        kind::REDIRECT => is_link_local(source) && length >= 40 && is_proper,
        kind => {
            let Ok(target) = ctx.load::<[u32; 4]>(body) else { return false };
            if length < 24 || is_multicast(&target) {
                return false;
            }
            if kind == kind::ADVERTISEMENT {
                return length <= 32 && is_proper;
            }
            let is_to_target = *destination == target && *source != [0; 4];
            kind == kind::SOLICITATION
                && length <= 40
                && (is_to_target || *destination == solicited_node(&target))
        }
    }
}

/// Multicast listener messages have a hop limit that no router passes on, and the sender's address on the link (RFC 2710 3, RFC 3810 5).
#[inline(never)]
fn is_listener(ctx: &TcContext, packet: &Packet<[u32; 4]>, start: usize) -> bool {
    let Transport { kind, body, .. } = packet.transport;
    let plain = start + ipv6::LENGTH + HEADER;
    let is_alone = body == plain || packet.next_header == ipv6::HOP_BY_HOP && body == plain + ROUTER_ALERT;
    let is_from_link = is_link_local(&packet.source) || packet.source == [0; 4];
    if packet.hop_limit != 1 || !is_alone || !is_from_link || !is_multicast(&packet.destination) {
        return false;
    }
    if kind == kind::LISTENER_REPORT_V2 {
        return packet.destination == ALL_MLDV2_ROUTERS && is_report(ctx, body, packet.end);
    }
    let length = packet.end.wrapping_sub(body).wrapping_add(HEADER);
    let Ok(group) = ctx.load::<[u32; 4]>(body) else { return false };
    let is_to_group = packet.destination == group;
    match kind {
        kind::LISTENER_REPORT => length == 24 && is_to_group,
        kind::LISTENER_DONE => length == 24 && packet.destination == ALL_ROUTERS,
        _ => is_query(ctx, body, length) && (is_to_group || packet.destination == ALL_NODES),
    }
}

/// Whether a query is as long as it says: of the first version (RFC 2710 3), or of the second with its sources (RFC 3810 5.1).
#[inline(always)]
fn is_query(ctx: &TcContext, body: usize, length: usize) -> bool {
    if length == 24 {
        return true;
    }
    // Behind the group: two bytes of flags and intervals, and the number of sources.
    let Ok(sources) = ctx.load::<u16>(body + 18) else { return false };
    length == 28 + 16 * usize::from(u16::from_be(sources))
}

/// Whether a report is as long as its records say, of which none has auxiliary data (RFC 3810 5.2). The number of records stands in front of
/// its body.
#[inline(never)]
fn is_report(ctx: &TcContext, body: usize, end: usize) -> bool {
    let Ok(records) = ctx.load::<u16>(body.wrapping_sub(2)) else { return false };
    let records = u32::from(u16::from_be(records));
    let mut at = body;
    let mut record = 0;
    while record < MAX_RECORDS && record < records {
        // Type, words of auxiliary data, number of sources; the group follows, and the sources.
        let Ok([_, auxiliary, high, low]) = ctx.load::<[u8; 4]>(at) else { return false };
        at = at.wrapping_add(20 + 16 * usize::from(u16::from_be_bytes([high, low])));
        if auxiliary != 0 || at > end {
            return false;
        }
        record += 1;
    }
    record == records && at == end
}

/// Whether somebody takes this for neighbour discovery who looks at no more than type, code and hop limit.
#[inline(always)]
pub fn may_be_neighbour_discovery(packet: &Packet<[u32; 4]>) -> bool {
    let Transport { kind, code, .. } = packet.transport;
    packet.protocol == IPPROTO_ICMPV6
        && packet.fragment == Fragment::Whole
        && NEIGHBOUR_DISCOVERY.contains(&kind)
        && packet.hop_limit == 255
        && code == 0
}

/// Whether an ICMPv6 message is of a type that the link may not work without, well-formed or not.
#[inline(always)]
pub fn may_be_link_control(kind: u8) -> bool {
    NEIGHBOUR_DISCOVERY.contains(&kind) || LISTENER.contains(&kind) || kind == kind::LISTENER_REPORT_V2
}

//! Anti-spoofing: whether what a pod sends is its own to send.

use aya_ebpf::programs::TcContext;
use postern_common::direction::EGRESS;
use postern_common::reason::Reason;
use postern_common::service::UNTAGGED;
use postern_common::state::State;

use crate::address::Address;
use crate::context::{self, Context, claim, ifindex, readable};
use crate::count::conclude;
use crate::family::Family;
use crate::maps::STATE;
use crate::nat::tag;
use crate::parse::frame::{self, Unreadable};
use crate::parse::{self, Headers, Packet, ethertype};
use crate::policy::{cache, tunnel};
use crate::tables::Tables;

/// ICMPv6 types (RFC 4861).
mod neighbour {
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// The whole program for pods that no policy selects: anything passes that is not spoofed, nor spoofed inside a tunnel.
#[inline(always)]
pub fn judge(ctx: &TcContext) -> i32 {
    // Nothing that it sends is noted, whatever the pod wrote.
    tag::tag(ctx, UNTAGGED);
    conclude::<EGRESS>(ctx, claim::within(|place| reason(ctx, place)))
}

#[inline(always)]
fn reason(ctx: &TcContext, place: u32) -> Reason {
    let ifindex = ifindex(ctx);
    let Ok(frame) = parse::frame(ctx) else {
        return Reason::Malformed;
    };
    match frame.ethertype {
        ethertype::ARP => match is_spoofed_arp(ctx, frame.payload, ifindex) {
            Ok(true) => Reason::Spoofed,
            Ok(false) => Reason::NotIsolated,
            Err(_) => Reason::Malformed,
        },
        ethertype::IPV4 => fast_path::<u32>(ctx, frame.payload, place),
        ethertype::IPV6 => fast_path::<[u32; 4]>(ctx, frame.payload, place),
        _ => Reason::NotIsolated,
    }
}

#[inline(always)]
fn fast_path<A: Family>(ctx: &TcContext, start: usize, place: u32) -> Reason {
    let Some(context) = context::at::<A>(place) else {
        // Every array has its elements.
        return Reason::Spoofed;
    };
    // SAFETY: it belongs to this CPU, where nobody else has the place.
    let context = unsafe { &mut *context };
    // Addresses are read first: what is wrong further on is for the receiver to judge.
    context.set::<EGRESS>(ctx, start);
    if is_spoofed(ctx, context) {
        Reason::Spoofed
    } else if is_tunnel(context) {
        Reason::Tunnel
    } else {
        Reason::NotIsolated
    }
}

/// Whether a packet goes into a tunnel that the pod's own node takes apart: whoever stands inside sends it then.
#[inline(never)]
fn is_tunnel<A: Family>(context: &Context<A>) -> bool {
    let Packet { destination, protocol, transport, .. } = context.packet;
    if context.readable != readable::YES || !tunnel::may_be(protocol, transport.destination_port) {
        return false;
    }
    let epoch = STATE.get(0).map_or(0, |state: &State| state.epoch);
    // What an agent that has only just started is to write is not there yet; what the one before it wrote is.
    destination.is_group()
        || destination.is_local_node(epoch)
        || destination.is_local_node(epoch.wrapping_sub(1))
}

/// Whether an IP packet is from another's address, or tells the link what only another may.
#[inline(never)]
pub fn is_spoofed<A: Family>(ctx: &TcContext, context: &Context<A>) -> bool {
    let Context { packet, ifindex, .. } = context;
    if !packet.source.is_unspecified_or_link_local() && !cache::is_own(packet.source, *ifindex) {
        return true;
    }
    if !A::may_be_neighbour_discovery(packet) {
        return false;
    }
    match packet.transport.kind {
        neighbour::ROUTER_ADVERTISEMENT | neighbour::REDIRECT => true,
        // The target stands behind the flags (RFC 4861 4.4).
        neighbour::ADVERTISEMENT => match ctx.load::<A>(packet.transport.body) {
            Ok(target) if packet.transport.body + size_of::<A>() <= packet.end => {
                let is_link_local = target.is_unspecified_or_link_local() && target != A::default();
                !is_link_local && !target.is_own(*ifindex)
            }
            _ => true,
        },
        _ => false,
    }
}

/// Whether an ARP message names another as its sender. Probes name nobody (RFC 5227 2.1).
#[inline(always)]
pub fn is_spoofed_arp(ctx: &TcContext, start: usize, ifindex: u32) -> Result<bool, Unreadable> {
    let sender = match parse::arp_sender(ctx, start) {
        Err(Unreadable::NotLinear) => {
            frame::pull(ctx, <u32>::HEADERS);
            parse::arp_sender(ctx, start)?
        }
        read => read?,
    };
    Ok(!sender.is_unspecified_or_link_local() && !sender.is_own(ifindex))
}

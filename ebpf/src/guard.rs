//! Anti-spoofing: whether what a pod sends is its own to send.

use aya_ebpf::programs::TcContext;
use postern_common::direction::EGRESS;
use postern_common::reason::Reason;
use postern_common::service::UNTAGGED;

use crate::count::conclude;
use crate::family::Address;
use crate::frame::{self, Unreadable};
use crate::parse::{self, ethertype};
use crate::scene::{Scene, ifindex};
use crate::{claim, recall, service};

/// ICMPv6 types (RFC 4861).
mod neighbour {
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// The whole program for pods that no policy selects: anything passes that is not spoofed.
#[inline(always)]
pub fn judge(ctx: &TcContext) -> i32 {
    // Nothing that it sends is noted, whatever the pod wrote.
    service::tag(ctx, UNTAGGED);
    conclude::<EGRESS>(ctx, claim::within(|place| reason(ctx, place)))
}

#[inline(always)]
fn reason(ctx: &TcContext, place: u32) -> Reason {
    let ifindex = ifindex(ctx);
    let Ok(frame) = parse::frame(ctx) else {
        return Reason::Malformed;
    };
    let is_spoofed = match frame.ethertype {
        ethertype::ARP => match is_spoofed_arp(ctx, frame.payload, ifindex) {
            Ok(is_spoofed) => is_spoofed,
            Err(_) => return Reason::Malformed,
        },
        ethertype::IPV4 => is_spoofed_packet::<u32>(ctx, frame.payload, place),
        ethertype::IPV6 => is_spoofed_packet::<[u32; 4]>(ctx, frame.payload, place),
        _ => false,
    };
    if is_spoofed { Reason::Spoofed } else { Reason::NotIsolated }
}

#[inline(always)]
fn is_spoofed_packet<A: Address>(ctx: &TcContext, start: usize, place: u32) -> bool {
    let Some(scene) = A::scene(place) else {
        // Every array has its elements.
        return true;
    };
    // SAFETY: it belongs to this CPU, where nobody else has the place.
    let scene = unsafe { &mut *scene };
    // Addresses are read first: what is wrong further on is for the receiver to judge.
    scene.set::<EGRESS>(ctx, start);
    is_spoofed(ctx, scene)
}

/// Whether an IP packet is from another's address, or tells the link what only another may.
#[inline(never)]
pub fn is_spoofed<A: Address>(ctx: &TcContext, scene: &Scene<A>) -> bool {
    let Scene { packet, ifindex, .. } = scene;
    if !packet.source.is_nobodys() && !recall::is_pods(packet.source, *ifindex) {
        return true;
    }
    if !A::is_link(packet) {
        return false;
    }
    match packet.transport.kind {
        neighbour::ROUTER_ADVERTISEMENT | neighbour::REDIRECT => true,
        // The target stands behind the flags (RFC 4861 4.4).
        neighbour::ADVERTISEMENT => match ctx.load::<A>(packet.transport.body) {
            Ok(target) if packet.transport.body + size_of::<A>() <= packet.end => {
                let is_link_local = target.is_nobodys() && target != A::default();
                !is_link_local && !target.is_pods(*ifindex)
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
    Ok(!sender.is_nobodys() && !sender.is_pods(ifindex))
}

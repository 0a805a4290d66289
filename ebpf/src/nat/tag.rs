//! Services, on the pod's side of the choice of a backend: which packets may be on their way to one, and what is noted of
//! them for [`crate::nat::postrouting`].

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{DENIED, Flow, SERVICE};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason;
use postern_common::service::{
    CROSSINGS, Crossing, HAIRPIN_SLOTS, Hairpin, HairpinSlot, KEPT, NOTHING_NOTED, UNTAGGED, content_at,
};
use postern_common::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use crate::config;
use crate::context::Context;
use crate::context::claim::PLACES;
use crate::family::Address;
use crate::flow::sockets;
use crate::hash;
use crate::maps;
use crate::parse::Fragment;
use crate::parse::frame;
use crate::seqcount;

/// Whether a protocol has ports, without which no frontend is of it.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}

/// Writes a packet's tag: whatever stood there, the pod may have written.
#[inline(always)]
pub fn tag(ctx: &TcContext, tag: u16) {
    // SAFETY: the context of a running program is valid; the kernel lets TC programs write this field.
    unsafe { (*ctx.skb.skb).tc_index = u32::from(tag) };
}

/// The slot of the packet: the next one of this CPU and family.
#[inline(always)]
fn next_slot<A: Address>(context: &mut Context<A>) -> u32 {
    let slots = config::crossings_per_cpu();
    // SAFETY: the helper takes nothing.
    let first = unsafe { bpf_get_smp_processor_id() }.wrapping_mul(slots);
    let mut next = || {
        context.crossings = context.crossings.wrapping_add(1);
        // Each family counts for itself: one takes the even numbers, the other the odd ones. So does each place, where there are several.
        let mut number = context.crossings.wrapping_mul(2) | u32::from(A::FAMILY != 0);
        if config::realtime() {
            number = number.wrapping_mul(PLACES) | context.place;
        }
        first.wrapping_add(number & (slots - 1)) % CROSSINGS
    };
    let slot = next();
    // Two numbers are no packet's, and the next one of either is one.
    if slot == u32::from(UNTAGGED) || slot == u32::from(NOTHING_NOTED) { next() } else { slot }
}

/// What is noted beside a packet of a flow that policy was not asked about just now.
#[inline(always)]
pub fn of_known() -> u32 {
    if config::recheck() { 0 } else { KEPT }
}

/// Saves where the packet goes, and puts the number of its slot into `skb->tc_index`, for the netfilter program behind the
/// choice of a backend to match.
///
/// A function of its own, for its stack.
#[inline(never)]
pub fn cross<A: Address>(ctx: &TcContext, context: &mut Context<A>, flags: u32) {
    context.take_sides::<EGRESS>();
    let slot = next_slot(context);
    let Some(crossing) = maps::CROSSINGS.get_ptr_mut(slot) else {
        // Every array has its elements.
        return;
    };
    let noted = Crossing {
        ifindex: context.ifindex,
        flags,
        pod: context.pod.0.widen(),
        peer: context.peer.0.widen(),
        pod_port: context.pod.1,
        peer_port: context.peer.1,
        protocol: A::FAMILY | u32::from(context.packet.protocol),
        content: content(ctx, context),
    };
    // SAFETY: it is an element of the map. Another CPU that reads it for an older packet finds at worst what is not of its packet, and
    // drops that.
    unsafe { crossing.write(noted) };
    tag(ctx, slot as u16);
}

/// See [`Crossing::content`]. What is put together on its way may say more there.
#[inline(always)]
fn content<A: Address>(ctx: &TcContext, context: &Context<A>) -> u64 {
    let packet = &context.packet;
    let at = packet.transport.body + content_at(packet.protocol) as usize;
    if packet.fragment != Fragment::Whole || at > MAX_CONTENT || at + size_of::<u64>() > packet.end {
        return 0;
    }
    frame::read(ctx, at & MAX_CONTENT).unwrap_or_default()
}

/// Far behind where any transport header begins.
const MAX_CONTENT: usize = 0xfff;

/// Makes the context's question one about where the packets of the packet's flow went when last seen, if that is known.
#[inline(always)]
pub fn ask_about_backend<A: Address>(context: &mut Context<A>) {
    if context.flow.backend_port != 0 {
        context.question.peer = A::narrow(context.flow.backend);
        context.question.port = context.flow.backend_port;
        context.question.resolved = true;
    }
}

/// Whether a flow to a Service, or to the pod's node, is still allowed, of which policy says this today.
///
/// Such a flow is never remembered as denied: it may lead to another backend by now. (One that was denied before it was one stays so
/// until it is allowed.) What the pod sends is left to the judgement behind the choice, where there is any: a flow that ended on the
/// node and is denied today is not looked at there.
#[inline(always)]
pub fn is_allowed_still<A: Address>(ctx: &TcContext, context: &mut Context<A>, reason: Reason) -> bool {
    // Without a backend: either the flow ended on this node, or it is not known (any more) where it went.
    let is_unknown = reason == Reason::Service;
    // What a pod sends carries its own socket.
    let is_from_node = context.direction == INGRESS && sockets::sent(ctx);
    if !reason.drops() && (!is_unknown || is_from_node) {
        context.flow.generation = context.generation;
        context.flow.flags &= !DENIED;
        return true;
    }
    context.direction == EGRESS && (is_unknown || context.question.resolved)
}

/// Whether a packet that policy, asked just now, does not let in is the pod's own: its node sends on, in its own name, what the pod
/// sent to a Service a moment ago. It came to the node by the pod's own veth, or by the bridge that this is a port of; what a bridge
/// passes on of another pod, which may know what to write into it, came by that pod's.
#[inline(always)]
pub fn is_hairpin<A: Address>(ctx: &TcContext, context: &Context<A>) -> bool {
    // SAFETY: the context of a running program is valid.
    let iif = unsafe { (*ctx.skb.skb).ingress_ifindex };
    context.is_peer_node && is_way_back(iif, context.ifindex, &context.endpoint) && was_sent(ctx, context)
}

/// Whether a packet that came to the node by an interface may be one that comes back to the pod of a veth.
#[inline(always)]
pub fn is_way_back(iif: u32, veth: u32, endpoint: &Endpoint) -> bool {
    iif == veth || iif != 0 && iif == endpoint.master
}

/// Whether the pod sent the packet to a Service just now.
#[inline(never)]
fn was_sent<A: Address>(ctx: &TcContext, context: &Context<A>) -> bool {
    let protocol = context.packet.protocol;
    let at = context.packet.transport.body;
    let end = context.packet.end;
    let digest =
        digest(protocol, end.wrapping_sub(at) as u32, |offset| ctx.load::<u32>(at + offset as usize).ok());
    let Some(digest) = digest else { return false };
    is_noted(context.ifindex, digest, context.pod.1, A::FAMILY as u16 | u16::from(protocol))
}

/// Whether a packet on its way back to who sent it was noted a moment ago.
#[inline(always)]
pub fn is_noted(ifindex: u32, digest: u32, port: u16, protocol: u16) -> bool {
    let sought = Hairpin { expires: 0, digest, port, protocol };
    let slot = hairpin_slot(ifindex, &sought);
    let Some(noted) = seqcount::read_twice(|| maps::HAIRPINS.get_ptr(slot)) else { return false };
    // SAFETY: the helper takes nothing and only reads a clock, that of `behind_nat`.
    let now = unsafe { bpf_ktime_get_ns() };
    noted.expires > now && Hairpin { expires: 0, ..noted } == sought
}

/// Where a packet is noted that comes back: one of a few slots of its veth.
#[inline(always)]
pub fn hairpin_slot(ifindex: u32, hairpin: &Hairpin) -> HairpinSlot {
    let word = u64::from(hairpin.digest) << 32 | u64::from(hairpin.port) << 16 | u64::from(hairpin.protocol);
    HairpinSlot { ifindex, number: hash::mix(config::seed(), word) as u32 & (HAIRPIN_SLOTS - 1) }
}

/// Words of a payload that are looked at.
const WORDS: u32 = 8;

/// What tells a packet from others, and no NAT changes: TCP's sequence number; for others the length and first bytes of what follows
/// the header. `length` counts from the transport header, from which `word` reads.
#[inline(always)]
pub fn digest(protocol: u8, length: u32, word: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let start = match protocol {
        IPPROTO_TCP => return word(4),
        IPPROTO_UDP => 8,
        // The checksum covers the ports.
        IPPROTO_SCTP => 12,
        _ => return None,
    };
    let mut digest = u64::from(length);
    let mut index = 0;
    while index < WORDS {
        let offset = start + index * 4;
        if offset + 4 <= length {
            digest = hash::mix(digest, u64::from(word(offset)?));
        }
        index += 1;
    }
    Some(digest as u32)
}

/// Whether a flow's packets are to be looked at behind the choice of a backend.
#[inline(always)]
pub fn crosses(flow: &Flow, direction: u8) -> bool {
    direction == EGRESS && flow.flags & SERVICE != 0
}

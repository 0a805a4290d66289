//! TCP connections in the middle of which the programs come, or whose flow was forgotten: what conntrack takes up with
//! `nf_conntrack_tcp_loose`. Here, the pod must really have it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, state};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::MAX_ENDPOINTS;
use postern_common::reason::Reason;

use super::established;
use super::sockets::{self, Connection};
use crate::config;
use crate::context::{Context, Isolated};
use crate::family::Family;
use crate::flow::cursor::step;
use crate::global::{by_family, place_of, same};
use crate::parse::Packet;
use crate::policy::{addressed, judge};

/// For how many denied packets each CPU has asked the pod's sockets, by veth. Nobody else reads it.
#[btf_map]
pub static ASKED: PerCpuArray<Asked, MAX_ENDPOINTS> = PerCpuArray::new();

/// What became of a connection that is older than the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Midstream {
    /// There is none that the pod's sockets know of.
    Unknown,
    /// Policy allows it: from now on it is established.
    Allowed,
    /// Policy does not.
    Denied,
}

/// For how many denied packets of a veth the pod's sockets were asked in this tick, on this CPU. Veths whose indexes are
/// [`MAX_ENDPOINTS`] apart share it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Asked {
    /// [`config::now`]
    tick: u64,
    packets: u64,
}

/// Takes up a TCP connection in the middle, if the pod really has it. Who started it is told by whether the pod
/// listens; where it does not (any more), either direction will do. `reason` is what policy says of the packet's own direction.
///
/// Checked apart by the verifier.
#[inline(always)]
pub fn judge<A: Family>(ctx: &TcContext, context: &mut Isolated<A>, reason: Reason) -> Midstream {
    let place = place_of(context);
    // SAFETY: `ctx` is the running program's, and nobody else has the context.
    match unsafe { judge_apart(ctx.skb.skb, &raw mut **context, place, reason as u32) } {
        it if it == Midstream::Allowed as u32 => Midstream::Allowed,
        it if it == Midstream::Denied as u32 => Midstream::Denied,
        _ => Midstream::Unknown,
    }
}

by_family! {
    /// [`decide`], which the verifier checks apart, with one of [`Reason`]'s numbers: one of [`Midstream`]'s.
    unsafe fn judge_apart[midstream4, midstream6]<A>(
        skb: *mut __sk_buff,
        context: *mut Context<A>,
        place: u32,
        reason: u32,
    ) -> u32 {
        // SAFETY: the caller's.
        let (context, reason) = unsafe { (same(context, place), Reason::of(reason)) };
        let ctx = TcContext::new(skb);
        context.map_or(Midstream::Unknown, |context| decide(&ctx, Isolated::of_stage(context), reason)) as u32
    }
}

/// What [`judge`] does.
#[inline(always)]
fn decide<A: Family>(ctx: &TcContext, context: &mut Isolated<A>, reason: Reason) -> Midstream {
    let is_egress = context.direction == EGRESS;
    // Where the flow says who started it, the pod's sockets are not asked.
    if context.endpoint().netns == 0 || context.from_elsewhere != 0 {
        return Midstream::Unknown;
    }
    let (service, is_from_node) = (context.query.outcome.service, context.query.outcome.is_from_node);
    let other = judge::judge_flow(ctx, context, if is_egress { INGRESS } else { EGRESS });
    let to_service = if is_egress { service } else { context.query.outcome.service };
    (context.query.outcome.service, context.query.outcome.is_from_node) = (service, is_from_node);
    // What the pod sends carries its own socket: that does not tell who started this. It passes, since it goes to the node.
    let other_drops = other.drops() || is_egress && other == Reason::Node;
    if reason.drops() && (other_drops || !may_ask(context)) {
        return Midstream::Unknown;
    }
    let connection = sockets::connection(ctx, context);
    if connection == Connection::Unknown
        || addressed::is_for_another(context)
        || context.query.outcome.flowless
    {
        return Midstream::Unknown;
    }
    let (from_peer, from_pod) =
        if is_egress { (other_drops, reason.drops()) } else { (reason.drops(), other_drops) };
    let mut initiator = if connection == Connection::FromPeer { INGRESS } else { EGRESS };
    if initiator == EGRESS && from_pod {
        initiator = INGRESS;
    }
    if initiator == INGRESS && from_peer {
        return Midstream::Denied;
    }
    context.query.outcome.service = to_service && initiator == EGRESS;
    context.query.outcome.is_from_node = is_from_node && initiator == INGRESS;
    let Packet { transport, protocol, .. } = context.packet;
    let flags = context.query.outcome.flow_flags();
    let context: &mut Context<A> = context;
    let flow = &mut context.flow;
    *flow = Flow {
        generation: context.generation,
        initiator,
        state: state::ESTABLISHED,
        flags,
        ..Flow::default()
    };
    established::refresh(flow, context.direction, protocol, transport, context.now);
    // Where there is no room, the next packet asks again.
    context.step = step::MIDSTREAM;
    Midstream::Allowed
}

/// Whether the pod's sockets are asked about one more packet that its own direction does not allow. Whoever floods a pod with such packets
/// makes them cost little more than others that are denied.
#[inline(always)]
fn may_ask<A: Family>(context: &Isolated<A>) -> bool {
    let Some(asked) = ASKED.get_ptr_mut(context.ifindex % MAX_ENDPOINTS as u32) else {
        // Every array has its elements.
        return false;
    };
    // SAFETY: an element of a per-CPU array. Where somebody else on this CPU writes it meanwhile, a few more are asked for.
    let asked = unsafe { &mut *asked };
    if asked.tick != context.now {
        *asked = Asked { tick: context.now, packets: 0 };
    }
    asked.packets += 1;
    asked.packets <= u64::from(config::asked())
}

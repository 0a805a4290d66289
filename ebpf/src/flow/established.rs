//! Established flows: how they go on, and when they are judged again.

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{DENIED, DENIED_LIFETIME, FROM_NODE, Flow, NODE, SERVICE, state};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;

use crate::config;
use crate::context::Context;
use crate::family::Address;
use crate::global::Stage;
use crate::nat::tag;
use crate::parse::{Packet, Transport};
use crate::policy::query;
use crate::seqcount;

/// Both bits of [`Flow::progress`].
const BOTH_FINISHED: u8 = 0b11;

/// Whether a flow needs no slow path: alive, allowed, and under the current policy generation, or kept.
#[inline(always)]
pub fn is_current(flow: &Flow, generation: u32, now: u64) -> bool {
    flow.expires > now && flow.flags & DENIED == 0 && (flow.generation == generation || is_kept(flow))
}

/// Whether a flow that is allowed stays as it is, whatever changes. Of what a pod started it is to be found out whether its address is a
/// Service's by now.
#[inline(always)]
fn is_kept(flow: &Flow) -> bool {
    !config::recheck() && (flow.initiator != EGRESS || flow.flags & SERVICE != 0)
}

/// How much longer than its lifetime a flow may live, so that it is not written with each packet: a 64th.
#[inline(always)]
const fn slack(lifetime: u64) -> u64 {
    lifetime >> 6
}

/// Whether a packet of an established flow is to be noted: it ends the flow, or what stands there is too old.
#[inline(always)]
pub fn is_due(flow: &Flow, protocol: u8, transport: Transport, now: u64) -> bool {
    let lifetime = config::lifetime(protocol, flow.state);
    // Either too early, or far too late: lifetimes may have been changed.
    let is_old = flow.expires.wrapping_sub(now + lifetime) > 2 * slack(lifetime);
    is_old || transport.finishes || transport.resets
}

/// Changes an established flow as a packet of it does.
#[inline(always)]
pub fn refresh(flow: &mut Flow, direction: u8, protocol: u8, transport: Transport, now: u64) {
    if transport.finishes || transport.resets {
        end(flow, direction, transport);
    }
    let lifetime = config::lifetime(protocol, flow.state);
    flow.expires = now + lifetime + slack(lifetime);
}

/// Reads the packet's flow, if it is established, into the context. It counts only if a second look-up finds the same: then it was this
/// flow for as long as it was being read.
#[inline(never)]
pub fn read<A: Address>(context: &mut Context<A>) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        let Some(found) = A::flow(&context.key) else { return false };
        // SAFETY: until this program ends, the memory stays a flow, if not this one. Volatile: others may be writing.
        context.flow = unsafe { found.read_volatile() };
        seqcount::fence();
        if A::flow(&context.key) == Some(found) {
            return true;
        }
        tries += 1;
    }
    false
}

/// How often to look again, as in [`crate::seqcount`].
const TRIES: u32 = 2;

/// Notes a packet of the packet's flow, which is established. A function of its own: hardly any packet needs it.
#[inline(never)]
pub fn note<A: Address>(context: &mut Context<A>, direction: u8) {
    if !read(context) {
        return;
    }
    let Packet { transport, protocol, .. } = context.packet;
    let before = context.flow;
    refresh(&mut context.flow, direction, protocol, transport, context.now);
    write(context, &before);
}

/// Writes what became of the flow that was read, if it is worth it. Of two CPUs that do this at one time, one is lost; they say nearly
/// the same.
#[inline(always)]
fn write<A: Address>(context: &Context<A>, before: &Flow) {
    let flow = &context.flow;
    let is_worth_it = flow.expires.abs_diff(before.expires) > slack(flow.expires.saturating_sub(context.now))
        || flow.generation != before.generation
        || flow.state != before.state
        || flow.progress != before.progress
        || flow.flags != before.flags;
    if is_worth_it {
        A::update(&context.key, flow);
    }
}

#[inline(always)]
fn end(flow: &mut Flow, direction: u8, transport: Transport) {
    if transport.finishes {
        flow.progress |= 1 << direction;
    }
    if transport.resets || flow.progress == BOTH_FINISHED {
        flow.state = state::CLOSING;
    }
}

/// Whether the packet's flow is allowed, judged again in its first direction where it was denied, or the generation moved on. Says so in
/// the flow; one that is denied stays known for a while after its last packet.
#[inline(always)]
pub fn judge_again<A: Address>(ctx: &TcContext, context: &mut Context<A>) -> bool {
    let flow = &context.flow;
    // What was denied is not of what `keep` keeps.
    if flow.flags & DENIED == 0 && (flow.generation == context.generation || is_kept(flow)) {
        return true;
    }
    // SAFETY: `ctx` is the running program's, and nobody else has the context.
    unsafe { A::call(Stage::JudgeAgain, ctx.skb.skb, context) != 0 }
}

/// The same of a flow that was denied, or is of an older generation. In place, for the stack of whatever is called from here.
#[inline(always)]
pub fn judge_older<A: Address>(ctx: &TcContext, context: &mut Context<A>) -> bool {
    let initiator = context.flow.initiator;
    let was = context.flow.flags;
    context.ask(initiator);
    if was & DENIED == 0 && !config::recheck() {
        if query::is_behind_nat(context) {
            // So far it went to the address itself.
            context.flow.flags |= SERVICE;
            context.flow.backend = context.question.peer.widen();
            context.flow.backend_port = context.question.port;
        }
        context.flow.generation = context.generation;
        return true;
    }
    // An answer to what the pod sends to an address that was no Service's so far.
    let answers = initiator == EGRESS && context.direction == INGRESS && was & (SERVICE | DENIED) == 0;
    if was & SERVICE != 0 {
        tag::ask_about_backend(context);
    } else if answers {
        // It is one's by now, perhaps. Until the pod's next packet goes elsewhere, this is from whom packets went to.
        context.question.resolved = query::is_behind_nat(context);
    }
    let reason = query::judge(ctx, context);
    if !context.question.resolved {
        // The address may have become the node's, or no longer be.
        context.flow.flags = context.flow.flags & !NODE | context.flow_flags() & NODE;
    }
    // It may be from before the pod was guarded, or before a tunnel ended where it comes from.
    let is_others = context.is_for_another() || initiator == INGRESS && context.flowless;
    if answers && (context.question.resolved || context.service) && !is_others && !reason.drops() {
        // The flow is told by what the pod sends next, which is judged for that.
        return true;
    }
    if initiator == EGRESS && !answers {
        // There may be a Service by now. One that is gone changes nothing here: conntrack may go on translating.
        context.flow.flags |= context.flow_flags() & SERVICE;
    }
    if context.flow.flags & SERVICE != 0 && !is_others {
        return tag::is_allowed_still(ctx, context, reason);
    }
    // What the pod sends carries its own socket, and what the node sends of its own passes by itself: neither says that the node
    // started this flow.
    let is_unsure = reason == Reason::Node
        && initiator == INGRESS
        && (context.flow.flags & DENIED != 0 || context.direction == EGRESS);
    if !is_unsure || is_others {
        let allowed = !reason.drops() && !is_others;
        let from_node = context.flow_flags() & FROM_NODE;
        context.flow.flags =
            context.flow.flags & !(DENIED | FROM_NODE) | from_node | if allowed { 0 } else { DENIED };
        context.flow.generation = context.generation;
        if allowed {
            return true;
        }
    }
    context.flow.expires = context.now + DENIED_LIFETIME;
    false
}

/// The same of the established flow that was read; with `note`, the packet is noted as one of it. A function of its own, for the
/// stack of whoever looks for half-open flows as well.
#[inline(never)]
pub fn judge_established_again<A: Address>(ctx: &TcContext, context: &mut Context<A>, note: bool) -> bool {
    let before = context.flow;
    let allowed = judge_again(ctx, context);
    if allowed && note {
        let Packet { transport, protocol, .. } = context.packet;
        refresh(&mut context.flow, context.direction, protocol, transport, context.now);
    }
    write(context, &before);
    allowed
}

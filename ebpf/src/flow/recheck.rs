//! Flows that are judged again: policy has changed since, or denied them.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{DENIED, DENIED_LIFETIME, FROM_NODE, NODE, SERVICE};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;

use super::established::{is_kept, refresh, write};
use crate::config;
use crate::context::{Context, Isolated};
use crate::family::Family;
use crate::global::{by_family, place_of, same};
use crate::parse::Packet;
use crate::policy::{addressed, judge};

/// Whether the packet's flow is allowed, judged again in its first direction where it was denied, or the generation moved on. Says so in
/// the flow; one that is denied stays known for a while after its last packet.
#[inline(always)]
pub fn judge_again<A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> bool {
    let flow = &context.flow;
    // What was denied is not of what `keep` keeps.
    if flow.flags & DENIED == 0 && (flow.generation == context.generation || is_kept(flow)) {
        return true;
    }
    let place = place_of(context);
    // SAFETY: `ctx` is the running program's, and nobody else has the context.
    unsafe { judge_again_apart(ctx.skb.skb, &raw mut **context, place) != 0 }
}

by_family! {
    /// [`judge_older`], which the verifier checks apart: 1 where the flow is allowed.
    unsafe fn judge_again_apart[judge_again4, judge_again6]<A>(
        skb: *mut __sk_buff,
        context: *mut Context<A>,
        place: u32,
    ) -> u32 {
        // SAFETY: the caller's.
        let Some(context) = (unsafe { same(context, place) }) else { return 0 };
        u32::from(judge_older(&TcContext::new(skb), Isolated::of_stage(context)))
    }
}

/// The same of a flow that was denied, or is of an older generation. In place, for the stack of whatever is called from here.
#[inline(always)]
fn judge_older<A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> bool {
    let initiator = context.flow.initiator;
    let was = context.flow.flags;
    judge::ask(context, initiator);
    if was & DENIED == 0 && !config::recheck() {
        if judge::is_behind_nat(context) {
            // So far it went to the address itself.
            context.flow.flags |= SERVICE;
            context.flow.backend = context.query.question.peer.widen();
            context.flow.backend_port = context.query.question.port;
        }
        context.flow.generation = context.generation;
        return true;
    }
    // An answer to what the pod sends to an address that was no Service's so far.
    let answers = initiator == EGRESS && context.direction == INGRESS && was & (SERVICE | DENIED) == 0;
    if was & SERVICE != 0 {
        ask_about_backend(context);
    } else if answers {
        // It is one's by now, perhaps. Until the pod's next packet goes elsewhere, this is from whom packets went to.
        context.query.question.resolved = judge::is_behind_nat(context);
    }
    let reason = judge::judge(ctx, context);
    if !context.query.question.resolved {
        // The address may have become the node's, or no longer be.
        context.flow.flags = context.flow.flags & !NODE | context.query.outcome.flow_flags() & NODE;
    }
    // It may be from before the pod was guarded, or before a tunnel ended where it comes from.
    let is_others =
        addressed::is_for_another(context) || initiator == INGRESS && context.query.outcome.flowless;
    if answers
        && (context.query.question.resolved || context.query.outcome.service)
        && !is_others
        && !reason.drops()
    {
        // The flow is told by what the pod sends next, which is judged for that.
        return true;
    }
    if initiator == EGRESS && !answers {
        // There may be a Service by now. One that is gone changes nothing here: conntrack may go on translating.
        context.flow.flags |= context.query.outcome.flow_flags() & SERVICE;
    }
    if context.flow.flags & SERVICE != 0 && !is_others {
        return is_allowed_still(ctx, context, reason);
    }
    // What the pod sends carries its own socket, and what the node sends of its own passes by itself: neither says that the node
    // started this flow.
    let is_unsure = reason == Reason::Node
        && initiator == INGRESS
        && (context.flow.flags & DENIED != 0 || context.direction == EGRESS);
    if !is_unsure || is_others {
        let allowed = !reason.drops() && !is_others;
        let from_node = context.query.outcome.flow_flags() & FROM_NODE;
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
pub fn judge_established_again<A: Family>(ctx: &TcContext, context: &mut Isolated<A>, note: bool) -> bool {
    let before = context.flow;
    let allowed = judge_again(ctx, context);
    if allowed && note {
        let context: &mut Context<A> = context;
        let Packet { transport, protocol, .. } = context.packet;
        refresh(&mut context.flow, context.direction, protocol, transport, context.now);
    }
    write(context, &before);
    allowed
}

/// Makes the context's question one about where the packets of the packet's flow went when last seen, if that is known.
#[inline(always)]
fn ask_about_backend<A: Family>(context: &mut Isolated<A>) {
    if context.flow.backend_port != 0 {
        context.query.question.peer = A::narrow(context.flow.backend);
        context.query.question.port = context.flow.backend_port;
        context.query.question.resolved = true;
    }
}

/// Whether a flow to a Service, or to the pod's node, is still allowed, of which policy says this today.
///
/// Such a flow is never remembered as denied: it may lead to another backend by now. (One that was denied before it was one stays so
/// until it is allowed.) What the pod sends is left to the judgement behind the choice, where there is any: a flow that ended on the
/// node and is denied today is not looked at there.
#[inline(always)]
fn is_allowed_still<A: Family>(ctx: &TcContext, context: &mut Isolated<A>, reason: Reason) -> bool {
    // Without a backend: either the flow ended on this node, or it is not known (any more) where it went.
    let is_unknown = reason == Reason::Service;
    // What a pod sends carries its own socket.
    let is_from_node = context.direction == INGRESS && addressed::sent_by_node(ctx);
    if !reason.drops() && (!is_unknown || is_from_node) {
        context.flow.generation = context.generation;
        context.flow.flags &= !DENIED;
        return true;
    }
    context.direction == EGRESS && (is_unknown || context.query.question.resolved)
}

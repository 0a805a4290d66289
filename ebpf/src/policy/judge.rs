//! Policy: may these two exchange this?

use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{NOT_ISOLATED, QUARANTINE};
use postern_common::peer::{LOCAL_NODE, Peer};
use postern_common::reason::Reason;
use postern_common::service::BEHIND_NAT;
use postern_common::verdict::VerdictKey;

use super::query::{CachedVerdict, Outcome, Question};
use super::verdict::of_classes;
use super::{addressed, cache, tunnel};
use crate::context::Isolated;
use crate::family::Family;
use crate::global::stage;
use crate::maps::STATE;
use crate::parse::has_ports;

/// Judges a new flow of one direction, as the context's query has it, by policy alone, without regard to what was allowed before.
///
/// 1. A tunnel that the pod's own node takes apart: dropped.
/// 2. A direction that no policy isolates: allowed.
/// 3. A Service's frontend: its backends decide, each behind the choice, or all of them together. Where the pod sends the packet to
///    somebody else than its node: dropped.
/// 4. The pod's own node: allowed when the packet goes there, by its MAC address as well, or when a process of the node sent it
///    ([`addressed::sent_by_node`]).
/// 5. The verdict of the pod's class and the peer's.
///
/// The query has the [`Outcome`] then.
///
/// Checked apart by the verifier, since it is asked at several places.
#[inline(always)]
pub fn judge<A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> Reason {
    call_decide(ctx, context)
}

stage! {
    /// [`decide`], which the verifier checks apart.
    fn call_decide(Isolated)[judge4, judge6] = DeniedByPolicy, decide
}

/// What policy says of the packet's flow, started in a direction.
#[inline(always)]
pub fn judge_flow<A: Family>(ctx: &TcContext, context: &mut Isolated<A>, direction: u8) -> Reason {
    ask(context, direction);
    judge(ctx, context)
}

/// Asks whether policy allows the packet's flow, started in a direction.
#[inline(always)]
pub fn ask<A: Family>(context: &mut Isolated<A>, direction: u8) {
    // A flow's port is that of the side that did not start it.
    let port = if direction == EGRESS { context.peer().1 } else { context.pod().1 };
    let protocol = context.packet.protocol;
    context.query.question = Question { direction, peer: context.peer().0, protocol, port, resolved: false };
}

/// What [`judge`] does.
#[inline(always)]
fn decide<A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> Reason {
    let Question { direction, protocol, port, resolved, .. } = context.query.question;
    let endpoint = context.endpoint();
    let subject = if direction == EGRESS { endpoint.egress_class } else { endpoint.ingress_class };
    context.query.outcome = Outcome::default();
    // Unless it comes from where a tunnel may end.
    if subject == NOT_ISOLATED && direction == INGRESS && !tunnel::look_up(protocol, context.peer().1) {
        return Reason::NotIsolated;
    }
    let frontends = direction == EGRESS && !resolved && has_ports(protocol);
    let [first, second] = context.query.question.peer.widen();
    context.query.key = [
        first,
        second,
        u64::from(subject) << 32 | u64::from(context.endpoint().epoch),
        (u64::from(A::FAMILY) | u64::from(protocol)) << 32 | u64::from(frontends) << 16 | u64::from(port),
    ];
    let Some(answer) = cache::answer(&context.query.key, || look_up(context, subject, frontends)) else {
        // Every array has its elements.
        return Reason::DeniedByPolicy;
    };
    context.query.outcome.is_peer_node = answer.flags & IS_NODE != 0;
    let is_outgoing = context.direction == EGRESS;
    // What the pod sends does not tell who sent what it gets.
    let may_be_node =
        if direction == EGRESS { !context.astray() } else { is_outgoing || addressed::sent_by_node(ctx) };
    let is_node = context.query.outcome.is_peer_node && may_be_node;
    let is_behind_nat = answer.class == BEHIND_NAT;
    context.query.outcome.service = direction == EGRESS && !context.astray() && (is_node || is_behind_nat);
    context.query.outcome.flowless =
        direction == EGRESS && context.astray() && (context.query.outcome.is_peer_node || is_behind_nat);
    if is_tunnel(context) {
        // What the pod gets from where a tunnel ends is not of the tunnel, and its answers would be.
        context.query.outcome.flowless = true;
        if direction == EGRESS {
            return Reason::Tunnel;
        }
    }
    if subject == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    if is_node {
        context.query.outcome.is_from_node = direction == INGRESS && !is_outgoing;
        return Reason::Node;
    }
    if subject == QUARANTINE {
        return Reason::Quarantined;
    }
    if is_behind_nat {
        let is_judged = !context.astray() && STATE.get(0).is_some_and(|state| state.behind_nat != 0);
        return if is_judged { Reason::Service } else { Reason::DeniedByPolicy };
    }
    if answer.flags & IS_ALLOWED != 0 { Reason::AllowedByPolicy } else { Reason::DeniedByPolicy }
}

/// Whether what the question is about goes to where a tunnel of the node ends, or comes from there.
#[inline(never)]
fn is_tunnel<A: Family>(context: &Isolated<A>) -> bool {
    let Question { direction, peer, protocol, port, .. } = context.query.question;
    let end = if direction == EGRESS { port } else { context.peer().1 };
    (context.query.outcome.is_peer_node || peer.is_group()) && tunnel::may_be(protocol, end)
}

/// The peer is the pod's own node.
const IS_NODE: u32 = 1;
/// The verdict between both classes allows it.
const IS_ALLOWED: u32 = 2;

/// Asks the tables. A function of its own for each, for their stack.
#[inline(never)]
fn look_up<A: Family>(context: &Isolated<A>, subject: u32, frontends: bool) -> CachedVerdict {
    let frontend = if frontends { frontend_class(context) } else { NONE };
    let peer = if frontend == NONE {
        listed(context).or_else(|| contained(context)).unwrap_or_default()
    } else {
        Peer { class: frontend, flags: 0 }
    };
    let Question { protocol, port, .. } = context.query.question;
    let mut flags = 0;
    if peer.flags & LOCAL_NODE != 0 {
        flags |= IS_NODE;
    }
    if of_classes(VerdictKey { subject, peer: peer.class }, protocol, port) == Reason::AllowedByPolicy {
        flags |= IS_ALLOWED;
    }
    CachedVerdict { class: peer.class, flags }
}

/// In place of a frontend's class: there is none.
const NONE: u32 = u32::MAX - 1;

/// The class of the frontend in question, [`BEHIND_NAT`], or [`NONE`].
#[inline(never)]
fn frontend_class<A: Family>(context: &Isolated<A>) -> u32 {
    let Question { protocol, port, .. } = context.query.question;
    let frontend = context.query.question.peer.frontend(context.endpoint().epoch, protocol, port);
    frontend.map_or(NONE, |frontend| frontend.class)
}

/// Whether the peer in question is a frontend whose backend is chosen on this node.
#[inline(always)]
pub fn is_behind_nat<A: Family>(context: &Isolated<A>) -> bool {
    has_ports(context.query.question.protocol) && frontend_class(context) == BEHIND_NAT
}

/// The peer in question, by an entry of its own.
#[inline(never)]
fn listed<A: Family>(context: &Isolated<A>) -> Option<Peer> {
    context.query.question.peer.peer_exact(context.endpoint().epoch)
}

/// The peer in question, by the longest CIDR that holds it.
#[inline(never)]
fn contained<A: Family>(context: &Isolated<A>) -> Option<Peer> {
    context.query.question.peer.peer_lpm(context.endpoint().epoch)
}

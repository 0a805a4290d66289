//! In what order a packet is judged: the numbers here are those of docs/packet-path.md.

use core::ptr::NonNull;

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, Row, SERVICE, state};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{Endpoint, GUARDED, NOT_ISOLATED, QUARANTINE};
use postern_common::reason::Reason;
use postern_common::service::{JUDGED, NOTHING_NOTED};
use postern_common::{IPPROTO_ICMP, IPPROTO_TCP};

use crate::antispoof;
use crate::config;
use crate::context::claim;
use crate::context::{Context, ifindex, readable, step};
use crate::count::conclude;
use crate::family::Address;
use crate::flow::directory;
use crate::flow::established;
use crate::flow::fragment;
use crate::flow::fragment::Relation;
use crate::flow::half_open;
use crate::flow::midstream::{self, Midstream};
use crate::global;
use crate::global::Stage;
use crate::nat::tag::{self, has_ports};
use crate::parse::{self, Fragment, Frame, Packet, ethertype};
use crate::policy::addressed::{self, is_astray};
use crate::policy::cache;
use crate::policy::query::{self, Question};
use crate::seqcount;

/// Judges one packet: the two programs of an isolated pod.
#[inline(always)]
pub fn judge<const DIRECTION: u8>(ctx: &TcContext) -> i32 {
    if DIRECTION == EGRESS {
        tag::tag(ctx, NOTHING_NOTED);
    }
    conclude::<DIRECTION>(ctx, claim::within(|place| reason::<DIRECTION>(ctx, place)))
}

#[inline(always)]
fn reason<const DIRECTION: u8>(ctx: &TcContext, place: u32) -> Reason {
    match parse::frame(ctx) {
        Ok(Frame { ethertype: ethertype::IPV4, payload }) => fast_path::<DIRECTION, u32>(ctx, payload, place),
        Ok(Frame { ethertype: ethertype::IPV6, payload }) => {
            fast_path::<DIRECTION, [u32; 4]>(ctx, payload, place)
        }
        // SAFETY: `ctx` is the running program's; these return a reason's number.
        _ => unsafe {
            Reason::of(if DIRECTION == EGRESS {
                global::others_from_pod(ctx.skb.skb)
            } else {
                global::others_to_pod(ctx.skb.skb)
            })
        },
    }
}

/// A packet of one family, whose flow is looked for first of all (1).
#[inline(always)]
fn fast_path<const DIRECTION: u8, A: Address>(ctx: &TcContext, start: usize, place: u32) -> Reason {
    let Some(context) = A::context(place) else {
        // Every array has its elements.
        return Reason::Malformed;
    };
    // SAFETY: it belongs to this CPU, where nobody else has the place.
    let context = unsafe { &mut *context };
    if config::realtime() {
        context.place = place;
    }
    context.set::<DIRECTION>(ctx, start);
    let Packet { transport, fragment, protocol, .. } = context.packet;
    let may_be_new = transport.opens && protocol == IPPROTO_TCP;
    if context.readable == readable::YES && transport.flow && fragment == Fragment::Whole && !may_be_new {
        let Some(flow) = A::flow(&context.key) else {
            context.absent = 1;
            return call(Stage::SlowPath(DIRECTION), ctx, context);
        };
        // SAFETY: the element stays valid until this program ends. What is written is written elsewhere.
        let flow: &Flow = unsafe { &*flow };
        let is_against = transport.opens && flow.initiator != DIRECTION;
        if established::is_current(flow, context.generation, context.now)
            && !is_against
            && !addressed::leaves_flow(ctx, context, flow.flags, DIRECTION)
        {
            let crosses = tag::crosses(flow, DIRECTION);
            if established::is_due(flow, protocol, transport, context.now) {
                established::note(context, DIRECTION);
            }
            if crosses {
                tag::cross(ctx, context, tag::of_known());
            }
            return Reason::Established;
        }
    }
    call(Stage::SlowPath(DIRECTION), ctx, context)
}

/// Judges a packet by a stage of its own.
#[inline(always)]
fn call<A: Address>(stage: Stage, ctx: &TcContext, context: &mut Context<A>) -> Reason {
    // SAFETY: `ctx` is the running program's, and nobody else has the context; stages that judge return a reason's number.
    unsafe { Reason::of(A::call(stage, ctx.skb.skb, context)) }
}

/// Everything but packets of flows that go on (2 to 10). Functions of their own from here on, so that they read the context from
/// memory: see [`crate::maps::SCENES4`].
#[inline(always)]
pub fn slow_path<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> Reason {
    // The generation was read; what is judged by it is read from here on.
    seqcount::fence();
    if !cache::take_endpoint(context) {
        return Reason::NoEndpoint;
    }
    if is_open(&context.endpoint) {
        return Reason::NotIsolated;
    }
    context.take_sides::<DIRECTION>();
    context.astray = addressed::strays(ctx, &context.endpoint, DIRECTION);
    match context.readable {
        readable::YES => {}
        readable::SOURCE_ROUTED => return Reason::SourceRouted,
        _ => return Reason::Malformed,
    }
    if DIRECTION == EGRESS && context.endpoint.flags & GUARDED != 0 && antispoof::is_spoofed(ctx, context) {
        return Reason::Spoofed;
    }
    if A::is_link(ctx, context) && !(DIRECTION == EGRESS && leaves_link(ctx, context)) {
        return Reason::Link;
    }
    if context.packet.fragment == Fragment::Later {
        return match fragment::relation::<DIRECTION, A>(ctx, context) {
            Relation::Follows => Reason::Established,
            Relation::Overlaps => Reason::Malformed,
            Relation::Orphan | Relation::Elsewhere => Reason::OrphanFragment,
        };
    }
    let Packet { transport, protocol, .. } = context.packet;
    let reason = if transport.error {
        call(Stage::Error(DIRECTION), ctx, context)
    } else if transport.opens && protocol == IPPROTO_TCP {
        call(Stage::Syn(DIRECTION), ctx, context)
    } else {
        call(Stage::Flow(DIRECTION), ctx, context)
    };
    if context.step != step::NOTHING {
        A::finish(context);
    }
    if DIRECTION == EGRESS
        && !reason.drops()
        && has_ports(context.packet.protocol)
        && !context.packet.transport.error
    {
        // Of flows that are known, those to Services; of what is new, everything: wherever it goes, policy has not allowed more than
        // the address that stands on it.
        let flags = match reason {
            Reason::Established => tag::of_known(),
            Reason::AllowedByPolicy | Reason::NotIsolated => JUDGED,
            _ => 0,
        };
        if reason != Reason::Established || context.service {
            tag::cross(ctx, context, flags);
        }
    }
    if context.packet.fragment == Fragment::First {
        fragment::note::<DIRECTION, A>(ctx, context, !reason.drops());
    }
    reason
}

/// Whether the node would send on what a pod sends to the link: it is for nobody on the link, and addressed to the node.
#[inline(never)]
fn leaves_link<A: Address>(ctx: &TcContext, context: &Context<A>) -> bool {
    let peer = context.packet.destination;
    !peer.stays_on_link()
        && addressed::is_to_node(ctx, &context.endpoint)
        && !peer.is_local_node(context.endpoint.epoch)
}

#[inline(always)]
fn is_open(endpoint: &Endpoint) -> bool {
    endpoint.ingress_class == NOT_ISOLATED && endpoint.egress_class == NOT_ISOLATED
}

/// What is neither IPv4 nor IPv6 (2 to 5). Checked apart by the verifier.
#[inline(always)]
pub fn reason_of_others<const DIRECTION: u8>(ctx: &TcContext) -> Reason {
    // The compiler moves both about, which the verifier lets it do with what has been set.
    let (kind, payload) = parse::frame(ctx).map_or((UNREADABLE, 0), |it| (it.ethertype.into(), it.payload));
    let ifindex = ifindex(ctx);
    let mut endpoint = Endpoint::default();
    if !cache::endpoint(ifindex, &mut endpoint) {
        return Reason::NoEndpoint;
    }
    if is_open(&endpoint) {
        return Reason::NotIsolated;
    }
    if kind == u32::from(ethertype::ARP) {
        return match antispoof::is_spoofed_arp(ctx, payload, ifindex) {
            Ok(true) if DIRECTION == EGRESS && endpoint.flags & GUARDED != 0 => Reason::Spoofed,
            Ok(_) => Reason::Link,
            Err(_) => Reason::Malformed,
        };
    }
    match kind {
        UNREADABLE => Reason::Malformed,
        _ if endpoint.ingress_class == QUARANTINE => Reason::Quarantined,
        _ => Reason::UnknownEtherType,
    }
}

/// In place of an ethertype: there is none.
const UNREADABLE: u32 = u32::MAX;

/// What is known of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing.
    Nothing,
    /// Policy allows it.
    Allowed,
    /// It was allowed once, and policy, asked just now, does not allow it.
    Denied,
}

/// Looks for an established flow, of whatever generation.
#[inline(always)]
fn known_established<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    context: &mut Context<A>,
    note: bool,
) -> Known {
    if context.absent != 0 || !established::read(context) {
        context.absent = 1;
        return Known::Nothing;
    }
    if context.flow.expires <= context.now
        || context.packet.transport.opens && context.flow.initiator != DIRECTION
    {
        return Known::Nothing;
    }
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return Known::Nothing;
    }
    let is_allowed = established::judge_established_again(ctx, context, note);
    // That the other side is the node may have turned out just now.
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return Known::Nothing;
    }
    if !is_allowed {
        return Known::Denied;
    }
    context.service = context.flow.flags & SERVICE != 0;
    Known::Allowed
}

/// Looks for half-open flows (7): those that began in the other direction, and then in this one. The packet is noted as one of the flow.
#[inline(always)]
fn known_half_open_either<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    context: &mut Context<A>,
    row: NonNull<Row>,
) -> Known {
    let transport = context.packet.transport;
    if transport.opens {
        return Known::Nothing;
    }
    let answers = known_half_open::<DIRECTION, A>(ctx, context, row, (other_way(DIRECTION), true));
    // Packets of the first direction that may be the first are judged as such, until the flow is established. A SYN-ACK never is.
    let is_never_first = transport.midstream || transport.answers && context.packet.protocol == IPPROTO_TCP;
    if answers == Known::Allowed || !is_never_first {
        return answers;
    }
    match known_half_open::<DIRECTION, A>(ctx, context, row, (DIRECTION, true)) {
        Known::Nothing => answers,
        goes_on => goes_on,
    }
}

/// Looks for a half-open flow that began in one direction.
#[inline(never)]
fn known_half_open<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    context: &mut Context<A>,
    row: NonNull<Row>,
    (initiator, note): (u8, bool),
) -> Known {
    if !half_open::lookup(context, row, initiator) {
        return Known::Nothing;
    }
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return Known::Nothing;
    }
    let flow = &context.flow;
    // A SYN-ACK of the side that sent the first SYN: both sent one (RFC 9293 3.5).
    if note && initiator == DIRECTION && context.packet.transport.answers && flow.state != state::ANSWERED {
        return Known::Nothing;
    }
    let (generation, flags) = (flow.generation, flow.flags);
    let allowed = established::judge_again(ctx, context);
    let flow = context.flow;
    context.service = flow.flags & SERVICE != 0;
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        half_open::update(context, row);
        return Known::Nothing;
    }
    if allowed && note {
        step(context, DIRECTION);
    } else if !allowed || flow.generation != generation || flow.flags != flags {
        half_open::update(context, row);
    }
    if allowed { Known::Allowed } else { Known::Denied }
}

/// Notes a packet of the half-open flow that was found, which may be established by it: see [`finish`].
#[inline(always)]
fn step<A: Address>(context: &mut Context<A>, direction: u8) {
    let is_established = half_open::is_established_by(&context.flow, direction, context.packet.protocol);
    context.step = if is_established { step::ESTABLISHES } else { step::HALF_OPEN };
}

/// Writes what the packet does to its flow: once, wherever it was judged, for the verifier's sake.
#[inline(always)]
pub fn finish<A: Address>(context: &mut Context<A>) {
    let direction = context.direction;
    let Packet { transport, protocol, .. } = context.packet;
    if context.step != step::HALF_OPEN {
        let half_open = context.flow;
        context.flow.state = state::ESTABLISHED;
        context.flow.progress = 0;
        established::refresh(&mut context.flow, direction, protocol, transport, context.now);
        let is_established = directory::establish(context);
        if context.step == step::MIDSTREAM {
            // Where there is no room, the next packet asks again.
            return;
        }
        context.flow = half_open;
        if is_established {
            context.flow.expires = 0;
        }
        // Else it stays what it was.
    }
    let Some(row) = half_open::row(context) else { return };
    if context.flow.expires != 0 {
        half_open::advance(&mut context.flow, direction, protocol, context.now);
    }
    half_open::update(context, row);
}

const fn other_way(direction: u8) -> u8 {
    if direction == EGRESS { INGRESS } else { EGRESS }
}

/// An ICMP error (8): about a flow that is allowed, or else a packet without ports.
#[inline(always)]
pub fn reason_of_error<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> Reason {
    let peer = context.peer.0;
    // One in fragments is none that a host or router sends: they keep errors short.
    if context.packet.fragment == Fragment::Whole && A::quote(ctx, &mut context.packet) {
        context.take_sides::<DIRECTION>();
        context.name_flow::<DIRECTION>();
        half_open::identify(context);
        let known = known_established::<DIRECTION, A>(ctx, context, false);
        let allowed = match known {
            // Where there is an established flow, it decides alone.
            Known::Allowed => true,
            Known::Denied => false,
            Known::Nothing => is_about_half_open::<DIRECTION, A>(ctx, context),
        };
        if allowed {
            return Reason::Related;
        }
    }
    let (direction, protocol, port) = (DIRECTION, IPPROTO_ICMP, 0);
    context.question = Question { direction, peer, protocol, port, resolved: false };
    query::judge(ctx, context)
}

/// Whether an ICMP error, whose flow the context has, is about a half-open one that is allowed.
#[inline(always)]
fn is_about_half_open<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> bool {
    let Some(row) = half_open::row(context) else { return false };
    // One that goes the way of a half-open flow's first direction is about an answer.
    let mut initiator = if context.packet.transport.opens { DIRECTION } else { other_way(DIRECTION) };
    loop {
        if known_half_open::<DIRECTION, A>(ctx, context, row, (initiator, false)) == Known::Allowed {
            return true;
        }
        if initiator == DIRECTION {
            return false;
        }
        initiator = DIRECTION;
    }
}

/// A SYN begins its flow anew, whatever was known of its addresses and ports (9, 10).
#[inline(always)]
pub fn reason_of_syn<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> Reason {
    let mut reason = context.judge(ctx, DIRECTION);
    if DIRECTION == INGRESS && reason == Reason::DeniedByPolicy && tag::is_hairpin(ctx, context) {
        reason = Reason::AllowedByPolicy;
    }
    if reason == Reason::DeniedByPolicy && is_answer::<DIRECTION, A>(ctx, context) {
        return Reason::Established;
    }
    if reason.drops() || context.flowless {
        return reason;
    }
    if A::flow(&context.key).is_some() {
        A::forget(&context.key);
    }
    if DIRECTION == INGRESS && context.is_for_another() {
        return reason;
    }
    half_open::identify(context);
    let Some(row) = half_open::row(context) else { return Reason::FlowTableFull };
    half_open::probe(context, row, DIRECTION);
    if half_open::insert(context, row, DIRECTION) { reason } else { Reason::FlowTableFull }
}

/// Whether a SYN that policy denies answers one that was sent the other way at the same time (RFC 9293 3.5).
#[inline(always)]
fn is_answer<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> bool {
    half_open::identify(context);
    let Some(row) = half_open::row(context) else { return false };
    if !half_open::lookup(context, row, other_way(DIRECTION))
        || context.flow.state != state::OPENING
        || is_astray(ctx, context, context.flow.flags, DIRECTION)
        // After policy changed, the first side's next SYN is judged before this one is an answer again.
        || !established::is_current(&context.flow, context.generation, context.now)
    {
        return false;
    }
    context.service = context.flow.flags & SERVICE != 0;
    step(context, DIRECTION);
    true
}

/// Any other packet that is not of an established flow of this generation (7, 9, 10).
#[inline(always)]
pub fn reason_of_flow<const DIRECTION: u8, A: Address>(ctx: &TcContext, context: &mut Context<A>) -> Reason {
    let transport = context.packet.transport;
    if !transport.flow {
        return context.judge(ctx, DIRECTION);
    }
    half_open::identify(context);
    let mut known = known_established::<DIRECTION, A>(ctx, context, true);
    if known == Known::Allowed {
        return Reason::Established;
    }
    let Some(row) = half_open::row(context) else {
        let reason = context.judge(ctx, DIRECTION);
        return if reason.drops() || context.flowless { reason } else { Reason::FlowTableFull };
    };
    if known == Known::Nothing {
        known = known_half_open_either::<DIRECTION, A>(ctx, context, row);
        if known == Known::Allowed {
            return Reason::Established;
        }
    }
    let mut reason = context.judge(ctx, DIRECTION);
    if DIRECTION == INGRESS && reason == Reason::DeniedByPolicy && tag::is_hairpin(ctx, context) {
        // Allowed whatever became of the flow before, and whatever the pod's sockets say.
        reason = Reason::AllowedByPolicy;
        known = Known::Allowed;
        if context.absent == 0 {
            A::forget(&context.key);
            context.absent = 1;
        }
    }
    if reason == Reason::Quarantined {
        return reason;
    }
    // Whatever else is known: this passes, if not as the start of something.
    let exempt = reason == Reason::NotIsolated || reason == Reason::Node;

    if transport.answers || known == Known::Denied && transport.midstream {
        return if exempt { reason } else { Reason::DeniedByPolicy };
    }
    if known == Known::Denied {
        // It may be a packet of its own, and does not reopen what policy closed.
        return reason;
    }
    if context.flowless {
        return reason;
    }
    if transport.midstream && known == Known::Nothing {
        match midstream::judge(ctx, context, reason) {
            Midstream::Allowed => return Reason::Established,
            Midstream::Denied => return if exempt { reason } else { Reason::DeniedByPolicy },
            Midstream::Unknown => {}
        }
    }
    if reason.drops() || transport.resets {
        return reason;
    }
    if context.absent == 0 {
        // What there was with the same ports is over, or was with a Service, which this is not.
        A::forget(&context.key);
    }
    if DIRECTION == INGRESS && context.is_for_another() {
        return reason;
    }
    if half_open::lookup(context, row, DIRECTION) {
        // Once more before it is established; it was judged just now.
        context.flow.generation = context.generation;
        context.flow.flags = context.flow_flags();
        step(context, DIRECTION);
        return reason;
    }
    if half_open::insert(context, row, DIRECTION) { reason } else { Reason::FlowTableFull }
}

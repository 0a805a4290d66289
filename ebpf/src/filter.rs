//! In what order a packet is judged. The numbers are those of docs/packet-path.md, and stand where each is decided:
//!
//! 1. A packet of an established flow passes before anything else is looked up: `fast_path`.
//! 2. The endpoint, by interface: none, or one that is isolated in neither direction. From here on `slow_path`.
//! 3. What cannot be read, and source-routed packets; other ethertypes than IPv4, IPv6 and ARP: `reason_of_others`.
//! 4. Anti-spoofing, of what the pod sends.
//! 5. The link's own messages.
//! 6. Later fragments, which follow their first.
//! 7. Flows: half-open ones, and established ones that are judged again: `reason_of_flow`.
//! 8. ICMP errors about a flow that is allowed: `reason_of_error`.
//! 9. Policy, for what starts something new. A TCP SYN always does: `reason_of_syn`.
//! 10. A new flow that cannot be noted.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::Flow;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{Endpoint, GUARDED, NOT_ISOLATED, QUARANTINE};
use postern_common::reason::Reason;
use postern_common::service::{JUDGED, NOTHING_NOTED};
use postern_common::{IPPROTO_ICMP, IPPROTO_TCP};

use crate::context::{self, Context, Isolated, claim, ifindex, readable};
use crate::count::conclude;
use crate::family::Family;
use crate::flow::cursor::step;
use crate::flow::fragment::{self, Relation};
use crate::flow::known::{self, Known};
use crate::flow::midstream::{self, Midstream};
use crate::flow::{established, half_open};
use crate::global::stage_of_direction;
use crate::nat::{hairpin, tag};
use crate::parse::{self, Fragment, Frame, Packet, ethertype, has_ports};
use crate::policy::query::Question;
use crate::policy::{addressed, cache, judge};
use crate::{antispoof, config, seqcount};

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
                others_from_pod(ctx.skb.skb)
            } else {
                others_to_pod(ctx.skb.skb)
            })
        },
    }
}

/// A packet of one family, whose flow is looked for first of all (1).
#[inline(always)]
fn fast_path<const DIRECTION: u8, A: Family>(ctx: &TcContext, start: usize, place: u32) -> Reason {
    let Some(context) = context::at::<A>(place) else {
        // Every array has its elements.
        return Reason::Malformed;
    };
    // SAFETY: it belongs to this CPU, where nobody else has the place.
    let context = unsafe { &mut *context };
    if config::realtime() {
        context.cpu.place = place;
    }
    context.set::<DIRECTION>(ctx, start);
    // 1
    let Packet { transport, fragment, protocol, .. } = context.packet;
    let may_be_new = transport.opens && protocol == IPPROTO_TCP;
    if context.readable == readable::YES && transport.flow && fragment == Fragment::Whole && !may_be_new {
        let Some(flow) = A::flow(&context.established.key) else {
            context.established.absent = 1;
            return call_slow_path::<DIRECTION, A>(ctx, context);
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
    call_slow_path::<DIRECTION, A>(ctx, context)
}

stage_of_direction! {
    /// [`slow_path`], which the verifier checks apart, as what it calls.
    fn call_slow_path(Context)[slow_path_from_pod4, slow_path_from_pod6, slow_path_to_pod4, slow_path_to_pod6]
        = Malformed, slow_path
}

/// Everything but packets of flows that go on (2 to 10). Functions of their own from here on, so that they read the context from
/// memory: see [`crate::context::SCENES4`].
#[inline(always)]
fn slow_path<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &mut Context<A>) -> Reason {
    // The generation was read; what is judged by it is read from here on.
    seqcount::fence();
    // 2
    let ifindex = context.ifindex;
    let Some(endpoint) = cache::endpoint(ifindex, context.endpoint_to_fill()) else {
        return Reason::NoEndpoint;
    };
    if is_open(endpoint) {
        return Reason::NotIsolated;
    }
    let astray = addressed::strays(ctx, endpoint, DIRECTION);
    let context = context.isolated::<DIRECTION>(astray);
    // 3
    match context.readable {
        readable::YES => {}
        readable::SOURCE_ROUTED => return Reason::SourceRouted,
        _ => return Reason::Malformed,
    }
    // 4
    if DIRECTION == EGRESS && context.endpoint().flags & GUARDED != 0 && antispoof::is_spoofed(ctx, context) {
        return Reason::Spoofed;
    }
    // 5
    if A::is_link_control(ctx, &context.packet, context.start as usize)
        && !(DIRECTION == EGRESS && leaves_link(ctx, context))
    {
        return Reason::Link;
    }
    // 6
    if context.packet.fragment == Fragment::Later {
        return match fragment::relation::<DIRECTION, A>(ctx, context) {
            Relation::Follows => Reason::Established,
            Relation::Overlaps => Reason::Malformed,
            Relation::Orphan | Relation::Elsewhere => Reason::OrphanFragment,
        };
    }
    // 7 to 10
    let Packet { transport, protocol, .. } = context.packet;
    let reason = if transport.error {
        call_error::<DIRECTION, A>(ctx, context)
    } else if transport.opens && protocol == IPPROTO_TCP {
        call_syn::<DIRECTION, A>(ctx, context)
    } else {
        call_flow::<DIRECTION, A>(ctx, context)
    };
    if context.step != step::NOTHING {
        known::finish_flow(context);
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
        if reason != Reason::Established || tag::crosses(&context.flow, DIRECTION) {
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
fn leaves_link<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> bool {
    let peer = context.packet.destination;
    !peer.stays_on_link()
        && addressed::is_to_node(ctx, context.endpoint())
        && !peer.is_local_node(context.endpoint().epoch)
}

#[inline(always)]
fn is_open(endpoint: &Endpoint) -> bool {
    endpoint.ingress_class == NOT_ISOLATED && endpoint.egress_class == NOT_ISOLATED
}

/// [`reason_of_others`] of what a pod sends: one of [`Reason`]'s numbers. Checked apart by the verifier.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn others_from_pod(skb: *mut __sk_buff) -> u32 {
    reason_of_others::<EGRESS>(&TcContext::new(skb)) as u32
}

/// The same of what a pod gets.
///
/// # Safety
///
/// As above.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn others_to_pod(skb: *mut __sk_buff) -> u32 {
    reason_of_others::<INGRESS>(&TcContext::new(skb)) as u32
}

/// What is neither IPv4 nor IPv6 (2 to 5). Checked apart by the verifier.
#[inline(always)]
pub fn reason_of_others<const DIRECTION: u8>(ctx: &TcContext) -> Reason {
    // The compiler moves both about, which the verifier lets it do with what has been set.
    let (kind, payload) = parse::frame(ctx).map_or((UNREADABLE, 0), |it| (it.ethertype.into(), it.payload));
    let ifindex = ifindex(ctx);
    let mut endpoint = Endpoint::default();
    // 2
    if cache::endpoint(ifindex, &mut endpoint).is_none() {
        return Reason::NoEndpoint;
    }
    if is_open(&endpoint) {
        return Reason::NotIsolated;
    }
    if kind == u32::from(ethertype::ARP) {
        return match antispoof::is_spoofed_arp(ctx, payload, ifindex) {
            // 4
            Ok(true) if DIRECTION == EGRESS && endpoint.flags & GUARDED != 0 => Reason::Spoofed,
            // 5
            Ok(_) => Reason::Link,
            // 3, as what follows
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

stage_of_direction! {
    /// [`reason_of_error`]
    fn call_error(Isolated)[error_from_pod4, error_from_pod6, error_to_pod4, error_to_pod6]
        = Malformed, reason_of_error
}

/// An ICMP error: about a flow that is allowed, or else a packet without ports (8, 9).
#[inline(always)]
fn reason_of_error<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> Reason {
    let peer = context.peer().0;
    // 8. One in fragments is none that a host or router sends: they keep errors short.
    if context.packet.fragment == Fragment::Whole && A::quote(ctx, &mut context.packet) {
        context.take_sides::<DIRECTION>();
        context.name_flow::<DIRECTION>();
        let allowed = match known::established::<DIRECTION, A>(ctx, context, false) {
            // Where there is an established flow, it decides alone.
            Known::Allowed => true,
            Known::Denied => false,
            Known::Nothing => known::is_about_half_open::<DIRECTION, A>(ctx, context),
        };
        if allowed {
            return Reason::Related;
        }
    }
    // 9
    let (direction, protocol, port) = (DIRECTION, IPPROTO_ICMP, 0);
    context.query.question = Question { direction, peer, protocol, port, resolved: false };
    judge::judge(ctx, context)
}

stage_of_direction! {
    /// [`reason_of_syn`]
    fn call_syn(Isolated)[syn_from_pod4, syn_from_pod6, syn_to_pod4, syn_to_pod6] = Malformed, reason_of_syn
}

/// A SYN begins its flow anew, whatever was known of its addresses and ports (9, 10).
#[inline(always)]
fn reason_of_syn<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> Reason {
    // 9
    let mut reason = judge::judge_flow(ctx, context, DIRECTION);
    if DIRECTION == INGRESS && reason == Reason::DeniedByPolicy && hairpin::is_hairpin(ctx, context) {
        reason = Reason::AllowedByPolicy;
    }
    if reason == Reason::DeniedByPolicy && known::is_answer::<DIRECTION, A>(ctx, context) {
        return Reason::Established;
    }
    if reason.drops() || context.query.outcome.flowless {
        return reason;
    }
    if A::flow(&context.established.key).is_some() {
        A::forget(&context.established.key);
    }
    if DIRECTION == INGRESS && addressed::is_for_another(context) {
        return reason;
    }
    // 10
    let Some(bucket) = half_open::bucket(context) else { return Reason::FlowTableFull };
    half_open::probe(context, bucket, DIRECTION);
    if half_open::insert(context, bucket, DIRECTION) { reason } else { Reason::FlowTableFull }
}

stage_of_direction! {
    /// [`reason_of_flow`]
    fn call_flow(Isolated)[flow_from_pod4, flow_from_pod6, flow_to_pod4, flow_to_pod6]
        = Malformed, reason_of_flow
}

/// Any other packet that is not of an established flow of this generation (7, 9, 10).
#[inline(always)]
fn reason_of_flow<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> Reason {
    let transport = context.packet.transport;
    if !transport.flow {
        // 9
        return judge::judge_flow(ctx, context, DIRECTION);
    }
    // 7
    context.from_elsewhere = 0;
    let mut known = known::established::<DIRECTION, A>(ctx, context, true);
    if known == Known::Allowed {
        return Reason::Established;
    }
    let Some(bucket) = half_open::bucket(context) else {
        // 9, 10
        let reason = judge::judge_flow(ctx, context, DIRECTION);
        return if reason.drops() || context.query.outcome.flowless { reason } else { Reason::FlowTableFull };
    };
    if known == Known::Nothing {
        known = known::half_open_either::<DIRECTION, A>(ctx, context, bucket);
        if known == Known::Allowed {
            return Reason::Established;
        }
    }
    // 9
    let mut reason = judge::judge_flow(ctx, context, DIRECTION);
    if DIRECTION == INGRESS && reason == Reason::DeniedByPolicy && hairpin::is_hairpin(ctx, context) {
        // Allowed whatever became of the flow before, and whatever the pod's sockets say.
        reason = Reason::AllowedByPolicy;
        known = Known::Allowed;
        if context.established.absent == 0 {
            A::forget(&context.established.key);
            context.established.absent = 1;
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
    if context.query.outcome.flowless {
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
    if context.established.absent == 0 {
        // What there was with the same ports is over, or was with a Service, which this is not.
        A::forget(&context.established.key);
    }
    if DIRECTION == INGRESS && addressed::is_for_another(context) {
        return reason;
    }
    if half_open::lookup(context, bucket, DIRECTION) {
        // Once more before it is established; it was judged just now.
        context.flow.generation = context.generation;
        context.flow.flags = context.query.outcome.flow_flags();
        known::step(context, DIRECTION);
        return reason;
    }
    // 10
    if half_open::insert(context, bucket, DIRECTION) { reason } else { Reason::FlowTableFull }
}

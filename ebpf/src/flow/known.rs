//! What is known of a packet's flow, and what the packet does to it.

use aya_ebpf::programs::TcContext;
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::state;
use postern_common::direction::{EGRESS, INGRESS};

use super::cursor::step;
use super::half_open::{self, Bucket};
use super::{directory, established, opening, recheck};
use crate::context::{Context, Isolated};
use crate::family::Family;
use crate::global::{by_family, place_of, same};
use crate::parse::Packet;
use crate::policy::addressed::is_astray;

/// What is known of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// Policy allows it.
    Allowed,
    /// It was allowed once, and policy, asked just now, does not allow it.
    Denied,
}

/// What is known of the flow of a packet that leaves the one which was found. Where the pod gets the packet, it is known who started that.
#[inline(always)]
fn of_astray<const DIRECTION: u8, A: Family>(context: &mut Context<A>) -> Known {
    if DIRECTION == INGRESS {
        context.from_elsewhere = 1;
    }
    Known::Nothing
}

/// Looks for an established flow, of whatever generation.
#[inline(always)]
pub fn established<const DIRECTION: u8, A: Family>(
    ctx: &TcContext,
    context: &mut Isolated<A>,
    note: bool,
) -> Known {
    if context.established.absent != 0 || !established::read(context) {
        context.established.absent = 1;
        return Known::Nothing;
    }
    if context.flow.expires <= context.now
        || context.packet.transport.opens && context.flow.initiator != DIRECTION
    {
        return Known::Nothing;
    }
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return of_astray::<DIRECTION, A>(context);
    }
    let is_allowed = recheck::judge_established_again(ctx, context, note);
    // That the other side is the node may have turned out just now.
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return of_astray::<DIRECTION, A>(context);
    }
    if is_allowed { Known::Allowed } else { Known::Denied }
}

/// Looks for half-open flows (7): those that began in the other direction, and then in this one. The packet is noted as one of the flow.
#[inline(always)]
pub fn half_open_either<const DIRECTION: u8, A: Family>(
    ctx: &TcContext,
    context: &mut Isolated<A>,
    bucket: Bucket,
) -> Known {
    let transport = context.packet.transport;
    if transport.opens {
        return Known::Nothing;
    }
    let answers = half_open_of::<DIRECTION, A>(ctx, context, bucket, (other_way(DIRECTION), true));
    // Packets of the first direction that may be the first are judged as such, until the flow is established. A SYN-ACK never is.
    let is_never_first = transport.midstream || transport.answers && context.packet.protocol == IPPROTO_TCP;
    if answers == Known::Allowed || !is_never_first {
        return answers;
    }
    match half_open_of::<DIRECTION, A>(ctx, context, bucket, (DIRECTION, true)) {
        Known::Nothing => answers,
        goes_on => goes_on,
    }
}

/// Looks for a half-open flow that began in one direction.
#[inline(never)]
fn half_open_of<const DIRECTION: u8, A: Family>(
    ctx: &TcContext,
    context: &mut Isolated<A>,
    bucket: Bucket,
    (initiator, note): (u8, bool),
) -> Known {
    if !half_open::lookup(context, bucket, initiator) {
        return Known::Nothing;
    }
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        return of_astray::<DIRECTION, A>(context);
    }
    let flow = &context.flow;
    // A SYN-ACK of the side that sent the first SYN: both sent one (RFC 9293 3.5).
    if note && initiator == DIRECTION && context.packet.transport.answers && flow.state != state::ANSWERED {
        return Known::Nothing;
    }
    let (generation, flags) = (flow.generation, flow.flags);
    let allowed = recheck::judge_again(ctx, context);
    let flow = context.flow;
    if is_astray(ctx, context, context.flow.flags, DIRECTION) {
        half_open::update(context, bucket);
        return of_astray::<DIRECTION, A>(context);
    }
    if allowed && note {
        step(context, DIRECTION);
    } else if !allowed || flow.generation != generation || flow.flags != flags {
        half_open::update(context, bucket);
    }
    if allowed { Known::Allowed } else { Known::Denied }
}

/// Notes a packet of the half-open flow that was found, which may be established by it: see [`finish_flow`].
#[inline(always)]
pub fn step<A: Family>(context: &mut Context<A>, direction: u8) {
    let is_established = half_open::is_established_by(&context.flow, direction, context.packet.protocol);
    context.step = if is_established { step::ESTABLISHES } else { step::HALF_OPEN };
}

by_family! {
    /// [`finish`]. Returns nothing of meaning.
    unsafe fn finish_apart[finish4, finish6]<A>(context: *mut Context<A>, place: u32) -> u32 {
        // SAFETY: the caller's.
        if let Some(context) = unsafe { same(context, place) } {
            finish(context);
        }
        0
    }
}

/// Writes what the packet does to its flow. Checked apart by the verifier.
#[inline(always)]
pub fn finish_flow<A: Family>(context: &mut Context<A>) {
    let place = place_of(context);
    // SAFETY: nobody else has the context.
    unsafe { finish_apart(&raw mut *context, place) };
}

/// What [`finish_flow`] does: once, wherever the packet was judged, for the verifier's sake.
#[inline(always)]
fn finish<A: Family>(context: &mut Context<A>) {
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
    let Some(bucket) = half_open::same_bucket(context) else { return };
    if context.flow.expires != 0 {
        half_open::advance(&mut context.flow, direction, protocol, context.now);
        if context.flow.state == state::OPENING {
            opening::note(context, direction);
        }
    }
    half_open::update(context, bucket);
}

/// Whether an ICMP error, whose flow the context has, is about a half-open one that is allowed.
#[inline(always)]
pub fn is_about_half_open<const DIRECTION: u8, A: Family>(
    ctx: &TcContext,
    context: &mut Isolated<A>,
) -> bool {
    let Some(bucket) = half_open::bucket(context) else { return false };
    // One that goes the way of a half-open flow's first direction is about an answer.
    let mut initiator = if context.packet.transport.opens { DIRECTION } else { other_way(DIRECTION) };
    loop {
        if half_open_of::<DIRECTION, A>(ctx, context, bucket, (initiator, false)) == Known::Allowed {
            return true;
        }
        if initiator == DIRECTION {
            return false;
        }
        initiator = DIRECTION;
    }
}

/// Whether a SYN that policy denies answers one that was sent the other way at the same time (RFC 9293 3.5).
#[inline(always)]
pub fn is_answer<const DIRECTION: u8, A: Family>(ctx: &TcContext, context: &mut Isolated<A>) -> bool {
    if !opening::may_be(context, other_way(DIRECTION)) {
        return false;
    }
    let Some(bucket) = half_open::bucket(context) else { return false };
    if !half_open::lookup(context, bucket, other_way(DIRECTION))
        || context.flow.state != state::OPENING
        || is_astray(ctx, context, context.flow.flags, DIRECTION)
        // After policy changed, the first side's next SYN is judged before this one is an answer again.
        || !established::is_current(&context.flow, context.generation, context.now)
    {
        return false;
    }
    step(context, DIRECTION);
    true
}

/// The other direction.
pub const fn other_way(direction: u8) -> u8 {
    if direction == EGRESS { INGRESS } else { EGRESS }
}

//! Established flows: how they go on, and when they are judged again.

use postern_common::conntrack::{DENIED, Flow, SERVICE, state};
use postern_common::direction::EGRESS;

use crate::context::Context;
use crate::family::Family;
use crate::parse::{Packet, Transport};
use crate::{config, seqcount};

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
pub fn is_kept(flow: &Flow) -> bool {
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
pub fn read<A: Family>(context: &mut Context<A>) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        let Some(found) = A::flow(&context.established.key) else { return false };
        // SAFETY: until this program ends, the memory stays a flow, if not this one. Volatile: others may be writing.
        context.flow = unsafe { found.read_volatile() };
        seqcount::fence();
        if A::flow(&context.established.key) == Some(found) {
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
pub fn note<A: Family>(context: &mut Context<A>, direction: u8) {
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
pub fn write<A: Family>(context: &Context<A>, before: &Flow) {
    let flow = &context.flow;
    let is_worth_it = flow.expires.abs_diff(before.expires) > slack(flow.expires.saturating_sub(context.now))
        || flow.generation != before.generation
        || flow.state != before.state
        || flow.progress != before.progress
        || flow.flags != before.flags;
    if is_worth_it {
        A::update(&context.established.key, flow);
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

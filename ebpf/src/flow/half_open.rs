//! Half-open flows: those that have not shown yet that both sides want them.
//!
//! A 12-way set-associative table, one for each veth and direction. A flow has a row of its veth, which the agent has set aside. Where
//! all of that is taken, it goes to its *overflow row*, which is made when first needed: each row has some of its own, so that it can
//! say until when there may be anything in them, and nobody looks there without need. Where all of an overflow row is taken as well,
//! the flow that expires first goes: under a flood through one pod, that pod's half-open flows live as long as its rows last, and
//! nobody else's are touched.
//!
//! [`super::row`] says how a flow finds its place in a row. Whoever looks for a flow takes a row's lock only where it seems to be there.

use core::ptr::{NonNull, read_volatile};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{Flow, HALF_OPEN_WAYS, Row, STREAM, state};
use postern_common::direction::EGRESS;

use super::opening;
use super::row::{
    FLOWS, Flows, base, copy, expires, flow_at, identity, is_flow, is_tagged, overflow, overflows_until,
    place, tag,
};
use crate::config;
use crate::context::{Context, Isolated};
use crate::family::Family;
use crate::global::{by_family, place_of, same};
use crate::maps::HALF_OPEN;

/// The row of the packet's flow. Who has it knows that the packet's flow was told from others.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bucket(NonNull<Row>);

/// Tells the packet's flow from others, and finds its row. None: its veth has no room, or carries no programs any more.
#[inline(always)]
pub fn bucket<A: Family>(context: &mut Isolated<A>) -> Option<Bucket> {
    (context.half_open.identity, context.half_open.hash) =
        identity(context.pod(), context.peer(), context.packet.protocol);
    same_bucket(context)
}

/// The same once more, for a stage that is called after that.
#[inline(always)]
pub fn same_bucket<A: Family>(context: &Context<A>) -> Option<Bucket> {
    let key = base(context.ifindex, context.half_open.hash);
    HALF_OPEN.get_ptr_mut(key).and_then(NonNull::new).map(Bucket)
}

/// The overflow row of the packet's flow.
#[inline(always)]
fn overflow_row<A: Family>(context: &Context<A>) -> Option<NonNull<Row>> {
    HALF_OPEN.get_ptr_mut(overflow(context.ifindex, context.half_open.hash)).and_then(NonNull::new)
}

/// Where the flow stands that was found, or that was opened: its row, or its overflow row.
#[inline(always)]
fn row_of<A: Family>(context: &Context<A>, bucket: Bucket) -> Option<NonNull<Row>> {
    if context.half_open.in_overflow == 0 { Some(bucket.0) } else { overflow_row(context) }
}

/// Looks for the packet's flow as started in a direction; the cursor says then where it is, or else which way it may take.
#[inline(never)]
pub fn probe<A: Family>(context: &mut Context<A>, bucket: Bucket, initiator: u8) -> bool {
    context.half_open.in_overflow = 0;
    if probe_row(context, bucket.0, initiator) {
        return true;
    }
    let is_free = context.half_open.first <= context.now;
    context.half_open.base_way = context.half_open.way;
    if overflows_until(bucket.0, initiator) > context.now
        && let Some(other) = overflow_row(context)
        && probe_row(context, other, initiator)
    {
        context.half_open.in_overflow = 1;
        return true;
    }
    if is_free {
        context.half_open.way = context.half_open.base_way;
    } else {
        // Which way is as good as any where nothing was looked at: all of them have expired.
        context.half_open.in_overflow = 1;
    }
    false
}

/// Looks for the packet's flow in one row.
#[inline(always)]
fn probe_row<A: Family>(context: &mut Context<A>, row: NonNull<Row>, initiator: u8) -> bool {
    let place = place_of(context);
    // SAFETY: until this program ends, the memory stays a row.
    unsafe {
        probe_apart(&raw mut *context, place, &raw const (*row.as_ptr()).flows, u32::from(initiator)) != 0
    }
}

by_family! {
    /// [`probe_in`], which the verifier checks apart: 1 where it is there.
    unsafe fn probe_apart[seek4, seek6]<A>(
        context: *mut Context<A>,
        place: u32,
        flows: *const Flows,
        initiator: u32,
    ) -> u32 {
        // SAFETY: the caller's.
        match unsafe { same(context, place) } {
            // SAFETY: the same.
            Some(context) if !flows.is_null() => u32::from(unsafe { probe_in(context, flows, initiator) }),
            _ => 0,
        }
    }
}

/// The same, among the row's flows: without its lock, which must not be handed over.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
unsafe fn probe_in<A: Family>(context: &mut Context<A>, flows: *const Flows, initiator: u32) -> bool {
    let mut first = u64::MAX;
    let mut way = 0;
    while way < HALF_OPEN_WAYS {
        let at = place(initiator as u8, way);
        // SAFETY: the caller's.
        let flow = unsafe { &raw const (*flows)[at] };
        // SAFETY: the same.
        let expires = unsafe { expires(flow) };
        // SAFETY: the same.
        if is_later(expires, context.now) && unsafe { is_tagged(context.half_open.hash, flow) } {
            context.half_open.way = at as u32;
            return true;
        }
        if expires < first {
            first = expires;
            context.half_open.way = at as u32;
        }
        way += 1;
    }
    context.half_open.first = first;
    false
}

/// Whether one time is behind another, by their difference: of two numbers that are compared with each other, the verifier learns how
/// large each may be, round after round of a loop.
#[inline(always)]
fn is_later(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

/// Looks for the packet's flow as started in a direction; the context says then how far it got, or its cursor which way it may take.
#[inline(never)]
pub fn lookup<A: Family>(context: &mut Context<A>, bucket: Bucket, initiator: u8) -> bool {
    // Before the lock, which waits for memory.
    if !probe(context, bucket, initiator) {
        return false;
    }
    row_of(context, bucket).is_some_and(|row| read(context, row))
}

/// Reads the flow that was sought and found, unless another one took its place just now.
#[inline(never)]
fn read<A: Family>(context: &mut Context<A>, row: NonNull<Row>) -> bool {
    let row = row.as_ptr();
    let at = context.half_open.way as usize;
    if at >= FLOWS {
        // It never is, which the verifier cannot know. The same below.
        return false;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    let is_ours = unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_ours = is_in(context, row) && is_flow(&context.half_open.identity, row, at);
        copy(&raw const (*row).flows[at], &raw mut context.flow);
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_ours
    };
    is_ours && context.flow.expires > context.now
}

/// Writes what became of the half-open flow that was found. One that another flow has replaced in between is gone: the next packet
/// starts over.
#[inline(never)]
pub fn update<A: Family>(context: &Context<A>, bucket: Bucket) {
    let Some(its) = row_of(context, bucket) else { return };
    write(context, its);
    if context.half_open.in_overflow != 0 {
        overflow_until(context, bucket.0, context.flow.initiator);
    }
}

#[inline(never)]
fn write<A: Family>(context: &Context<A>, row: NonNull<Row>) {
    let row = row.as_ptr();
    let at = context.half_open.way as usize;
    if at >= FLOWS {
        return;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        // One that another CPU has forgotten meanwhile stays forgotten.
        if is_in(context, row)
            && is_flow(&context.half_open.identity, row, at)
            && expires(flow_at(row, at)) != 0
        {
            copy(&raw const context.flow, &raw mut (*row).flows[at]);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
    }
}

/// Has a row say that its overflow rows may hold flows.
#[inline(never)]
fn overflow_until<A: Family>(context: &Context<A>, row: NonNull<Row>, direction: u8) {
    let until = context.flow.expires;
    if overflows_until(row, direction) >= until {
        return;
    }
    let row = row.as_ptr();
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        if is_in(context, row) {
            let [ingress, egress] = read_volatile(&raw const (*row).overflow);
            let later = if direction == EGRESS {
                [ingress, if egress < until { until } else { egress }]
            } else {
                [if ingress < until { until } else { ingress }, egress]
            };
            (&raw mut (*row).overflow).write_volatile(later);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
    }
}

/// Remembers a flow that its first packet started, right after it was sought: in place of what is there. Says whether it could.
#[inline(never)]
pub fn insert<A: Family>(context: &mut Context<A>, bucket: Bucket, direction: u8) -> bool {
    context.flow = Flow {
        expires: context.now + config::lifetime(context.packet.protocol, state::OPENING),
        generation: context.generation,
        initiator: direction,
        state: state::OPENING,
        flags: context.query.outcome.flow_flags(),
        tag: tag(context.half_open.hash),
        ..Flow::default()
    };
    opening::note(context, direction);
    if context.half_open.in_overflow != 0 {
        if let Some(other) = overflow_row(context).or_else(|| make_overflow_row(context)) {
            // First, so that whoever finds it there knows where to look.
            overflow_until(context, bucket.0, direction);
            return put(context, other);
        }
        // No room for one, or no memory.
        context.half_open.in_overflow = 0;
        context.half_open.way = context.half_open.base_way;
    }
    put(context, bucket.0)
}

/// Makes the overflow row of the packet's flow.
#[inline(never)]
fn make_overflow_row<A: Family>(context: &mut Context<A>) -> Option<NonNull<Row>> {
    let key = overflow(context.ifindex, context.half_open.hash);
    // Another CPU may have been faster.
    let _ = HALF_OPEN.insert(key, context.empty_row(), u64::from(BPF_NOEXIST));
    overflow_row(context)
}

#[inline(never)]
fn put<A: Family>(context: &Context<A>, row: NonNull<Row>) -> bool {
    let row = row.as_ptr();
    let at = context.half_open.way as usize;
    if at >= FLOWS {
        return false;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_in = is_in(context, row);
        if is_in {
            (&raw mut (*row).identities[at]).write_volatile(context.half_open.identity);
            copy(&raw const context.flow, &raw mut (*row).flows[at]);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_in
    }
}

/// Whether a row is of the packet's veth.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_in<A: Family>(context: &Context<A>, row: *const Row) -> bool {
    // SAFETY: the caller's.
    unsafe { read_volatile(&raw const (*row).ifindex) == context.ifindex }
}

/// Whether one more packet establishes a half-open flow that is allowed: both sides were heard before; for TCP it must be one of the
/// side that started it, since a kernel repeats its SYN-ACK to whoever may have sent a SYN. Other protocols have streams that nobody
/// answers.
#[inline(always)]
pub fn is_established_by(flow: &Flow, direction: u8, protocol: u8) -> bool {
    let is_first = direction == flow.initiator;
    let is_tcp = protocol == IPPROTO_TCP;
    let is_stream = !is_tcp && flow.progress + u8::from(is_first) >= STREAM;
    is_stream || flow.state == state::ANSWERED && (!is_tcp || is_first)
}

/// Notes one more packet of a half-open flow that is allowed.
#[inline(always)]
pub fn advance(flow: &mut Flow, direction: u8, protocol: u8, now: u64) {
    let is_first = direction == flow.initiator;
    if !is_first {
        flow.state = state::ANSWERED;
    } else if protocol != IPPROTO_TCP && flow.progress < STREAM - 1 {
        flow.progress += 1;
    }
    flow.expires = now + config::lifetime(protocol, flow.state);
}

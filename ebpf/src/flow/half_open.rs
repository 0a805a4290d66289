//! Half-open flows: those that have not shown yet that both sides want them.
//!
//! A 12-way set-associative table, one for each veth and direction. A flow has a row of its veth, which the agent has set aside. Where
//! all of that is taken, it goes to its *overflow row*, which is made when first needed: each row has some of its own, so that it can
//! say until when there may be anything in them, and nobody looks there without need. Where all of an overflow row is taken as well,
//! the flow that expires first goes: under a flood through one pod, that pod's half-open flows live as long as its rows last, and
//! nobody else's are touched.
//!
//! Rows are written in place, under their locks. Whoever looks for a flow takes the lock only where it seems to be there.

use core::ptr::{NonNull, read_volatile, write_volatile};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{
    Flow, HALF_OPEN_ROWS, HALF_OPEN_WAYS, Identity, OVERFLOW_ROWS, Row, RowKey, STREAM, state,
};
use postern_common::direction::{EGRESS, INGRESS};

use crate::config;
use crate::context::Context;
use crate::family::Address;
use crate::flow::established;
use crate::global::{self, Flows, Identities};
use crate::hash;
use crate::maps::HALF_OPEN;
use crate::opaque::opaque;

/// Tells the packet's flow from others: to be called before anything else here.
#[inline(always)]
pub fn identify<A: Address>(context: &mut Context<A>) {
    (context.identity, context.hash) = identity(context.pod, context.peer, context.packet.protocol);
}

/// What tells a flow between a pod and a peer from others, and the hash of that.
#[inline(always)]
pub fn identity<A: Address>(pod: (A, u16), peer: (A, u16), protocol: u8) -> (Identity, u64) {
    let protocol = A::FAMILY | u32::from(protocol);
    let identity =
        Identity { pod: pod.0.widen(), peer: peer.0.widen(), pod_port: pod.1, peer_port: peer.1, protocol };
    let ports = u64::from(pod.1) << 48 | u64::from(peer.1) << 32;
    let hash = hash::mix(config::seed(), ports | u64::from(protocol));
    (identity, pod.0.mix(peer.0.mix(hash)))
}

/// Whether a veth has, or had, a half-open flow, whichever side started it: for whoever only asks. One that another replaces at this
/// moment may be missed.
#[inline(always)]
pub fn knows(ifindex: u32, hash: u64) -> bool {
    let Some(row) = HALF_OPEN.get_ptr(base(ifindex, hash)).and_then(|row| NonNull::new(row.cast_mut()))
    else {
        return false;
    };
    if holds(row, hash) {
        return true;
    }
    let now = config::now();
    if overflows_until(row, INGRESS) <= now && overflows_until(row, EGRESS) <= now {
        return false;
    }
    let row = HALF_OPEN.get_ptr(overflow(ifindex, hash)).and_then(|row| NonNull::new(row.cast_mut()));
    row.is_some_and(|row| holds(row, hash))
}

/// Whether a row has, or had, a flow of this hash. Checked apart by the verifier.
#[inline(always)]
fn holds(row: NonNull<Row>, hash: u64) -> bool {
    // SAFETY: until this program ends, the memory stays a row.
    unsafe { global::holds(&raw const (*row.as_ptr()).flows, hash) != 0 }
}

/// What [`holds`] does.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
pub unsafe fn holds_among(flows: *const Flows, hash: u64) -> bool {
    let mut at = 0;
    while at < FLOWS {
        // SAFETY: the caller's.
        unsafe {
            let flow = &raw const (*flows)[at];
            if expires(flow) != 0 && is_tagged(hash, flow) {
                return true;
            }
        }
        at += 1;
    }
    false
}

/// Whether a veth has a half-open flow that is allowed, whichever side started it: for whoever only asks, as above.
#[inline(always)]
pub fn allows(ifindex: u32, identity: &Identity, hash: u64, generation: u32) -> bool {
    let Some(row) = HALF_OPEN.get_ptr_mut(base(ifindex, hash)).and_then(NonNull::new) else {
        return false;
    };
    if allows_in(row, identity, hash, generation) {
        return true;
    }
    let now = config::now();
    if overflows_until(row, INGRESS) <= now && overflows_until(row, EGRESS) <= now {
        return false;
    }
    let row = HALF_OPEN.get_ptr_mut(overflow(ifindex, hash)).and_then(NonNull::new);
    row.is_some_and(|row| allows_in(row, identity, hash, generation))
}

/// The same in one row. Checked apart by the verifier.
#[inline(always)]
fn allows_in(row: NonNull<Row>, identity: &Identity, hash: u64, generation: u32) -> bool {
    // SAFETY: until this program ends, the memory stays a row.
    unsafe {
        let row = row.as_ptr();
        global::allows(&raw const (*row).flows, &raw const (*row).identities, identity, hash, generation) != 0
    }
}

/// What [`allows_in`] does.
///
/// # Safety
///
/// Flows and identities must be a row's.
#[inline(always)]
pub unsafe fn allows_among(
    flows: *const Flows,
    identities: *const Identities,
    identity: &Identity,
    hash: u64,
    generation: u32,
) -> bool {
    let now = config::now();
    let mut at = 0;
    while at < FLOWS {
        // SAFETY: the caller's. Volatile: another CPU may be writing.
        unsafe {
            let flow = &raw const (*flows)[at];
            if is_tagged(hash, flow) && is_identity(identity, &raw const (*identities)[at]) {
                let flow = read_volatile(flow);
                if established::is_current(&flow, generation, now) {
                    return true;
                }
            }
        }
        at += 1;
    }
    false
}

/// Where a half-open flow's packets go, and whose they are. Without padding: the verifier checks that all of it is set.
#[repr(C)]
pub struct Destination {
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// The backend's port. Zero: no backend is to be known any more.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// The backend's address.
    pub address: [u64; 2],
    /// The flow.
    pub identity: Identity,
    /// Hash of that.
    pub hash: u64,
}

/// Whether a half-open flow that a pod started is known to go there.
#[inline(always)]
pub fn goes_to(flow: &Destination) -> bool {
    let Some(row) = HALF_OPEN.get_ptr_mut(base(flow.ifindex, flow.hash)).and_then(NonNull::new) else {
        return false;
    };
    if goes_to_in(row, flow) {
        return true;
    }
    if overflows_until(row, EGRESS) <= config::now() {
        return false;
    }
    let row = HALF_OPEN.get_ptr_mut(overflow(flow.ifindex, flow.hash)).and_then(NonNull::new);
    row.is_some_and(|row| goes_to_in(row, flow))
}

/// The same in one row. Checked apart by the verifier.
#[inline(always)]
fn goes_to_in(row: NonNull<Row>, flow: &Destination) -> bool {
    // SAFETY: until this program ends, the memory stays a row.
    unsafe { global::goes_to(&raw const (*row.as_ptr()).flows, flow) != 0 }
}

/// What [`goes_to_in`] does.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
pub unsafe fn goes_to_among(flows: *const Flows, flow: &Destination) -> bool {
    let mut way = 0;
    while way < HALF_OPEN_WAYS {
        let at = place(EGRESS, way);
        // SAFETY: the caller's. Volatile: another CPU may be writing.
        unsafe {
            let noted = &raw const (*flows)[at];
            let [first, second] = read_volatile(&raw const (*noted).backend);
            let port = read_volatile(&raw const (*noted).backend_port);
            let tag = u64::from(read_volatile(&raw const (*noted).tag) ^ tag(flow.hash));
            let difference = opaque(tag | (first ^ flow.address[0]));
            let difference = opaque(difference | (second ^ flow.address[1]));
            if opaque(difference | u64::from(port ^ flow.port)) == 0 {
                return true;
            }
        }
        way += 1;
    }
    false
}

/// Notes where a half-open flow's packets go that a pod started; or that this is not known any more, so that it is judged again.
#[inline(always)]
pub fn set_backend(flow: &Destination) {
    let Some(row) = HALF_OPEN.get_ptr_mut(base(flow.ifindex, flow.hash)).and_then(NonNull::new) else {
        return;
    };
    if set_backend_in(row, flow) || overflows_until(row, EGRESS) <= config::now() {
        return;
    }
    if let Some(row) = HALF_OPEN.get_ptr_mut(overflow(flow.ifindex, flow.hash)).and_then(NonNull::new) {
        set_backend_in(row, flow);
    }
}

/// The same, if it is in this row. Says so.
#[inline(never)]
fn set_backend_in(row: NonNull<Row>, flow: &Destination) -> bool {
    let row = row.as_ptr();
    let mut way = 0;
    while way < HALF_OPEN_WAYS {
        let at = place(EGRESS, way);
        // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
        unsafe {
            if expires(flow_at(row, at)) != 0 && is_tagged(flow.hash, flow_at(row, at)) {
                let noted = &raw mut (*row).flows[at];
                bpf_spin_lock((&raw mut (*row).lock).cast());
                if read_volatile(&raw const (*row).ifindex) == flow.ifindex
                    && is_flow(&flow.identity, row, at)
                {
                    (&raw mut (*noted).backend[0]).write_volatile(flow.address[0]);
                    (&raw mut (*noted).backend[1]).write_volatile(flow.address[1]);
                    (&raw mut (*noted).backend_port).write_volatile(flow.port);
                    if flow.port == 0 {
                        let generation = &raw mut (*noted).generation;
                        generation.write_volatile(generation.read_volatile().wrapping_sub(1));
                    }
                }
                bpf_spin_unlock((&raw mut (*row).lock).cast());
                return true;
            }
        }
        way += 1;
    }
    false
}

/// Key of a flow's row.
#[inline(always)]
fn base(ifindex: u32, hash: u64) -> RowKey {
    RowKey { ifindex, number: hash as u32 & (config::rows() - 1) }
}

/// Key of its overflow row: of one more for each bit of the hash that goes into it, those of the row among them.
#[inline(always)]
fn overflow(ifindex: u32, hash: u64) -> RowKey {
    RowKey { ifindex, number: HALF_OPEN_ROWS + (hash as u32 & (OVERFLOW_ROWS - 1)) }
}

/// Until when overflow rows may hold flows of a row.
#[inline(always)]
fn overflows_until(row: NonNull<Row>, direction: u8) -> u64 {
    // SAFETY: until this program ends, the memory stays a row. Volatile: another CPU may be writing. Both: or else the compiler counts
    // with the direction in a way that the verifier does not follow.
    let [ingress, egress] = unsafe { read_volatile(&raw const (*row.as_ptr()).overflow) };
    if direction == EGRESS { egress } else { ingress }
}

/// Has a row say that its overflow rows may hold flows.
#[inline(never)]
fn overflow_until<A: Address>(context: &Context<A>, row: NonNull<Row>, direction: u8) {
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

/// The row of the packet's flow. None: its veth has no room, or carries no programs any more.
#[inline(always)]
pub fn row<A: Address>(context: &Context<A>) -> Option<NonNull<Row>> {
    HALF_OPEN.get_ptr_mut(base(context.ifindex, context.hash)).and_then(NonNull::new)
}

/// The overflow row of the packet's flow.
#[inline(always)]
fn overflow_row<A: Address>(context: &Context<A>) -> Option<NonNull<Row>> {
    HALF_OPEN.get_ptr_mut(overflow(context.ifindex, context.hash)).and_then(NonNull::new)
}

/// Where the flow stands that was found, or that was opened: its row, or its overflow row.
#[inline(always)]
fn row_of<A: Address>(context: &Context<A>, row: NonNull<Row>) -> Option<NonNull<Row>> {
    if context.in_overflow == 0 { Some(row) } else { overflow_row(context) }
}

/// Looks for the packet's flow as started in a direction; the context says then where it is, or else which way it may take.
#[inline(never)]
pub fn probe<A: Address>(context: &mut Context<A>, row: NonNull<Row>, initiator: u8) -> bool {
    context.in_overflow = 0;
    if probe_row(context, row, initiator) {
        return true;
    }
    let is_free = context.first <= context.now;
    context.base_way = context.way;
    if overflows_until(row, initiator) > context.now
        && let Some(other) = overflow_row(context)
        && probe_row(context, other, initiator)
    {
        context.in_overflow = 1;
        return true;
    }
    if is_free {
        context.way = context.base_way;
    } else {
        // Which way is as good as any where nothing was looked at: all of them have expired.
        context.in_overflow = 1;
    }
    false
}

/// Looks for the packet's flow in one row.
#[inline(always)]
fn probe_row<A: Address>(context: &mut Context<A>, row: NonNull<Row>, initiator: u8) -> bool {
    // SAFETY: until this program ends, the memory stays a row.
    unsafe { A::seek(context, &raw const (*row.as_ptr()).flows, initiator) }
}

/// The same, among the row's flows: without its lock, which must not be handed over.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
pub unsafe fn probe_in<A: Address>(context: &mut Context<A>, flows: *const Flows, initiator: u32) -> bool {
    let mut first = u64::MAX;
    let mut way = 0;
    while way < HALF_OPEN_WAYS {
        let at = place(initiator as u8, way);
        // SAFETY: the caller's.
        let flow = unsafe { &raw const (*flows)[at] };
        // SAFETY: the same.
        let expires = unsafe { expires(flow) };
        // SAFETY: the same.
        if is_later(expires, context.now) && unsafe { is_tagged(context.hash, flow) } {
            context.way = at as u32;
            return true;
        }
        if expires < first {
            first = expires;
            context.way = at as u32;
        }
        way += 1;
    }
    context.first = first;
    false
}

/// Looks for the packet's flow as started in a direction; the context says then how far it got, or else which way it may take.
#[inline(never)]
pub fn lookup<A: Address>(context: &mut Context<A>, row: NonNull<Row>, initiator: u8) -> bool {
    // Before the lock, which waits for memory.
    if !probe(context, row, initiator) {
        return false;
    }
    row_of(context, row).is_some_and(|row| read(context, row))
}

/// Reads the flow that was sought and found, unless another one took its place just now.
#[inline(never)]
fn read<A: Address>(context: &mut Context<A>, row: NonNull<Row>) -> bool {
    let row = row.as_ptr();
    let at = context.way as usize;
    if at >= FLOWS {
        // It never is, which the verifier cannot know. The same below.
        return false;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    let is_ours = unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_ours = is_in(context, row) && is_flow(&context.identity, row, at);
        copy(&raw const (*row).flows[at], &raw mut context.flow);
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_ours
    };
    is_ours && context.flow.expires > context.now
}

/// Copies a flow, word by word: the compiler's copy takes a tenth of the stack that there is.
///
/// # Safety
///
/// The pointers must be readable, and writable.
#[inline(always)]
unsafe fn copy(from: *const Flow, to: *mut Flow) {
    const { assert!(size_of::<Flow>().is_multiple_of(size_of::<u64>())) };
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut word = 0;
    while word < size_of::<Flow>() / size_of::<u64>() {
        // SAFETY: the caller's. Volatile: another CPU may be writing, or reading.
        unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
        word += 1;
    }
}

/// Writes what became of the half-open flow that was found. One that another flow has replaced in between is gone: the next packet
/// starts over.
#[inline(never)]
pub fn update<A: Address>(context: &Context<A>, row: NonNull<Row>) {
    let Some(its) = row_of(context, row) else { return };
    write(context, its);
    if context.in_overflow != 0 {
        overflow_until(context, row, context.flow.initiator);
    }
}

#[inline(never)]
fn write<A: Address>(context: &Context<A>, row: NonNull<Row>) {
    let row = row.as_ptr();
    let at = context.way as usize;
    if at >= FLOWS {
        return;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        // One that another CPU has forgotten meanwhile stays forgotten.
        if is_in(context, row) && is_flow(&context.identity, row, at) && expires(flow_at(row, at)) != 0 {
            copy(&raw const context.flow, &raw mut (*row).flows[at]);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
    }
}

/// Forgets the half-open flow that was found.
#[inline(always)]
pub fn forget<A: Address>(context: &mut Context<A>, row: NonNull<Row>) {
    context.flow.expires = 0;
    update(context, row);
}

/// Remembers a flow that its first packet started, right after it was sought: in place of what is there. Says whether it could.
#[inline(never)]
pub fn insert<A: Address>(context: &mut Context<A>, row: NonNull<Row>, direction: u8) -> bool {
    context.flow = Flow {
        expires: context.now + config::lifetime(context.packet.protocol, state::OPENING),
        generation: context.generation,
        initiator: direction,
        state: state::OPENING,
        flags: context.flow_flags(),
        tag: tag(context.hash),
        ..Flow::default()
    };
    if context.in_overflow != 0 {
        if let Some(other) = overflow_row(context).or_else(|| make_overflow_row(context)) {
            // First, so that whoever finds it there knows where to look.
            overflow_until(context, row, direction);
            return put(context, other);
        }
        // No room for one, or no memory.
        context.in_overflow = 0;
        context.way = context.base_way;
    }
    put(context, row)
}

/// Makes the overflow row of the packet's flow.
#[inline(never)]
fn make_overflow_row<A: Address>(context: &mut Context<A>) -> Option<NonNull<Row>> {
    let key = overflow(context.ifindex, context.hash);
    // Another CPU may have been faster.
    let _ = HALF_OPEN.insert(key, context.empty_row(), u64::from(BPF_NOEXIST));
    overflow_row(context)
}

#[inline(never)]
fn put<A: Address>(context: &Context<A>, row: NonNull<Row>) -> bool {
    let row = row.as_ptr();
    let at = context.way as usize;
    if at >= FLOWS {
        return false;
    }
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_in = is_in(context, row);
        if is_in {
            (&raw mut (*row).identities[at]).write_volatile(context.identity);
            copy(&raw const context.flow, &raw mut (*row).flows[at]);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_in
    }
}

/// Whether one time is behind another, by their difference: of two numbers that are compared with each other, the verifier learns how
/// large each may be, round after round of a loop.
#[inline(always)]
fn is_later(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

/// Flows of a row, of both directions.
const FLOWS: usize = HALF_OPEN_WAYS * 2;

/// Index of a way of a direction in a row.
#[inline(always)]
fn place(direction: u8, way: usize) -> usize {
    usize::from(direction & 1) * HALF_OPEN_WAYS + if way < HALF_OPEN_WAYS { way } else { 0 }
}

/// Whether a row is of the packet's veth.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_in<A: Address>(context: &Context<A>, row: *const Row) -> bool {
    // SAFETY: the caller's.
    unsafe { read_volatile(&raw const (*row).ifindex) == context.ifindex }
}

/// A flow of a row.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn flow_at(row: *const Row, at: usize) -> *const Flow {
    // SAFETY: the caller's.
    unsafe { &raw const (*row).flows[at] }
}

/// When a flow of a row expires.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn expires(flow: *const Flow) -> u64 {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe { read_volatile(&raw const (*flow).expires) }
}

/// The part of a hash that stands with a flow: what rows are not chosen by.
#[inline(always)]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Whether a flow of a row has a hash of which this much is the same: hardly any other one has, and whoever reads or writes it looks at
/// all of its identity.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_tagged(hash: u64, flow: *const Flow) -> bool {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe { read_volatile(&raw const (*flow).tag) == tag(hash) }
}

/// Whether a flow of a row has this identity.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_flow(identity: &Identity, row: *const Row, at: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { is_identity(identity, &raw const (*row).identities[at]) }
}

/// Whether two identities are the same.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn is_identity(identity: &Identity, other: *const Identity) -> bool {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe {
        let [a, b] = [&raw const (*other).pod, &raw const (*other).peer];
        let d = u64::from(identity.protocol ^ read_volatile(&raw const (*other).protocol));
        let d = opaque(d | u64::from(identity.pod_port ^ read_volatile(&raw const (*other).pod_port)));
        let d = opaque(d | u64::from(identity.peer_port ^ read_volatile(&raw const (*other).peer_port)));
        let d = opaque(d | (identity.pod[0] ^ read_volatile(&raw const (*a)[0])));
        let d = opaque(d | (identity.pod[1] ^ read_volatile(&raw const (*a)[1])));
        let d = opaque(d | (identity.peer[0] ^ read_volatile(&raw const (*b)[0])));
        opaque(d | (identity.peer[1] ^ read_volatile(&raw const (*b)[1]))) == 0
    }
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

//! Directories of established flows: each veth's own, so that a flow that finds no room takes that of another flow of the same veth.
//!
//! A 16-way set-associative table of keys beside the table of flows. Only who establishes a flow looks here; its packets do not, nor
//! does who removes one: its key stays behind, and is taken for free.
//!
//! - A flow is in its table before its key is in the directory, so that no key that is looked up is one that is about to be a flow.
//! - A way is taken under the row's lock, by whoever still finds there what was looked up. Who does not takes nothing, and tries again
//!   with the next packet.
//! - A flow whose row was removed in between has no key. It lives until it expires, or the agent finds it expired.

use core::ptr::{NonNull, read_volatile, write_volatile};

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use postern_common::conntrack::{DIRECTORY_ROWS, DIRECTORY_WAYS, DirectoryRow, RowKey};

use crate::context::Context;
use crate::family::Family;
use crate::opaque::opaque;

/// Remembers the packet's flow as an established one. Says whether it could.
#[inline(never)]
pub fn establish<A: Family>(context: &mut Context<A>) -> bool {
    // The lower bits are those of half-open rows.
    let number = (context.half_open.hash >> 32) as u32 & (DIRECTORY_ROWS - 1);
    let key = RowKey { ifindex: context.ifindex, number };
    let Some(row) = A::directory_row(&key).or_else(|| make(context, key)).and_then(NonNull::new) else {
        return false;
    };
    context.flow.directory_row = number as u16;
    choose(context, row);
    if A::remember(&context.established.key, &context.flow).is_err() {
        // No room in the table, or no memory: what goes anyway makes some.
        if first_word::<A>(&raw const context.directory.displaced) != context.ifindex {
            return false;
        }
        A::forget(&context.directory.displaced);
        if A::remember(&context.established.key, &context.flow).is_err() {
            return false;
        }
    }
    if !take(context, row) {
        A::forget(&context.established.key);
        return false;
    }
    // SAFETY: both are fields of the context.
    if !unsafe { is_same::<A>(&raw const context.directory.displaced, &raw const context.established.key) }
        && first_word::<A>(&raw const context.directory.displaced) != 0
    {
        A::forget(&context.directory.displaced);
    }
    true
}

/// Makes a row.
#[inline(never)]
fn make<A: Family>(context: &mut Context<A>, key: RowKey) -> Option<*mut DirectoryRow<A::FlowKey>> {
    A::make_directory_row(&key, context.empty_row());
    A::directory_row(&key)
}

/// Finds the way for the packet's flow, and whose it is: its own, else one that is free, else that of the flow that expires first.
#[inline(always)]
fn choose<A: Family>(context: &mut Context<A>, row: NonNull<DirectoryRow<A::FlowKey>>) {
    if !has_way(context, row) {
        find_first(context, row);
    }
}

/// In place of a way: there is none.
const NOWHERE: u32 = DIRECTORY_WAYS as u32;

/// Finds the flow's own way, or one that is free. What was found is kept in memory, of which the verifier knows nothing: in a register,
/// it would follow each way on its own.
#[inline(never)]
fn has_way<A: Family>(context: &mut Context<A>, row: NonNull<DirectoryRow<A::FlowKey>>) -> bool {
    let row = row.as_ptr();
    let found = &raw mut context.directory.way;
    // SAFETY: a field of the context, here and below.
    unsafe { found.write_volatile(NOWHERE) };
    let mut way = 0;
    while way < DIRECTORY_WAYS {
        // SAFETY: until this program ends, the memory stays a row.
        unsafe {
            let at = &raw const (*row).flows[way];
            if is_same::<A>(at, &raw const context.established.key) {
                found.write_volatile(way as u32);
                break;
            }
            if first_word::<A>(at) == 0 {
                found.write_volatile(way as u32);
            }
        }
        way += 1;
    }
    // SAFETY: the same.
    let found = unsafe { found.read_volatile() };
    if found >= NOWHERE {
        return false;
    }
    // SAFETY: until this program ends, the memory stays a row.
    unsafe {
        copy::<A>(
            &raw const (*row).flows[found as usize & (DIRECTORY_WAYS - 1)],
            &raw mut context.directory.displaced,
        );
    }
    true
}

/// Finds the flow that expires first, or one that is gone already.
#[inline(never)]
fn find_first<A: Family>(context: &mut Context<A>, row: NonNull<DirectoryRow<A::FlowKey>>) {
    let row = row.as_ptr();
    // SAFETY: a field of the context, here and below; in memory for the same reason.
    unsafe { (&raw mut context.directory.first).write_volatile(u64::MAX) };
    let mut way = 0;
    while way < DIRECTORY_WAYS {
        // SAFETY: until this program ends, the memory stays a row.
        unsafe { copy::<A>(&raw const (*row).flows[way], &raw mut context.directory.candidate) };
        let expires = expires(context);
        // SAFETY: the same.
        if expires < unsafe { (&raw const context.directory.first).read_volatile() } {
            context.directory.displaced = context.directory.candidate;
            // SAFETY: the same.
            unsafe {
                (&raw mut context.directory.first).write_volatile(expires);
                (&raw mut context.directory.way).write_volatile(way as u32);
            }
        }
        if expires <= context.now {
            return;
        }
        way += 1;
    }
}

/// When the flow expires that is looked at. Zero: it is gone.
#[inline(always)]
fn expires<A: Family>(context: &Context<A>) -> u64 {
    // SAFETY: until this program ends, the memory stays a flow, if not this one.
    A::flow(&context.directory.candidate)
        .map_or(0, |flow| unsafe { read_volatile(&raw const (*flow).expires) })
}

/// Takes the way that was chosen, unless somebody else has by now.
#[inline(never)]
fn take<A: Family>(context: &Context<A>, row: NonNull<DirectoryRow<A::FlowKey>>) -> bool {
    let row = row.as_ptr();
    let way = context.directory.way as usize & (DIRECTORY_WAYS - 1);
    // SAFETY: until this program ends, the memory stays a row; nothing is called while the lock is held.
    unsafe {
        let at = &raw mut (*row).flows[way];
        bpf_spin_lock((&raw mut (*row).lock).cast());
        let is_ours = read_volatile(&raw const (*row).ifindex) == context.ifindex
            && is_same::<A>(at, &raw const context.directory.displaced);
        if is_ours {
            copy::<A>(&raw const context.established.key, at);
        }
        bpf_spin_unlock((&raw mut (*row).lock).cast());
        is_ours
    }
}

/// Words of a key.
const fn words<A: Family>() -> usize {
    size_of::<A::FlowKey>() / 4
}

/// A key's interface index, which stands first; zero where there is no key.
#[inline(always)]
fn first_word<A: Family>(key: *const A::FlowKey) -> u32 {
    // SAFETY: keys are words, and whoever calls has one. Volatile: another CPU may be writing.
    unsafe { read_volatile(key.cast::<u32>()) }
}

/// Whether two keys are the same.
///
/// # Safety
///
/// The pointers must be readable.
#[inline(always)]
unsafe fn is_same<A: Family>(one: *const A::FlowKey, other: *const A::FlowKey) -> bool {
    let (one, other) = (one.cast::<u32>(), other.cast::<u32>());
    let mut difference = 0;
    let mut word = 0;
    while word < words::<A>() {
        // SAFETY: the caller's. Volatile: another CPU may be writing. One branch in all, as in `row`.
        let differs = unsafe { read_volatile(one.add(word)) ^ read_volatile(other.add(word)) };
        difference = opaque(difference | u64::from(differs));
        word += 1;
    }
    difference == 0
}

/// Copies a key.
///
/// # Safety
///
/// The pointers must be readable, and writable.
#[inline(always)]
unsafe fn copy<A: Family>(from: *const A::FlowKey, to: *mut A::FlowKey) {
    let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
    let mut word = 0;
    while word < words::<A>() {
        // SAFETY: the caller's. Volatile: another CPU may be writing, or reading.
        unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
        word += 1;
    }
}

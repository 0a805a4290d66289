//! Whether a veth has a half-open flow, for whoever only asks: programs behind the choice of a backend, which have no context of the
//! packet. One that another replaces at this moment may be missed.

use core::ptr::{NonNull, read_volatile};

use postern_common::conntrack::{Identity, Row};
use postern_common::direction::{EGRESS, INGRESS};

use super::established;
use super::row::{
    FLOWS, Flows, Identities, base, expires, is_identity, is_tagged, overflow, overflows_until,
};
use crate::config;
use crate::maps::HALF_OPEN;

/// Whether a veth has, or had, a half-open flow, whichever side started it.
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
    unsafe { holds_apart(&raw const (*row.as_ptr()).flows, hash) != 0 }
}

/// [`holds_among`], which the verifier checks apart: 1 where there is one.
///
/// # Safety
///
/// The flows must be a row's, or null.
#[unsafe(export_name = "holds")]
#[inline(never)]
unsafe extern "C" fn holds_apart(flows: *const Flows, hash: u64) -> u32 {
    // SAFETY: the caller's.
    if flows.is_null() { 0 } else { u32::from(unsafe { holds_among(flows, hash) }) }
}

/// What [`holds`] does.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
unsafe fn holds_among(flows: *const Flows, hash: u64) -> bool {
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

/// Whether a veth has a half-open flow that is allowed, whichever side started it.
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
        allows_apart(&raw const (*row).flows, &raw const (*row).identities, identity, hash, generation) != 0
    }
}

/// [`allows_among`], which the verifier checks apart: 1 where there is one.
///
/// # Safety
///
/// Flows and identities must be a row's, or null.
#[unsafe(export_name = "allows")]
#[inline(never)]
unsafe extern "C" fn allows_apart(
    flows: *const Flows,
    identities: *const Identities,
    identity: *const Identity,
    hash: u64,
    generation: u32,
) -> u32 {
    // SAFETY: the caller's.
    match unsafe { identity.as_ref() } {
        Some(identity) if !flows.is_null() && !identities.is_null() => {
            // SAFETY: the caller's.
            u32::from(unsafe { allows_among(flows, identities, identity, hash, generation) })
        }
        _ => 0,
    }
}

/// What [`allows_in`] does.
///
/// # Safety
///
/// Flows and identities must be a row's.
#[inline(always)]
unsafe fn allows_among(
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

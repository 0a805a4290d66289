//! Where packets of a half-open flow go that a pod started to a Service: to which backend, as found out behind the choice.

use core::ptr::{NonNull, read_volatile};

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use postern_common::conntrack::{HALF_OPEN_WAYS, Identity, Row};
use postern_common::direction::EGRESS;

use super::row::{Flows, base, expires, flow_at, is_flow, is_tagged, overflow, overflows_until, place, tag};
use crate::config;
use crate::maps::HALF_OPEN;
use crate::opaque::opaque;

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
    unsafe { goes_to_apart(&raw const (*row.as_ptr()).flows, flow) != 0 }
}

/// [`goes_to_among`], which the verifier checks apart: 1 where there is one.
///
/// # Safety
///
/// The flows must be a row's, or null.
#[unsafe(export_name = "goes_to")]
#[inline(never)]
unsafe extern "C" fn goes_to_apart(flows: *const Flows, flow: *const Destination) -> u32 {
    // SAFETY: the caller's.
    match unsafe { flow.as_ref() } {
        // SAFETY: the caller's.
        Some(flow) if !flows.is_null() => u32::from(unsafe { goes_to_among(flows, flow) }),
        _ => 0,
    }
}

/// What [`goes_to_in`] does.
///
/// # Safety
///
/// The flows must be a row's.
#[inline(always)]
unsafe fn goes_to_among(flows: *const Flows, flow: &Destination) -> bool {
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

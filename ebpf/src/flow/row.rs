//! Rows of half-open flows: how a flow finds its place, and what stands there.
//!
//! Rows are written in place, under their locks. Whoever looks for a flow takes the lock only where it seems to be there.

use core::ptr::{NonNull, read_volatile, write_volatile};

use postern_common::conntrack::{Flow, HALF_OPEN_ROWS, HALF_OPEN_WAYS, Identity, OVERFLOW_ROWS, Row, RowKey};
use postern_common::direction::EGRESS;

use crate::address::Address;
use crate::config;
use crate::hash;
use crate::opaque::opaque;

/// Flows of a row, of both directions.
pub const FLOWS: usize = HALF_OPEN_WAYS * 2;

/// The flows of a row, of both directions.
pub type Flows = [Flow; FLOWS];

/// Whose they are.
pub type Identities = [Identity; FLOWS];

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

/// Key of a flow's row.
#[inline(always)]
pub fn base(ifindex: u32, hash: u64) -> RowKey {
    RowKey { ifindex, number: hash as u32 & (config::rows() - 1) }
}

/// Key of its overflow row: of one more for each bit of the hash that goes into it, those of the row among them.
#[inline(always)]
pub fn overflow(ifindex: u32, hash: u64) -> RowKey {
    RowKey { ifindex, number: HALF_OPEN_ROWS + (hash as u32 & (OVERFLOW_ROWS - 1)) }
}

/// Until when overflow rows may hold flows of a row.
#[inline(always)]
pub fn overflows_until(row: NonNull<Row>, direction: u8) -> u64 {
    // SAFETY: until this program ends, the memory stays a row. Volatile: another CPU may be writing. Both: or else the compiler counts
    // with the direction in a way that the verifier does not follow.
    let [ingress, egress] = unsafe { read_volatile(&raw const (*row.as_ptr()).overflow) };
    if direction == EGRESS { egress } else { ingress }
}

/// Index of a way of a direction in a row.
#[inline(always)]
pub fn place(direction: u8, way: usize) -> usize {
    usize::from(direction & 1) * HALF_OPEN_WAYS + if way < HALF_OPEN_WAYS { way } else { 0 }
}

/// A flow of a row.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
pub unsafe fn flow_at(row: *const Row, at: usize) -> *const Flow {
    // SAFETY: the caller's.
    unsafe { &raw const (*row).flows[at] }
}

/// When a flow of a row expires.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
pub unsafe fn expires(flow: *const Flow) -> u64 {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe { read_volatile(&raw const (*flow).expires) }
}

/// The part of a hash that stands with a flow: what rows are not chosen by.
#[inline(always)]
pub fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Whether a flow of a row has a hash of which this much is the same: hardly any other one has, and whoever reads or writes it looks at
/// all of its identity.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
pub unsafe fn is_tagged(hash: u64, flow: *const Flow) -> bool {
    // SAFETY: the caller's. Volatile: another CPU may be writing.
    unsafe { read_volatile(&raw const (*flow).tag) == tag(hash) }
}

/// Whether a flow of a row has this identity.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
pub unsafe fn is_flow(identity: &Identity, row: *const Row, at: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { is_identity(identity, &raw const (*row).identities[at]) }
}

/// Whether two identities are the same.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
pub unsafe fn is_identity(identity: &Identity, other: *const Identity) -> bool {
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

/// Copies a flow, word by word: the compiler's copy takes a tenth of the stack that there is.
///
/// # Safety
///
/// The pointers must be readable, and writable.
#[inline(always)]
pub unsafe fn copy(from: *const Flow, to: *mut Flow) {
    const { assert!(size_of::<Flow>().is_multiple_of(size_of::<u64>())) };
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut word = 0;
    while word < size_of::<Flow>() / size_of::<u64>() {
        // SAFETY: the caller's. Volatile: another CPU may be writing, or reading.
        unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
        word += 1;
    }
}

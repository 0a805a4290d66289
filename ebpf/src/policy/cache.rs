//! What this CPU has looked up already: copies from the agent's tables, which hold until the agent changes any of them.
//!
//! A packet that nothing is known of takes half a dozen look-ups, some of them walks through a trie. The next one from the same
//! peer to the same port gets the same answers, so they are kept: in arrays, where finding them takes no call, and stamped with
//! the agent's count of changes ([`crate::seqcount`]). Whatever the agent writes moves that count, so that what is kept is
//! exact or not there. Two that want the same place take turns.
//!
//! For TC programs alone: on one CPU they do not interrupt each other, as programs in netfilter's hooks may. Where they do (see
//! [`crate::context::claim`]), nothing is kept.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use postern_common::endpoint::Endpoint;

use super::query::{CacheKey, CachedVerdict};
use crate::family::Family;
use crate::global::by_family;
use crate::maps::ENDPOINTS;
use crate::opaque::opaque;
use crate::{config, hash, seqcount};

/// Veths whose endpoints, and addresses of either family, are kept on each CPU.
pub const VETHS_CACHED: u32 = 1 << 8;

/// Answers of policy that are kept on each CPU.
pub const VERDICTS_CACHED: u32 = 1 << 10;

/// Endpoints, by veth. Nobody else reads it, as what follows.
#[btf_map]
pub static VETHS: PerCpuArray<CacheEntry<1, Endpoint>, { VETHS_CACHED as usize }> = PerCpuArray::new();

/// One address of either family, by veth.
#[btf_map]
pub static OWN_ADDRESSES: PerCpuArray<CacheEntry<3, u64>, { VETHS_CACHED as usize * 2 }> = PerCpuArray::new();

/// What the tables said of peers and ports.
#[btf_map]
pub static ANSWERS: PerCpuArray<CacheEntry<4, CachedVerdict>, { VERDICTS_CACHED as usize }> =
    PerCpuArray::new();

/// A key, and what was found under it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CacheEntry<const WORDS: usize, V> {
    /// One more than the count of changes, which was even: never zero, which is what stands in memory that nobody has written yet.
    stamp: u64,
    key: [u64; WORDS],
    value: V,
}

/// What stands under a key, as it is kept or else by looking it up.
#[inline(always)]
fn cached<const WORDS: usize, V: Copy>(
    place: Option<*mut CacheEntry<WORDS, V>>,
    key: &[u64; WORDS],
    look_up: impl FnOnce() -> Option<V>,
) -> Option<V> {
    // Every array has its elements.
    let place = place?;
    // While a change goes on, which is what an odd number says, nothing is kept, and nothing was.
    let changes = if config::realtime() { 1 } else { seqcount::changes() };
    // SAFETY: an element of a per-CPU array, and nobody else uses it meanwhile (see the module head).
    unsafe {
        if holds(place, changes + 1, key) {
            return Some(read_volatile(&raw const (*place).value));
        }
    }
    seqcount::fence();
    let value = look_up()?;
    seqcount::fence();
    if changes.is_multiple_of(2) && seqcount::changes() == changes {
        // SAFETY: the same. Word by word: a copy of the whole would take a third of the stack that there is.
        unsafe {
            write_volatile(&raw mut (*place).stamp, 0);
            let mut word = 0;
            while word < WORDS {
                write_volatile(&raw mut (*place).key[word], key[word]);
                word += 1;
            }
            write_volatile(&raw mut (*place).value, value);
            write_volatile(&raw mut (*place).stamp, changes + 1);
        }
    }
    Some(value)
}

/// Whether something is kept under a stamp and key.
///
/// # Safety
///
/// The pointer must be readable.
#[inline(always)]
unsafe fn holds<const WORDS: usize, V>(
    place: *const CacheEntry<WORDS, V>,
    stamp: u64,
    key: &[u64; WORDS],
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let mut difference = read_volatile(&raw const (*place).stamp) ^ stamp;
        let mut word = 0;
        while word < WORDS {
            difference = opaque(difference | (read_volatile(&raw const (*place).key[word]) ^ key[word]));
            word += 1;
        }
        difference == 0
    }
}

/// Fills in what the agent says of a veth, if there is anything. Checked apart by the verifier.
#[inline(always)]
pub fn endpoint(ifindex: u32, endpoint: &mut Endpoint) -> Option<&Endpoint> {
    // SAFETY: it is one.
    let found = unsafe { endpoint_apart(ifindex, &raw mut *endpoint) != 0 };
    found.then_some(endpoint)
}

/// [`look_for_endpoint`], which the verifier checks apart: 1 where there is one.
///
/// # Safety
///
/// There must be memory for one, or it must be null.
#[unsafe(export_name = "recall_endpoint")]
#[inline(never)]
unsafe extern "C" fn endpoint_apart(ifindex: u32, endpoint: *mut Endpoint) -> u32 {
    // SAFETY: the caller's.
    unsafe { endpoint.as_mut() }.map_or(0, |endpoint| u32::from(look_for_endpoint(ifindex, endpoint)))
}

/// What [`endpoint`] does.
#[inline(always)]
fn look_for_endpoint(ifindex: u32, endpoint: &mut Endpoint) -> bool {
    let place = VETHS.get_ptr_mut(ifindex % VETHS_CACHED);
    let found = cached(place, &[u64::from(ifindex)], || seqcount::read(|| ENDPOINTS.get_ptr(ifindex)));
    if let Some(found) = found {
        *endpoint = found;
    }
    found.is_some()
}

/// Whether an address is one of a pod's own. Checked apart by the verifier.
#[inline(always)]
pub fn is_own<A: Family>(address: A, ifindex: u32) -> bool {
    // SAFETY: it is an address.
    unsafe { is_own_apart(&raw const address, ifindex) != 0 }
}

by_family! {
    /// [`look_for_pods`], which the verifier checks apart: 1 where it is one.
    unsafe fn is_own_apart[is_own4, is_own6]<A>(address: *const A, ifindex: u32) -> u32 {
        // SAFETY: the caller's.
        unsafe { address.as_ref() }.map_or(0, |address| u32::from(look_for_pods(*address, ifindex)))
    }
}

/// What [`is_own`] does.
#[inline(always)]
fn look_for_pods<A: Family>(address: A, ifindex: u32) -> bool {
    let family = u32::from(A::FAMILY != 0);
    let place = OWN_ADDRESSES.get_ptr_mut(ifindex % VETHS_CACHED * 2 + family);
    let [first, second] = address.widen();
    let key = [first, second, u64::from(ifindex) << 32 | u64::from(family)];
    cached(place, &key, || address.is_own(ifindex).then_some(1)).is_some()
}

/// What the tables answer, as it is kept or else by asking them.
#[inline(always)]
pub fn answer(key: &CacheKey, look_up: impl FnOnce() -> CachedVerdict) -> Option<CachedVerdict> {
    let [peer, rest_of_peer, classes, port] = key;
    let hash = hash::mix(hash::mix(classes ^ port, u64::from_be(*rest_of_peer)), u64::from_be(*peer));
    cached(ANSWERS.get_ptr_mut(hash as u32 % VERDICTS_CACHED), key, || Some(look_up()))
}

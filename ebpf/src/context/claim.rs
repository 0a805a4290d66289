//! Room for the packet at hand where programs of one CPU interrupt each other.
//!
//! On most kernels, what runs in a softirq runs to its end before the next program starts on the same CPU. With `PREEMPT_RT` it may be
//! preempted by another packet's. There, each CPU has two places, and a packet that finds both taken is dropped.
//!
//! A place is claimed by adding one to its word: it is ours if that makes one. Whoever comes while it is taken finds more, and takes
//! its own one back. Of two that come at once, none may get it; never both. No value is fetched for that: see [`crate::atomic`].

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use postern_common::reason::Reason;

use crate::atomic;
use crate::config;

/// Places that each CPU has for packets of a family.
pub const PLACES: u32 = 2;

/// Who has which place, on kernels where programs of one CPU interrupt each other. Nobody else writes it.
#[btf_map]
pub static CLAIMS: PerCpuArray<Claim, { PLACES as usize }> = PerCpuArray::new();

/// Who has a place.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Claim {
    /// One where somebody has it; more while others are finding that out.
    taken: u64,
    /// Which place this is; what stands here before it was taken once says nothing.
    place: u64,
}

/// Judges a packet in a place of its own, which is free again afterwards, however that ends.
#[inline(always)]
pub fn within(judge: impl FnOnce(u32) -> Reason) -> Reason {
    let place = if config::realtime() { take() } else { 0 };
    if place >= PLACES {
        return Reason::Reentered;
    }
    // At one place in the code: or else it would be a function, and there are as many of these in each other as there may be.
    let reason = judge(place);
    if config::realtime() {
        give_back(place);
    }
    reason
}

/// Claims a place that nobody has. [`PLACES`]: all are taken. A function of its own, for its stack.
#[inline(never)]
fn take() -> u32 {
    let mut place = 0;
    while place < PLACES {
        let Some(claim) = CLAIMS.get_ptr_mut(place) else {
            // Every array has its elements.
            break;
        };
        // SAFETY: an element of the map. Volatile: others write it between our steps, which the compiler must not know better.
        unsafe {
            atomic::add(&raw mut (*claim).taken, 1);
            if read_volatile(&raw const (*claim).taken) == 1 {
                // Makes the verifier forget which one it is: it would follow the whole program once for each.
                write_volatile(&raw mut (*claim).place, u64::from(place));
                return read_volatile(&raw const (*claim).place) as u32 & (PLACES - 1);
            }
            atomic::add(&raw mut (*claim).taken, u64::MAX);
        }
        place += 1;
    }
    PLACES
}

/// Gives a place back. A function of its own, for its stack.
#[inline(never)]
fn give_back(place: u32) {
    if let Some(claim) = CLAIMS.get_ptr_mut(place) {
        // SAFETY: an element of the map.
        unsafe { atomic::add(&raw mut (*claim).taken, u64::MAX) };
    }
}

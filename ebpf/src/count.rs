//! Counts verdicts, and turns them into what TC wants to hear.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use postern_common::reason::Reason;

use crate::atomic;
use crate::config;
use crate::maps::COUNTERS;

/// Counts a packet under its reason.
#[inline(always)]
pub fn packet(reason: Reason, direction: u8) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.counter(direction)) {
        // SAFETY: the slot belongs to this CPU, and programs of one hook on one CPU do not interrupt each other, or else add at once.
        unsafe {
            if config::realtime() {
                atomic::add(counter, 1);
            } else {
                *counter += 1;
            }
        }
    }
}

/// Counts a packet under its reason and says what TC is to do with it: drop, or go on to the next program
/// (`TC_ACT_UNSPEC`, which is `TCX_NEXT` too), so that other TC programs on the device keep working.
#[inline(always)]
pub fn conclude<const DIRECTION: u8>(ctx: &TcContext, reason: Reason) -> i32 {
    packet(reason, DIRECTION);
    if reason.drops() {
        // SAFETY: the packet of a running program is valid.
        let ifindex = unsafe { (*ctx.skb.skb).ifindex };
        debug!(ctx, "ifindex {} direction {}: dropped for reason {}", ifindex, DIRECTION, reason as u8);
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

//! When TCP connections were last opened half way through a veth.
//!
//! Only while there are such can a SYN that policy denies be the other half of a simultaneous open (RFC 9293 3.5). Most pods either serve or
//! ask: of what they may not get, or send, no bucket is looked at, whoever floods them with it.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::state;
use postern_common::direction::EGRESS;
use postern_common::endpoint::MAX_ENDPOINTS;

use crate::config;
use crate::context::Context;
use crate::family::Family;

/// The last tick ([`config::now`]) in which a packet opened a TCP connection, or repeated that, by direction.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Opened {
    ingress: u64,
    egress: u64,
}

/// By interface index; veths whose indexes are [`MAX_ENDPOINTS`] apart share it. Not pinned: programs that take over have a SYN of the
/// first side come again before they let one of the other side in.
#[btf_map]
pub static OPENED: Array<Opened, MAX_ENDPOINTS> = Array::new();

#[inline(always)]
fn opened(ifindex: u32, direction: u8) -> Option<*mut u64> {
    let opened = OPENED.get_ptr_mut(ifindex % MAX_ENDPOINTS as u32)?;
    // SAFETY: an element of an array, which stays.
    unsafe { Some(if direction == EGRESS { &raw mut (*opened).egress } else { &raw mut (*opened).ingress }) }
}

/// Notes that the packet at hand opened its flow, or may still be opening it, in this direction.
#[inline(always)]
pub fn note<A: Family>(context: &Context<A>, direction: u8) {
    if context.packet.protocol != IPPROTO_TCP {
        return;
    }
    if let Some(opened) = opened(context.ifindex, direction) {
        // SAFETY: see there. Whoever writes at the same time writes nearly the same; once a tick is enough.
        unsafe {
            if opened.read_volatile() < context.now {
                opened.write_volatile(context.now);
            }
        }
    }
}

/// Whether there may be TCP flows of the veth that only this direction was heard of.
#[inline(always)]
pub fn may_be<A: Family>(context: &Context<A>, direction: u8) -> bool {
    // SAFETY: see there.
    opened(context.ifindex, direction)
        .is_some_and(|opened| unsafe { opened.read_volatile() } > earliest(context.now))
}

/// What was opened in this tick or before is over.
#[inline(always)]
fn earliest(now: u64) -> u64 {
    now.saturating_sub(config::lifetime(IPPROTO_TCP, state::OPENING))
}

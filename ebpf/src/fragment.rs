//! Fragments: later ones have no ports and follow the first.

use aya_ebpf::bindings::BPF_ANY;
use postern_common::conntrack::{FRAGMENT_LIFETIME, Fragment, FragmentKey};

use crate::family::Address;
use crate::maps::FRAGMENTS;
use crate::parse::Packet;

#[inline(always)]
fn key<A: Address>(direction: u8, ifindex: u32, packet: &Packet<A>) -> FragmentKey {
    FragmentKey {
        ifindex,
        source: packet.source.widen(),
        destination: packet.destination.widen(),
        identification: packet.identification,
        protocol: u32::from(direction) << 16 | A::FAMILY | u32::from(packet.protocol),
    }
}

/// Notes the verdict of a first fragment. A second "first" one of the same datagram that is denied takes the leave
/// of its followers away again. A function of its own, for its stack.
#[inline(never)]
pub fn note<const DIRECTION: u8, A: Address>(ifindex: u32, packet: &Packet<A>, allowed: bool, now: u64) {
    let key = key(DIRECTION, ifindex, packet);
    // A failed insert leaves the followers orphans: dropped, as they must be.
    let _ = if allowed {
        FRAGMENTS.insert(key, Fragment { expires: now + FRAGMENT_LIFETIME }, u64::from(BPF_ANY))
    } else {
        FRAGMENTS.remove(key)
    };
}

/// Whether the first fragment of a later one was allowed. A function of its own, for its stack.
#[inline(never)]
pub fn follows<const DIRECTION: u8, A: Address>(ifindex: u32, packet: &Packet<A>, now: u64) -> bool {
    match FRAGMENTS.get_ptr(key(DIRECTION, ifindex, packet)) {
        // SAFETY: the element stays readable until this program ends.
        Some(fragment) => unsafe { (*fragment).expires > now },
        None => false,
    }
}

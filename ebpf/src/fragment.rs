//! Fragments: later ones have no ports and follow the first.

use aya_ebpf::bindings::BPF_ANY;
use postern_common::conntrack::{Datagram, FRAGMENT_LIFETIME, FRAGMENT_SLOTS, Slot};

use crate::family::Address;
use crate::maps::FRAGMENTS;
use crate::scene::Scene;
use crate::{slot, steady};

#[inline(always)]
fn datagram<A: Address>(scene: &Scene<A>) -> Datagram {
    let packet = &scene.packet;
    Datagram {
        expires: scene.now + FRAGMENT_LIFETIME,
        source: packet.source.widen(),
        destination: packet.destination.widen(),
        identification: packet.identification,
        protocol: A::FAMILY | u32::from(packet.protocol),
    }
}

#[inline(always)]
fn slot_of<A: Address>(direction: u8, scene: &Scene<A>) -> Slot {
    let packet = &scene.packet;
    let hash = slot::mix(u64::from(packet.identification), u64::from(packet.protocol));
    slot::of(packet.destination.mix(packet.source.mix(hash)), FRAGMENT_SLOTS, scene.ifindex, direction)
}

/// Notes the verdict of a first fragment. A second "first" one of the same datagram that is denied takes the leave
/// of its followers away again. A function of its own, for its stack.
#[inline(never)]
pub fn note<const DIRECTION: u8, A: Address>(scene: &Scene<A>, allowed: bool) {
    let slot = slot_of(DIRECTION, scene);
    // A failed insert leaves the followers orphans: dropped, as they must be.
    if allowed {
        let _ = FRAGMENTS.insert(slot, datagram(scene), u64::from(BPF_ANY));
    } else if follows::<DIRECTION, A>(scene) {
        let _ = FRAGMENTS.remove(slot);
    }
}

/// Whether the first fragment of a later one was allowed. A function of its own, for its stack.
#[inline(never)]
pub fn follows<const DIRECTION: u8, A: Address>(scene: &Scene<A>) -> bool {
    let slot = slot_of(DIRECTION, scene);
    let Some(found) = steady::read(|| FRAGMENTS.get_ptr(&slot)) else {
        return false;
    };
    found.expires > scene.now && Datagram { expires: found.expires, ..datagram(scene) } == found
}

//! How a pod's half-open flows and datagrams in fragments find their place, so that they never take another pod's.

use postern_common::conntrack::Slot;

/// Any odd number with well-mixed bits will do (the golden ratio's fraction).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes a word into a hash. Good enough to spread; whoever makes collisions makes them for its own pod.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ mixed >> 32
}

/// One of the slots of a veth and direction.
#[inline(always)]
pub fn of(hash: u64, slots: u16, ifindex: u32, direction: u8) -> Slot {
    Slot { ifindex, number: hash as u16 & (slots - 1), direction: u16::from(direction) }
}

//! How a pod's half-open flows and datagrams in fragments find their place, so that they never take another pod's.

use postern_common::conntrack::Slot;

/// Any odd number with well-mixed bits will do (the golden ratio's fraction).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Another one (of `MurmurHash3`'s finalizer).
const ANOTHER: u64 = 0xff51_afd7_ed55_8ccd;

/// Mixes a word into a hash that began with [`crate::config::seed`]: without it, nobody tells which words collide. Multiplied twice:
/// once alone lets a difference in the uppermost bit pass as it is, whatever the seed.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(MULTIPLIER);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(ANOTHER);
    mixed ^ mixed >> 32
}

/// One of the slots of a veth and direction.
#[inline(always)]
pub fn of(hash: u64, slots: u16, ifindex: u32, direction: u8) -> Slot {
    Slot { ifindex, number: hash as u16 & (slots - 1), direction: u16::from(direction) }
}

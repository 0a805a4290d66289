//! Reads of hash map elements that somebody may be replacing right now.
//!
//! The kernel gives a replaced element's memory to the next element that is written, with whatever key, while a packet
//! may still hold a pointer to it (`bpf_mem_cache_free` in `kernel/bpf/hashtab.c`; RCU protects the memory, not what
//! stands there). A look-up that walks over such an element may even miss one that was there all the time.
//!
//! Verdicts and port pages need no such care: they are never replaced, and removed only after a grace period.

use crate::maps::STATE;

/// How often to look again. Each time, somebody must have written twice in between.
const TRIES: u32 = 4;

/// Copies the element that a look-up finds in a map of the agent's, which says in [`STATE`] when it is replacing any: a second look-up
/// costs as much as the first.
#[inline(always)]
pub fn read<V: Copy>(look_up: impl Fn() -> Option<*const V>) -> Option<V> {
    let before = changes();
    if before.is_multiple_of(2) {
        let copy = copy(look_up());
        if changes() == before {
            return copy;
        }
    }
    read_twice(look_up)
}

/// Copies the element that a look-up finds in a map that programs write, on other CPUs. It counts only if the same look-up finds the
/// same once more: then the element was in the map for as long as it was being copied.
#[inline(always)]
pub fn read_twice<V: Copy>(look_up: impl Fn() -> Option<*const V>) -> Option<V> {
    let mut tries = 0;
    while tries < TRIES {
        let found = look_up();
        let copy = copy(found);
        if look_up() == found {
            return copy;
        }
        tries += 1;
    }
    None
}

#[inline(always)]
fn copy<V: Copy>(found: Option<*const V>) -> Option<V> {
    // SAFETY: until this program ends, the memory stays an element of its map, if not this one. Volatile: others may be writing.
    found.map(|value| unsafe { value.read_volatile() })
}

/// How often the agent began or ended a change: odd while one goes on.
#[inline(always)]
pub fn changes() -> u64 {
    let Some(state) = STATE.get_ptr(0) else {
        // Every array has its first element.
        return 1;
    };
    // SAFETY: a field of the element. Volatile: the agent writes it, and it is read twice.
    unsafe { (&raw const (*state).changes).read_volatile() }
}

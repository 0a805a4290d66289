//! Reads of hash map elements that the agent may be replacing right now.
//!
//! The kernel gives a replaced element's memory to the next element that is written, with whatever key, while a packet
//! may still hold a pointer to it (`bpf_mem_cache_free` in `kernel/bpf/hashtab.c`; RCU protects the memory, not what
//! stands there). A look-up that walks over such an element may even miss one that was there all the time.
//!
//! Verdicts and port pages need no such care: they are never replaced, and removed only after a grace period.

/// How often to look again. Each time, the agent must have written twice in between.
const TRIES: u32 = 4;

/// Copies the element that a look-up finds. It counts only if the same look-up finds the same once more: then the
/// element was in the map for as long as it was being copied.
#[inline(always)]
pub fn read<V: Copy>(look_up: impl Fn() -> Option<*const V>) -> Option<V> {
    let mut tries = 0;
    while tries < TRIES {
        let found = look_up();
        // SAFETY: until this program ends, the memory stays an element of this map, if not this one.
        let copy = found.map(|value| unsafe { value.read_volatile() });
        if look_up() == found {
            return copy;
        }
        tries += 1;
    }
    None
}

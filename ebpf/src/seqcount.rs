//! Reads of hash map elements that somebody may be replacing right now.
//!
//! The kernel gives a replaced element's memory to the next element that is written, with whatever key, while a packet
//! may still hold a pointer to it (`bpf_mem_cache_free` in `kernel/bpf/hashtab.c`; RCU protects the memory, not what
//! stands there). A look-up that walks over such an element may even miss one that was there all the time.
//!
//! Verdicts and port pages need no such care: they are never replaced, and removed only after a grace period.
//!
//! All of this is about the order in which memory is read. x86-64 keeps the order of loads, and of stores; other machines are told
//! where it matters, by [`fence`] here and by the agent's `Maps::set_state` on the writer's side:
//!
//! | reader | writer |
//! |---|---|
//! | [`changes`], fence | `changes` odd, fence |
//! | look-up and copy, fence | elements |
//! | [`changes`] | fence, `changes` even |
//! | `State::generation`, fence, tables | tables, fence, generation |
//!
//! A reader who sees any new element sees `changes` moved when it asks again; one who sees the new generation reads the new tables.
//!
//! Who looks twice needs no more of the writer than the kernel does: it takes an element out of its map under a bucket's lock, and writes
//! anew there under one that the same CPU takes after that. A release and a later acquire stay in order, on arm64 too, so that who sees
//! anything new there does not find the element once more.

use crate::maps::STATE;

/// Keeps loads in front of it in front of loads behind it. Nothing on machines that do so by themselves.
///
/// BPF knows no fences, but an exchange is fully ordered (`Documentation/bpf/standardization/instruction-set.rst`; on arm64 `swpal`,
/// or exclusive loads and stores with a barrier behind). Minimum kernel version: 5.12, other than on x86-64.
///
/// No function of its own: readers are called by others, and the kernel takes eight in each other.
#[inline(always)]
pub fn fence() {
    #[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "s390x")))]
    {
        let mut place = 0_u64;
        // SAFETY: it writes a variable on this function's stack. No name of the machine's would do: this target has no exchange that
        // the language knows.
        unsafe {
            core::arch::asm!("{new} = xchg_64({place} + 0, {new})", new = inout(reg) 1_u64 => _, place = in(reg) &raw mut place);
        }
    }
}

/// How often to look again. Each time, somebody must have written twice in between.
const TRIES: u32 = 4;

/// Copies the element that a look-up finds in a map of the agent's, which says in [`STATE`] when it is replacing any: a second look-up
/// costs as much as the first.
#[inline(always)]
pub fn read<V: Copy>(look_up: impl Fn() -> Option<*const V>) -> Option<V> {
    let before = changes();
    if before.is_multiple_of(2) {
        fence();
        let copy = copy(look_up());
        if changes() == before {
            return copy;
        }
    }
    read_twice(look_up)
}

/// The same, where a default says as much as nothing: of an `Option` of many fields, the compiler copies around what is not set, which the
/// verifier does not let it read.
#[inline(always)]
pub fn read_or_default<V: Copy + Default>(look_up: impl Fn() -> Option<*const V>) -> V {
    let before = changes();
    fence();
    let mut tries = 0;
    while tries < TRIES {
        let found = look_up();
        // SAFETY: as in `copy`.
        let copy = found.map_or_else(V::default, |value| unsafe { value.read_volatile() });
        fence();
        let is_unchanged = before.is_multiple_of(2) && changes() == before;
        if is_unchanged || look_up() == found {
            return copy;
        }
        tries += 1;
    }
    V::default()
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

/// Copies what a look-up found, before whatever is read next.
#[inline(always)]
fn copy<V: Copy>(found: Option<*const V>) -> Option<V> {
    let Some(value) = found else {
        fence();
        return None;
    };
    // SAFETY: until this program ends, the memory stays an element of its map, if not this one. Volatile: others may be writing.
    let copy = unsafe { value.read_volatile() };
    fence();
    Some(copy)
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

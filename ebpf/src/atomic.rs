//! Adding to memory that another program on this CPU may interrupt us at.

/// Adds to a word, atomically, and says nothing of what stood there.
///
/// That is what all kernels have an instruction for (`BPF_XADD`). One that fetches the old value, or compares and exchanges, came
/// with 5.12; older kernels refuse the whole program for it, wherever it stands (`resolve_pseudo_ldimm64` looks at code that is never reached,
/// too). So it is written out: the compiler would be free to take the other one.
///
/// # Safety
///
/// The word must be that of a map's element, and aligned.
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value);
    }
}

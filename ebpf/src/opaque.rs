//! Numbers that the compiler is to take as they come.

/// The same number. Of a comparison of several words, the compiler would make a branch for each: the verifier follows every one of them, and
/// all words are on the stack until then.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: nothing is done; not even that would do, since the kernel wants each line of the source to have an instruction of its own.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
    };
    number
}

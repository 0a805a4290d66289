//! bpf(2), for what aya has no calls for.

#![expect(unsafe_code, reason = "a system call with a pointer")]

use std::io;

/// # Safety
///
/// `attribute` must be laid out as the kernel's `union bpf_attr` is for this command, and its pointers must be valid.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        libc::c_int::try_from(result).map_err(io::Error::other)
    }
}

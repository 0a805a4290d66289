//! Detaching a pinned link at once, which aya has no call for.
//!
//! Removing the pin detaches too, but only when the file system's inode is freed: after a lazy RCU grace period, which
//! may take seconds. Until then the program runs on, without the endpoint it needs.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these two commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `BPF_OBJ_GET` (`linux/bpf.h`, `enum bpf_cmd`).
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_DETACH`. Minimum kernel version: 5.9.
const LINK_DETACH: libc::c_int = 34;

/// What `BPF_OBJ_GET` reads of `union bpf_attr`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What `BPF_LINK_DETACH` reads of `union bpf_attr`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link that is pinned at a path. When this returns, its program is not started any more. The pin stays.
///
/// # Errors
///
/// Nothing is pinned there (`ENOENT`), or the kernel refuses.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute is what the command reads, and the path it points to outlives the call.
    let descriptor = unsafe { bpf(OBJ_GET, &mut get)? };
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut detach = LinkDetach { link_fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the attribute is what the command reads.
    unsafe { bpf(LINK_DETACH, &mut detach)? };
    Ok(())
}

/// # Safety
///
/// `attribute` must be laid out as the kernel's `union bpf_attr` is for this command, and its pointers must be valid.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        libc::c_int::try_from(result).map_err(io::Error::other)
    }
}

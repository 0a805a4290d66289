//! Detaching a pinned link at once, and links of netfilter programs, which aya has no calls for.
//!
//! Removing the pin detaches too, but only when the file system's inode is freed: after a lazy RCU grace period, which
//! may take seconds. Until then the program runs on, without the endpoint it needs.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::bpf::bpf;

/// `BPF_OBJ_GET` (`linux/bpf.h`, `enum bpf_cmd`).
const OBJ_GET: libc::c_int = 7;
/// `BPF_OBJ_PIN`
const OBJ_PIN: libc::c_int = 6;
/// `BPF_LINK_CREATE`. Minimum kernel version: 5.7.
const LINK_CREATE: libc::c_int = 28;
/// `BPF_LINK_DETACH`. Minimum kernel version: 5.9.
const LINK_DETACH: libc::c_int = 34;

/// What `BPF_OBJ_GET` and `BPF_OBJ_PIN` read of `union bpf_attr`.
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

/// What `BPF_LINK_CREATE` reads of `union bpf_attr` for a netfilter program.
#[repr(C)]
struct NetfilterLinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    family: u32,
    hook: u32,
    priority: i32,
    netfilter_flags: u32,
}

/// `BPF_NETFILTER` (`enum bpf_attach_type`)
pub(super) const NETFILTER: u32 = 45;

/// Where in netfilter a program is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`
    pub(super) family: u32,
    /// `NF_INET_POST_ROUTING`, ...
    pub(super) number: u32,
    /// Lower ones come first. No two programs share one.
    pub(super) priority: i32,
}

/// Has netfilter of this process's network namespace call a program for as long as the link is open or pinned.
///
/// Minimum kernel version: 6.4, with `CONFIG_NETFILTER_BPF_LINK`.
///
/// # Errors
///
/// The kernel refuses: `EBUSY` where another program has the priority.
pub(super) fn netfilter(program: &OwnedFd, hook: Hook) -> io::Result<OwnedFd> {
    let mut create = NetfilterLinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: NETFILTER,
        flags: 0,
        family: hook.family,
        hook: hook.number,
        priority: hook.priority,
        netfilter_flags: 0,
    };
    // SAFETY: the attribute is what the command reads.
    let descriptor = unsafe { bpf(LINK_CREATE, &mut create)? };
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a link: it outlives this process.
///
/// # Errors
///
/// Something is pinned there, or the path is on another file system.
pub(super) fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin =
        ObjGet { pathname: path.as_ptr() as u64, bpf_fd: link.as_raw_fd().cast_unsigned(), file_flags: 0 };
    // SAFETY: the attribute is what the command reads, and the path it points to outlives the call.
    unsafe { bpf(OBJ_PIN, &mut pin)? };
    Ok(())
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

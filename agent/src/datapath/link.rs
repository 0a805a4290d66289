//! Links by bpf(2), as far as aya has no calls for them: opening a pin without believing it, detaching at once, and links of
//! netfilter programs.
//!
//! Removing the pin detaches too, but only when the file system's inode is freed: after a lazy RCU grace period, which
//! may take seconds. Until then the program runs on, without the endpoint it needs.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_link_info, bpf_link_type, bpf_prog_info};

use super::bpf::{self, bpf};

/// `BPF_OBJ_GET` (`linux/bpf.h`, `enum bpf_cmd`).
const OBJ_GET: libc::c_int = 7;
/// `BPF_OBJ_PIN`
const OBJ_PIN: libc::c_int = 6;
/// `BPF_PROG_GET_FD_BY_ID`
const PROG_GET_FD_BY_ID: libc::c_int = 13;
/// `BPF_PROG_QUERY`
const PROG_QUERY: libc::c_int = 16;
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

/// What `BPF_PROG_GET_FD_BY_ID` reads of `union bpf_attr`.
#[repr(C)]
struct ProgramById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// What `BPF_PROG_QUERY` reads and writes of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// A TCX link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcx {
    /// Its id.
    pub(super) id: u32,
    /// Its interface in the namespace where that is; zero once the link was detached.
    pub(super) ifindex: u32,
}

/// A program on a TCX hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OnHook {
    /// Its id.
    pub(super) program: u32,
    /// Its link's; zero where it was attached without one.
    pub(super) link: u32,
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

/// Pins a link or program: it outlives this process.
///
/// # Errors
///
/// Something is pinned there, or the path is on another file system.
pub(super) fn pin(object: &impl AsRawFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin =
        ObjGet { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd().cast_unsigned(), file_flags: 0 };
    // SAFETY: the attribute is what the command reads, and the path it points to outlives the call.
    unsafe { bpf(OBJ_PIN, &mut pin)? };
    Ok(())
}

/// Opens what is pinned at a path: a link, a program, or whatever somebody put there.
///
/// # Errors
///
/// Nothing is pinned there (`ENOENT`), or the kernel refuses.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute is what the command reads, and the path it points to outlives the call.
    let descriptor = unsafe { bpf(OBJ_GET, &mut get)? };
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Which link is pinned at a path; none where nothing is, or what is no TCX link.
///
/// # Errors
///
/// The kernel refuses.
pub(super) fn tcx(pin: &Path) -> io::Result<Option<Tcx>> {
    let link = match open(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Of a map or program, the kernel would tell other things in the same place.
    let is_link = std::fs::read_link(format!("/proc/self/fd/{}", link.as_raw_fd()))
        .is_ok_and(|name| name.as_os_str().as_bytes().ends_with(b"link"));
    if !is_link {
        return Ok(None);
    }
    // SAFETY: zeroes are a value of this struct of integers.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    // SAFETY: it is the kernel's struct of a link, of zeroes.
    unsafe { bpf::info(&link, &mut info)? };
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        return Ok(None);
    }
    // SAFETY: the kernel fills in this one of TCX links, and all are integers.
    let ifindex = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok(Some(Tcx { id: info.id, ifindex }))
}

/// Ids of the TCX links on a hook (`BPF_TCX_INGRESS`, ...) of an interface of this process's network namespace.
///
/// # Errors
///
/// As [`on_hook`].
pub(super) fn attached(ifindex: u32, hook: u32) -> io::Result<Vec<u32>> {
    Ok(on_hook(ifindex, hook)?.into_iter().map(|it| it.link).filter(|id| *id != 0).collect())
}

/// The programs on a hook, in the order in which they run.
///
/// # Errors
///
/// The interface is gone (`ENODEV`), or the kernel refuses.
pub(super) fn on_hook(ifindex: u32, hook: u32) -> io::Result<Vec<OnHook>> {
    // More than there can be (`BPF_MPROG_MAX` in include/linux/bpf_mprog.h).
    let (mut ids, mut programs) = ([0_u32; 64], [0_u32; 64]);
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: hook,
        count: u32::try_from(ids.len()).map_err(io::Error::other)?,
        link_ids: ids.as_mut_ptr() as u64,
        // Without room for these, it tells no more than how many there are.
        prog_ids: programs.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the attribute is what the command reads, and there is room for as many ids as it says.
    unsafe { bpf(PROG_QUERY, &mut query)? };
    let count = usize::try_from(query.count).map_err(io::Error::other)?;
    let on_hook = ids.into_iter().zip(programs).take(count);
    Ok(on_hook.map(|(link, program)| OnHook { program, link }).collect())
}

/// What a program is called; none where nobody may know (that takes `CAP_SYS_ADMIN`), or it has no name.
pub(super) fn name_of_program(id: u32) -> Option<String> {
    let mut get = ProgramById { prog_id: id, next_id: 0, open_flags: 0 };
    // SAFETY: the attribute is what the command reads.
    let descriptor = unsafe { bpf(PROG_GET_FD_BY_ID, &mut get) }.ok()?;
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: zeroes are a value of this struct of integers.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    // SAFETY: it is the kernel's struct of a program, of zeroes.
    unsafe { bpf::info(&program, &mut info) }.ok()?;
    String::from_utf8(bpf::name(&info.name)).ok().filter(|name| !name.is_empty())
}

/// Removes a pin, and takes its link off at once. What is no link any more, or never was, is no error.
///
/// # Errors
///
/// The kernel refuses: the pin stays.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    match open(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => detach(&opened?)?,
    }
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Detaches a link. When this returns, its program is not started any more.
fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut detach = LinkDetach { link_fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the attribute is what the command reads.
    match unsafe { bpf(LINK_DETACH, &mut detach) } {
        // Its interface went first, and took it off; or it is a map, a program, or a link of a kind that cannot be detached: all that
        // is ours of it is the pin.
        Err(error)
            if !matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::EINVAL | libc::EOPNOTSUPP)) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

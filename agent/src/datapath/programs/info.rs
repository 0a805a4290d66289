//! What the kernel says of a loaded program, by its descriptor: that takes no capability, unlike opening one by its id.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that tells all of it by a descriptor")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use aya_obj::generated::bpf_prog_info;

use crate::datapath::bpf;

/// `MAX_USED_MAPS` (`include/linux/bpf_verifier.h`)
const MAX_USED_MAPS: usize = 64;

/// What tells one program from any other of this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// `BPF_PROG_TYPE_*`
    pub(super) kind: u32,
    /// The kernel gives each to one program at a time.
    pub(super) id: u32,
    /// Nanoseconds since the boot.
    pub(super) loaded: u64,
    /// The kernel's digest of the instructions.
    pub(super) tag: [u8; 8],
    /// At most fifteen bytes of its name.
    pub(super) name: String,
    /// Ids of the maps it works on.
    pub(super) maps: Vec<u32>,
}

/// Asks the kernel about a program.
///
/// # Errors
///
/// It refuses, or this is no program.
pub(super) fn of(program: BorrowedFd<'_>) -> io::Result<Info> {
    // Of a map or link, it would read and tell other things in the same places.
    let object = std::fs::read_link(format!("/proc/self/fd/{}", program.as_raw_fd()))?;
    if !object.as_os_str().as_bytes().ends_with(b"bpf-prog") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no program"));
    }
    let mut maps = [0_u32; MAX_USED_MAPS];
    // SAFETY: zeroes are a value of this struct of integers.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_map_ids = u32::try_from(maps.len()).map_err(io::Error::other)?;
    info.map_ids = maps.as_mut_ptr() as u64;
    // SAFETY: it is the kernel's struct of a program; the map ids have the room that it says.
    unsafe { bpf::info(&program, &mut info)? };
    Ok(Info {
        kind: info.type_,
        id: info.id,
        loaded: info.load_time,
        tag: info.tag,
        name: String::from_utf8_lossy(&bpf::name(&info.name)).into_owned(),
        maps: maps.into_iter().take(usize::try_from(info.nr_map_ids).unwrap_or(0)).collect(),
    })
}

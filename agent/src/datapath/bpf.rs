//! bpf(2), for what aya has no calls for.

#![expect(unsafe_code, reason = "a system call with a pointer")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// `BPF_OBJ_GET_INFO_BY_FD`. Minimum kernel version: 4.13.
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// What that reads of `union bpf_attr`.
#[repr(C)]
struct ObjGetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Asks the kernel about a program or link.
///
/// # Safety
///
/// `info` must be the kernel's struct for what the descriptor is (`struct bpf_prog_info`, ...), and its pointers must be valid.
pub(super) unsafe fn info<T>(descriptor: &impl AsFd, info: &mut T) -> io::Result<()> {
    let mut get = ObjGetInfo {
        bpf_fd: descriptor.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the attribute is what the command reads; and the caller's.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut get) }.map(drop)
}

/// The first bytes of a name that the kernel tells; `c_char` has a sign on some machines, and none on others.
pub(super) fn name(characters: &[std::ffi::c_char]) -> Vec<u8> {
    characters.iter().map(|it| it.to_ne_bytes()[0]).take_while(|it| *it != 0).collect()
}

/// How often a program is tried to be loaded (`PROG_LOAD_ATTEMPTS` of libbpf).
const ATTEMPTS: usize = 5;

/// Loads a program, once more where the verifier has given up since a signal was waiting, or somebody stopped this process.
pub(super) fn load<T, E>(
    mut load: impl FnMut() -> Result<T, E>,
    is_given_up: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut result = load();
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if is_given_up(error) => result = load(),
            _ => break,
        }
    }
    result
}

/// Whether an error of `BPF_PROG_LOAD` says that the verifier has given up (`signal_pending` in `kernel/bpf/verifier.c`).
pub(super) fn is_given_up(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

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

#[cfg(test)]
mod tests {
    use std::io;

    use super::{ATTEMPTS, is_given_up, load};

    /// How often it is tried while the kernel says this, and what comes of it.
    fn tried(errno: i32, times: usize) -> (usize, Option<i32>) {
        let mut tries = 0;
        let loaded = load(
            || {
                tries += 1;
                if tries > times { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
            },
            is_given_up,
        );
        (tries, loaded.err().and_then(|error| error.raw_os_error()))
    }

    #[test]
    fn what_was_given_up_is_tried_again_and_nothing_else() {
        assert_eq!(tried(libc::EAGAIN, 2), (3, None));
        assert_eq!(tried(libc::EAGAIN, 100), (ATTEMPTS, Some(libc::EAGAIN)));
        assert_eq!(tried(libc::EACCES, 100), (1, Some(libc::EACCES)));
    }
}

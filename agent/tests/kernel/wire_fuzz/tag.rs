//! A program inside a pod, on what its interface sends: it writes `skb->tc_index`, as anybody may who is root in there.
//!
//! `tc_index` becomes what the sending socket has set for its packets' priority.

#![expect(unsafe_code, reason = "aya loads objects alone, and this is six instructions")]

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::net::if_::if_nametoindex;

/// Puts it on an interface of the calling thread's namespace, for as long as that exists.
pub(super) fn attach(interface: &str) {
    let instructions: [u64; 4] = [
        // r2 = skb->priority (at 32); skb->tc_index (at 44) = r2
        0x0000_0000_0020_1261,
        0x0000_0000_002c_2163,
        // r0 = TCX_NEXT; exit
        0xffff_ffff_0000_00b7,
        0x0000_0000_0000_0095,
    ];
    let mut load = [0_u64; 10];
    // A classifier (3) of four instructions, their address, and the license's.
    load[0] = 3 | 4 << 32;
    load[1] = instructions.as_ptr() as u64;
    load[2] = c"GPL".as_ptr() as u64;
    // SAFETY: `BPF_PROG_LOAD` (5) reads what is set out above, which outlives the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, 5, load.as_mut_ptr(), 72) };
    assert!(program > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was just opened for us.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(program).unwrap()) };
    let ifindex = if_nametoindex(interface).unwrap().cast_signed();
    // Program, device, `BPF_TCX_EGRESS` (47), no flags; nothing that it is to be beside.
    let mut create = [program.as_raw_fd(), ifindex, 47, 0, 0, 0, 0, 0];
    // SAFETY: `BPF_LINK_CREATE` (28) reads these numbers.
    let link = unsafe { libc::syscall(libc::SYS_bpf, 28, create.as_mut_ptr(), 32) };
    assert!(link > 0, "{}", std::io::Error::last_os_error());
    // It goes with the process: the descriptor stays open.
}

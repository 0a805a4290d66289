//! What an administrator does by hand, with bpftool and tc.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for detaching a link")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::TcAttachType;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use postern::datapath::attach::PRIORITY;
use postern::datapath::object::{self, PROGRAMS};
use postern::links::Veth;

/// `bpftool link detach`: the pin stays.
pub(crate) fn detach(pin: &Path) {
    let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let mut get = [path.as_ptr() as u64, 0];
    // SAFETY: `BPF_OBJ_GET` (7) reads a path's address, a descriptor and flags; the path outlives the call.
    let link = unsafe { libc::syscall(libc::SYS_bpf, 7, get.as_mut_ptr(), 16) };
    assert!(link > 0, "{}: {}", pin.display(), std::io::Error::last_os_error());
    let mut link = i32::try_from(link).unwrap();
    // SAFETY: `BPF_LINK_DETACH` (34) reads a descriptor, which is ours to close.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_bpf, 34, &raw mut link, 4), 0);
        libc::close(link);
    }
}

/// `tc filter del dev ... ingress pref ...`
pub(crate) fn delete_filters(veth: &Veth) {
    let handle = TcHandle::new(0, 1);
    drop(
        SchedClassifierLink::attached(&veth.interface, TcAttachType::Ingress, PRIORITY, handle, None)
            .unwrap(),
    );
}

/// `tc filter add dev ... ingress pref ... bpf direct-action ...`
pub(crate) fn attach_filter(programs: &mut Ebpf, interface: &str, priority: u16) {
    let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
    let program = object::program(programs, PROGRAMS[0]).unwrap();
    let id = program.attach_with_options(interface, TcAttachType::Ingress, options).unwrap();
    std::mem::forget(program.take_link(id).unwrap());
}

/// `tc filter add dev ... ingress pref ... u32 ...`
pub(crate) fn add_other_kind(veth: &Veth, priority: u16) {
    qdisc_add_clsact(&veth.interface).unwrap();
    crate::pod_netns::run(async |handle| {
        let request = handle.traffic_filter(veth.ifindex.cast_signed()).add().ingress();
        let request = request.priority(priority).protocol(3u16.to_be()).redirect(1).unwrap();
        request.execute().await.unwrap();
    });
}

/// Netfilter links for a program that lets everything pass, of these priorities, as far as they are free.
pub(crate) fn occupy(priorities: Range<i32>) -> [BTreeMap<i32, OwnedFd>; 2] {
    // r0 = NF_ACCEPT; exit
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = [0_u64; 10];
    // A netfilter program (32) of two instructions, their address, and the license's.
    load[0] = 32 | 2 << 32;
    load[1] = instructions.as_ptr() as u64;
    load[2] = c"GPL".as_ptr() as u64;
    // `expected_attach_type`: `BPF_NETFILTER` (45), behind `prog_ifindex`.
    load[8] = 45 << 32;
    // SAFETY: `BPF_PROG_LOAD` (5) reads what is set out above, which outlives the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, 5, load.as_mut_ptr(), 72) };
    assert!(program > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was just opened for us.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(program).unwrap()) };
    [2, 10].map(|family| {
        let link = |priority: i32| {
            // Program, no target, `BPF_NETFILTER`, no flags; family, `NF_INET_POST_ROUTING`, priority, no flags.
            let mut create = [program.as_raw_fd(), 0, 45, 0, family, 4, priority, 0];
            // SAFETY: `BPF_LINK_CREATE` (28) reads these numbers.
            let link = unsafe { libc::syscall(libc::SYS_bpf, 28, create.as_mut_ptr(), 32) };
            // SAFETY: it was just opened for us.
            let link =
                i32::try_from(link).ok().filter(|it| *it >= 0).map(|it| unsafe { OwnedFd::from_raw_fd(it) });
            Some((priority, link?))
        };
        priorities.clone().filter_map(link).collect()
    })
}

/// `bpftool link pin`
pub(crate) fn pin(link: &OwnedFd, path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut pin = [path.as_ptr() as u64, u64::try_from(link.as_raw_fd()).unwrap()];
    // SAFETY: `BPF_OBJ_PIN` (6) reads a path's address, a descriptor and flags; the path outlives the call.
    assert_eq!(unsafe { libc::syscall(libc::SYS_bpf, 6, pin.as_mut_ptr(), 16) }, 0);
}

/// Which priorities in front of source NAT somebody has, for IPv4 and IPv6.
pub(crate) fn netfilter_priorities() -> [Vec<i32>; 2] {
    let range = 80..100;
    occupy(range.clone()).map(|free| range.clone().filter(|it| !free.contains_key(it)).collect())
}

/// Waits until something is so.
pub(crate) fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never so");
        std::thread::sleep(Duration::from_millis(10));
    }
}

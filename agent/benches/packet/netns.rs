//! A pod's network namespace, in which there are no sockets: what asking for them costs.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, unshare};

/// Its id in the namespace where packets are shown.
pub(super) const ID: u32 = 7;

/// Moves the calling thread to a network namespace of its own, from which another one has this id for as long as the result lives.
pub(super) fn enter() -> Result<File> {
    let own = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(File::open("/proc/thread-self/ns/net")?)
    };
    let Ok(pods) = thread::scope(|scope| scope.spawn(own).join()) else { bail!("a thread failed") };
    let pods = pods.context("a network namespace")?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // RTM_NEWNSID (88), with NLM_F_REQUEST and NLM_F_ACK; no family; NETNSA_NSID (1) and NETNSA_FD (3).
    let mut request = Vec::new();
    request.extend(36_u32.to_ne_bytes());
    request.extend([88_u16, 5].map(u16::to_ne_bytes).concat());
    request.extend([1_u32, 0, 0].map(u32::to_ne_bytes).concat());
    request.extend([8_u16, 1].map(u16::to_ne_bytes).concat());
    request.extend(ID.to_ne_bytes());
    request.extend([8_u16, 3].map(u16::to_ne_bytes).concat());
    request.extend(pods.as_raw_fd().to_ne_bytes());
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    ensure!(answer.get(16..20) == Some(&[0; 4]), "the kernel gives the namespace no id: {answer:?}");
    Ok(pods)
}

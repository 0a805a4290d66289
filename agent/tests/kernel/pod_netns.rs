//! A pod's network namespace behind a veth, for what frames alone do not show: other interfaces, and real sockets.
//!
//! The calling thread moves into namespaces of its own, the node's. All that is in them goes away with the thread, even where
//! the test is killed.

use std::fs::File;
use std::net::IpAddr;
use std::thread;

use futures::TryStreamExt as _;
use netlink_packet_route::address::AddressHeaderFlags;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use postern::links::{Scanner, Veth};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use std::os::fd::AsRawFd as _;

/// The namespace of a pod.
pub(crate) struct PodNetns {
    file: File,
    /// The host side of its veth, as the agent sees it.
    pub(crate) veth: Veth,
}

/// Where a node has its BPF file system.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Moves the calling thread to a network namespace of its own, in which there is nothing but a loopback device, and to a mount
/// namespace of its own, with an empty BPF file system: whether the machine has one mounted makes no difference.
pub(crate) fn enter_node() {
    enter_netns();
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .expect("mounts that others do not see");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).expect("a BPF file system");
}

/// Moves the calling thread to a network namespace of its own.
pub(crate) fn enter_netns() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; these tests need root");
}

impl PodNetns {
    /// A pod with these addresses, reached from addresses of the node on its veth `name`.
    pub(crate) fn create(name: &str, pod: &[IpAddr], node: &[IpAddr]) -> Self {
        let file = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_netns();
                File::open("/proc/thread-self/ns/net").unwrap()
            });
            thread.join().unwrap()
        });
        let descriptor = file.as_raw_fd();
        let veth = run(async |handle| {
            handle.link().add(LinkVeth::new(name, "pod").build()).execute().await.unwrap();
            let peer = index_of(&handle, "pod").await;
            let moved = LinkUnspec::new_with_index(peer).setns_by_fd(descriptor).name("eth0").build();
            handle.link().set(moved).execute().await.unwrap();
            bring_up(&handle, name, node).await;
            let view = Scanner::open().unwrap().scan().await.unwrap();
            view.veths.into_iter().find(|veth| veth.interface == name).unwrap()
        });
        let netns = Self { file, veth };
        netns.within(|| {
            run(async |handle| {
                bring_up(&handle, "lo", &[]).await;
                bring_up(&handle, "eth0", pod).await;
            });
        });
        netns
    }

    /// Runs something inside, in a thread of its own.
    pub(crate) fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                inside()
            });
            thread.join().unwrap()
        })
    }
}

/// Makes an interface with a certain index, on which frames can be shown. It leads nowhere.
pub(crate) fn add_veth(index: u32) {
    run(async |handle| {
        let mut message = LinkVeth::new(&format!("veth{index}"), &format!("far{index}")).build();
        message.header.index = index;
        handle.link().add(message).execute().await.unwrap();
    });
}

/// Runs requests in the calling thread's namespace.
pub(crate) fn run<T>(requests: impl AsyncFnOnce(Handle) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        requests(handle).await
    })
}

async fn index_of(handle: &Handle, name: &str) -> u32 {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

async fn bring_up(handle: &Handle, name: &str, addresses: &[IpAddr]) {
    let index = index_of(handle, name).await;
    for address in addresses {
        let mut request = handle.address().add(index, *address, if address.is_ipv4() { 24 } else { 64 });
        // Without duplicate address detection, which takes a second.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.unwrap();
    }
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
}

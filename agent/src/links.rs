//! The veths of this node's pods, learnt from the kernel alone: no CNI, no runtime, no namespace mounts.
//!
//! A host-side veth's link message names its peer's namespace by id (`IFLA_LINK_NETNSID`) and the peer by index
//! (`IFLA_LINK`); a dump of addresses with `IFA_TARGET_NETNSID` lists what the peer's namespace gave it.
//!
//! Minimum kernel version: 4.20 (`NETLINK_GET_STRICT_CHK`).

mod dump;
mod monitor;
mod scan;
mod tunnels;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use self::dump::DumpError;
pub use self::monitor::{Monitor, open as monitor};
pub use self::scan::Scanner;

/// A veth whose other end is in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// Interface index of the end that is here.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// The other end's network namespace, by its id here (`IFLA_LINK_NETNSID`).
    pub netns: i32,
    /// Index of the device that it is a port of, a bridge as a rule; zero where it is none's (`IFLA_MASTER`).
    pub master: u32,
    /// The MAC address of that device, if it is a bridge.
    pub bridge: Option<[u8; 6]>,
    /// Addresses of the other end, link-local IPv6 ones left out: every interface has one.
    pub addresses: Vec<IpAddr>,
    /// The node itself is on a network behind this veth: its own address here has a prefix shorter than the address, as
    /// nodes have that are containers themselves. What CNI plugins give the host side of a pod's veth, if anything, is
    /// a single address.
    pub uplink: bool,
}

/// What one look at the kernel shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Veths, by index.
    pub veths: Vec<Veth>,
    /// The addresses of this namespace: the node's own.
    pub local: Vec<IpAddr>,
    /// UDP ports on which tunnel devices of this namespace receive.
    pub tunnel_ports: BTreeSet<u16>,
    /// What the kernel did not tell, for people to read.
    pub unknown: Vec<String>,
}

/// Why the kernel's links could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket.
    #[error("opening a route netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A request.
    #[error("asking the kernel for {what}: {source}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: DumpError,
    },
}

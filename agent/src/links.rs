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

use std::collections::{BTreeMap, BTreeSet};
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
    /// The devices that packets may leave by, names by index: all but the loopback device, and those that only have packets wait (`ifb`),
    /// on their way in.
    pub devices: BTreeMap<u32, String>,
    /// What the kernel did not tell, for people to read.
    pub unknown: Vec<String>,
}

/// An interface's name; none where there is no such interface in this network namespace.
#[must_use]
pub fn name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    // That is what nix makes of an index that nobody has (`if_indextoname(3)` returns a null pointer).
    (!name.is_empty()).then_some(name)
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

#[cfg(test)]
mod tests {
    #[test]
    fn an_index_that_nobody_has_has_no_name() {
        assert_eq!(super::name(1).as_deref(), Some("lo"));
        assert_eq!(super::name(i32::MAX.cast_unsigned()), None);
    }
}

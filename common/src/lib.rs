//! The one contract between the programs in the kernel and the agent: map keys and values, reasons, and the sizes
//! they are declared with.
//!
//! Who writes what: the agent writes the tables in [`endpoint`], [`peer`], [`verdict`], [`tunnel`] and [`state`], and the frontends
//! in [`service`]; the programs write [`conntrack`] (of which the agent makes the first rows for half-open flows, and removes what has
//! expired), the rest of [`service`], and the counters indexed by [`reason`].
//! Neither writes the other's.
//!
//! Addresses and ports stand in network byte order inside address arrays, ports and ids in host byte order.
//! All integers are little- or big-endian as the machine is: maps never leave it.

#![no_std]

#[macro_use]
mod layout;

pub mod bench;
pub mod conntrack;
pub mod endpoint;
pub mod peer;
pub mod reason;
pub mod service;
pub mod state;
pub mod tunnel;
pub mod verdict;

/// Version of everything declared here. Pinned maps live in a folder of this name, so that an agent never opens maps
/// whose layout it does not know: change any type below, and this goes up by one.
pub const LAYOUT_VERSION: u32 = 8;

/// `IPPROTO_ICMP`
pub const IPPROTO_ICMP: u8 = 1;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u8 = 6;
/// `IPPROTO_UDP`
pub const IPPROTO_UDP: u8 = 17;
/// `IPPROTO_ICMPV6`
pub const IPPROTO_ICMPV6: u8 = 58;
/// `IPPROTO_SCTP`
pub const IPPROTO_SCTP: u8 = 132;

/// Which way a packet goes, seen from the pod. The programs' entry points fix it at compile time.
pub mod direction {
    /// To the pod: TC egress of the host-side veth.
    pub const INGRESS: u8 = 0;
    /// From the pod: TC ingress of the host-side veth.
    pub const EGRESS: u8 = 1;
    /// From the pod, behind the choice of a backend: `NF_INET_POST_ROUTING`, before source NAT.
    pub const BEHIND_NAT: u8 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

//! From a frame to the few facts that policy and connection tracking need.

mod ipv4;
mod ipv6;
mod transport;

use aya_ebpf::programs::TcContext;

pub use self::ipv4::parse as ipv4;
pub use self::ipv6::parse as ipv6;
use crate::frame::{self, Unreadable};

/// Ethertypes (`linux/if_ether.h`).
pub mod ethertype {
    /// `ETH_P_IP`
    pub const IPV4: u16 = 0x0800;
    /// `ETH_P_ARP`
    pub const ARP: u16 = 0x0806;
    /// `ETH_P_IPV6`
    pub const IPV6: u16 = 0x86dd;
}

/// The ethertype of a frame.
#[inline(always)]
pub fn ethertype(ctx: &TcContext) -> Result<u16, Unreadable> {
    Ok(u16::from_be(frame::read(ctx, 12)?))
}

/// What one packet says about its connection.
#[derive(Clone, Copy)]
pub struct Packet<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
    /// The transport header; empty for later fragments.
    pub transport: Transport,
}

/// Place in a fragmented datagram, with the datagram's identification.
#[derive(Clone, Copy)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment: it holds the ports.
    First(u32),
    /// Any other.
    Later(u32),
}

/// What the transport header says.
#[derive(Clone, Copy, Default)]
pub struct Transport {
    /// Source port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub source_port: u16,
    /// Destination port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub destination_port: u16,
    /// TCP: SYN without ACK, which always starts a connection.
    pub starts: bool,
    /// TCP: FIN or RST.
    pub ends: bool,
    /// The link does not work without it: neighbour discovery, multicast listener messages.
    pub link: bool,
    /// An answer by its very type (ICMP echo reply): never starts a flow.
    pub answers: bool,
}

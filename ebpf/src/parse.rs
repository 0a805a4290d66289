//! From a frame to the few facts that policy and connection tracking need.

mod ipv4;
mod ipv6;
mod transport;

use aya_ebpf::programs::TcContext;

pub use self::ipv4::{parse as ipv4, quote as quote_ipv4};
pub use self::ipv6::{parse as ipv6, quote as quote_ipv6};
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
///
/// Parsers fill one in place: a `Result` of this size would have the compiler copy around bytes that are not set on its
/// error side, which the verifier does not let it read.
#[derive(Clone, Copy, Default)]
pub struct Packet<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
    /// The fragmented datagram's identification.
    pub identification: u32,
    /// The transport header; empty for later fragments.
    pub transport: Transport,
}

/// Place in a fragmented datagram.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    #[default]
    Whole,
    /// The first fragment: it holds the ports.
    First,
    /// Any other.
    Later,
}

/// What the transport header says.
#[derive(Clone, Copy, Default)]
pub struct Transport {
    /// Source port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub source_port: u16,
    /// Destination port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub destination_port: u16,
    /// Belongs to a flow: TCP, UDP, SCTP, or an ICMP echo.
    pub flow: bool,
    /// TCP: SYN without ACK; ICMP: an echo request. Always starts a flow.
    pub starts: bool,
    /// TCP: FIN or RST.
    pub ends: bool,
    /// ICMP errors: offset in the frame of the packet they are about; zero for everything else.
    pub inner: usize,
    /// The link does not work without it: neighbour discovery, multicast listener messages.
    pub link: bool,
    /// An answer by its very type (ICMP echo reply): never starts a flow.
    pub answers: bool,
}

//! From a frame to the few facts that policy and connection tracking need.

mod arp;
mod ethernet;
pub mod frame;
mod headers;
mod ipv4;
mod ipv6;
mod link;
mod packet;
pub mod skb;
mod transport;

pub use self::arp::sender as arp_sender;
pub use self::ethernet::{Frame, ethertype, frame};
pub use self::headers::Headers;
pub use self::link::may_be_link_control;
pub use self::packet::{Datagram, Fragment, NO_HEADER, Packet, Transport};
pub use self::transport::{has_ports, of_skb as transport_of_skb};

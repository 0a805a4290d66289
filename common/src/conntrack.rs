//! Flows: what makes replies pass.
//!
//! A flow is keyed from its pod's point of view, so that both directions find the same entry, and by the pod's
//! interface, so that two pods of one node that talk to each other have one each, judged on its own. An interface
//! index never comes back while the node runs, and a flow of an older policy generation is judged again.

map_types! {
    /// Key of map `FLOWS4`.
    pub struct Flow4 [20] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// The pod's address, network byte order.
        pub pod: [u8; 4] = 4,
        /// The other side's address.
        pub peer: [u8; 4] = 8,
        /// The pod's port, host byte order; an ICMP echo's identifier.
        pub pod_port: u16 = 12,
        /// The other side's port; an ICMP echo's identifier.
        pub peer_port: u16 = 14,
        /// `IPPROTO_*`
        pub protocol: u32 = 16,
    }

    /// Key of map `FLOWS6`.
    pub struct Flow6 [44] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// The pod's address, network byte order.
        pub pod: [u8; 16] = 4,
        /// The other side's address.
        pub peer: [u8; 16] = 20,
        /// The pod's port, host byte order; an ICMP echo's identifier.
        pub pod_port: u16 = 36,
        /// The other side's port; an ICMP echo's identifier.
        pub peer_port: u16 = 38,
        /// `IPPROTO_*`
        pub protocol: u32 = 40,
    }

    /// Value of both flow maps.
    pub struct Flow [16] {
        /// Nanoseconds of `CLOCK_MONOTONIC` after which the flow does not count any more.
        pub expires: u64 = 0,
        /// Policy generation under which the flow was last allowed.
        pub generation: u32 = 8,
        /// Direction of its first packet (see [`crate::direction`]).
        pub initiator: u8 = 12,
        /// One of [`state`]'s constants.
        pub state: u8 = 13,
        /// Zero.
        pub reserved: u16 = 14,
    }
}

map_types! {
    /// Key of map `FRAGMENTS`: one datagram on one veth (RFC 791 3.2, RFC 8200 4.5).
    pub struct FragmentKey [44] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// Source address; an IPv4 one fills the first four bytes.
        pub source: [u8; 16] = 4,
        /// Destination address.
        pub destination: [u8; 16] = 20,
        /// The fragments' identification.
        pub identification: u32 = 36,
        /// `IPPROTO_*`, 256 more for IPv6, and the direction from bit 16.
        pub protocol: u32 = 40,
    }

    /// Value of map `FRAGMENTS`: the first fragment was allowed.
    pub struct Fragment [8] {
        /// Nanoseconds of `CLOCK_MONOTONIC` after which later fragments are orphans.
        pub expires: u64 = 0,
    }
}

/// What a flow has shown so far: decides how long it lives without packets.
pub mod state {
    /// Only the first direction has been seen.
    pub const OPENING: u8 = 0;
    /// Both directions have been seen.
    pub const ESTABLISHED: u8 = 1;
    /// TCP: a FIN or a RST has been seen.
    pub const CLOSING: u8 = 2;
}

/// Most flows remembered, per family: beyond it the least recently used go.
pub const MAX_FLOWS: usize = 1 << 17;

/// Most datagrams in fragments at once.
pub const MAX_FRAGMENTS: usize = 1 << 13;

/// Nanoseconds that later fragments may come after the first: the kernel's own reassembly time-out (`ipfrag_time`).
pub const FRAGMENT_LIFETIME: u64 = 30 * SECOND;

/// Nanoseconds without packets after which a flow does not count any more, by [`state`].
pub mod lifetime {
    use super::SECOND;

    /// TCP before both sides were heard.
    pub const TCP_OPENING: u64 = 60 * SECOND;
    /// TCP: RFC 5382 REQ-5 asks for 2 hours 4 minutes at least.
    pub const TCP_ESTABLISHED: u64 = 6 * 3600 * SECOND;
    /// TCP after FIN or RST.
    pub const TCP_CLOSING: u64 = 60 * SECOND;
    /// Others before both sides were heard.
    pub const OPENING: u64 = 60 * SECOND;
    /// Others: RFC 4787 REQ-5 asks for 2 minutes at least.
    pub const ESTABLISHED: u64 = 180 * SECOND;
}

const SECOND: u64 = 1_000_000_000;

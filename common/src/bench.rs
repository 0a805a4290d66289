//! What `cargo xtask bench packet` tells its programs. No part of what is shipped.
//!
//! A test run shows a program one frame again and again, so the programs rewrite the peer's address and port in it before
//! they judge it: the *n*th of `count` flows is with peer *n* modulo `addresses`.

map_types! {
    /// The one value of map `VARY`.
    pub struct Vary [56] {
        /// Programs keep the state of their random numbers here, or the flow they are at. Never zero.
        pub state: u64 = 0,
        /// Programs count here how often a floor program did not find what it looked up.
        pub failed: u64 = 8,
        /// [`NOTHING`], [`AT_RANDOM`] or [`ONE_BY_ONE`].
        pub mode: u32 = 16,
        /// How many flows there are.
        pub count: u32 = 20,
        /// With how many peers.
        pub addresses: u32 = 24,
        /// First peer's address, or its last 32 bits, in host byte order.
        pub first_address: u32 = 28,
        /// From one peer's address to the next one's.
        pub stride: u32 = 32,
        /// Port of the first flow's peer.
        pub first_port: u32 = 36,
        /// The word of both ports in host byte order, without the peer's.
        pub ports: u32 = 40,
        /// By how many bits the peer's port is shifted in that word.
        pub port_shift: u32 = 44,
        /// Where the address's last 32 bits stand in the frame.
        pub address_offset: u32 = 48,
        /// Where the word of both ports stands in the frame.
        pub ports_offset: u32 = 52,
    }
}

/// Every packet is as it came.
pub const NOTHING: u32 = 0;
/// Every packet is of any flow.
pub const AT_RANDOM: u32 = 1;
/// Every packet is of the next flow.
pub const ONE_BY_ONE: u32 = 2;

impl Vary {
    /// The address and port of a flow's peer.
    #[inline]
    #[must_use]
    pub const fn peer(&self, flow: u32) -> (u32, u32) {
        let addresses = if self.addresses == 0 { 1 } else { self.addresses };
        let address = self.first_address.wrapping_add((flow % addresses).wrapping_mul(self.stride));
        (address, self.first_port.wrapping_add(flow / addresses) & 0xffff)
    }
}

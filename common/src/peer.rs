//! Peers: which class an address belongs to.
//!
//! An exact table (pods, nodes, single addresses) stands before a longest-prefix table (CIDRs). What is in neither is
//! of class [`UNKNOWN`].
//!
//! Every key carries an *epoch*. An agent that starts beside tables of an earlier one writes its own under the next
//! epoch, flips its endpoints one by one, and then removes the old ones: nobody ever reads a mixture.

/// Class of an address that no selector and no CIDR in use distinguishes.
pub const UNKNOWN: u32 = 0;

/// Flag of a peer: the address is one of this node's own.
pub const LOCAL_NODE: u32 = 1;

map_types! {
    /// Key of map `PEERS4`.
    pub struct PeerKey4 [8] {
        /// See the module head.
        pub epoch: u32 = 0,
        /// IPv4 address in network byte order.
        pub address: [u8; 4] = 4,
    }

    /// Key of map `PEERS6`.
    pub struct PeerKey6 [20] {
        /// See the module head.
        pub epoch: u32 = 0,
        /// IPv6 address in network byte order.
        pub address: [u8; 16] = 4,
    }

    /// What follows the prefix length in a key of map `PREFIXES4` (the kernel's `struct bpf_lpm_trie_key`, for which aya
    /// has a type). The prefix length counts the epoch's [`EPOCH_BITS`] too.
    pub struct PrefixAddress4 [8] {
        /// The epoch, most significant byte first, since the trie compares bits from the front.
        pub epoch: [u8; 4] = 0,
        /// IPv4 address in network byte order.
        pub address: [u8; 4] = 4,
    }

    /// What follows the prefix length in a key of map `PREFIXES6`.
    pub struct PrefixAddress6 [20] {
        /// The epoch, most significant byte first.
        pub epoch: [u8; 4] = 0,
        /// IPv6 address in network byte order.
        pub address: [u8; 16] = 4,
    }

    /// Value of all four peer maps.
    pub struct Peer [8] {
        /// Peer class, or [`UNKNOWN`].
        pub class: u32 = 0,
        /// [`LOCAL_NODE`] or zero.
        pub flags: u32 = 4,
    }
}

/// Bits of the epoch in front of a prefix.
pub const EPOCH_BITS: u32 = 32;

/// Most addresses with an entry of their own, per family.
pub const MAX_PEERS: usize = 1 << 20;
/// Most CIDRs, per family.
pub const MAX_PREFIXES: usize = 1 << 18;

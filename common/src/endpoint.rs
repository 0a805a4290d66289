//! Endpoints: the pods of this node that carry programs.

/// Isolation class of a direction that no policy isolates.
pub const NOT_ISOLATED: u32 = 0;

/// Class of a veth whose pod is not known yet: it has no verdicts, so that nothing new passes.
pub const QUARANTINE: u32 = u32::MAX;

map_types! {
    /// Value of map `ENDPOINTS`, by interface index of the host-side veth. Written by the agent in one update, so that
    /// a packet sees either the old classes or the new ones.
    pub struct Endpoint [32] {
        /// Subject class of what the pod gets; [`NOT_ISOLATED`] or a class in map `VERDICTS`.
        pub ingress_class: u32 = 0,
        /// Subject class of what the pod sends.
        pub egress_class: u32 = 4,
        /// Which generation of the peer tables the classes were compiled against (see [`crate::peer`]).
        pub epoch: u32 = 8,
        /// [`GUARDED`], [`TAGGED`].
        pub flags: u32 = 12,
        /// The pod's network namespace: one more than its id in that of the veth (`IFLA_LINK_NETNSID`). Zero: its sockets
        /// cannot be asked.
        pub netns: u32 = 16,
        /// Interface index of the device that the veth is a port of, a bridge as a rule. Zero: of none.
        pub master: u32 = 20,
        /// That bridge's MAC address: frames that the pod sends to it are for its node, as those to the veth's own are. Zero: there is no
        /// bridge, or, with a [`Self::master`], the node's address behind that device is not known.
        pub master_mac: [u8; 6] = 24,
        /// Zero.
        pub reserved: u16 = 30,
    }

    /// Key of map `POD_ADDRESSES4`.
    pub struct PodAddress4 [8] {
        /// Interface index of the host-side veth, or [`ANY_VETH`].
        pub ifindex: u32 = 0,
        /// IPv4 address in network byte order.
        pub address: [u8; 4] = 4,
    }

    /// Key of map `POD_ADDRESSES6`.
    pub struct PodAddress6 [20] {
        /// Interface index of the host-side veth, or [`ANY_VETH`].
        pub ifindex: u32 = 0,
        /// IPv6 address in network byte order.
        pub address: [u8; 16] = 4,
    }
}

/// In place of an interface: an address that is some pod's of this node. No interface has this index.
pub const ANY_VETH: u32 = 0;

/// Flag of an endpoint: its pod may send from its own addresses alone.
pub const GUARDED: u32 = 1;

/// Flag of an endpoint: programs tag whatever its pod sends, and have for a while (see [`crate::service`]). What comes from it without a
/// tag is not what they let pass.
pub const TAGGED: u32 = 2;

/// Most addresses of pods, per family: each stands there twice.
pub const MAX_POD_ADDRESSES: usize = 1 << 15;

/// How many veths a node may have: 5,000 pods and some that are on their way. The kubelet's default is 110 pods.
pub const MAX_ENDPOINTS: usize = 1 << 13;

//! Endpoints: the pods of this node that carry programs.

/// Isolation class of a direction that no policy isolates.
pub const NOT_ISOLATED: u32 = 0;

/// Class of a veth whose pod is not known yet: it has no verdicts, so that nothing new passes.
pub const QUARANTINE: u32 = u32::MAX;

map_types! {
    /// Value of map `ENDPOINTS`, by interface index of the host-side veth. Written by the agent in one update, so that
    /// a packet sees either the old classes or the new ones.
    pub struct Endpoint [16] {
        /// Subject class of what the pod gets; [`NOT_ISOLATED`] or a class in map `VERDICTS`.
        pub ingress_class: u32 = 0,
        /// Subject class of what the pod sends.
        pub egress_class: u32 = 4,
        /// Which generation of the peer tables the classes were compiled against (see [`crate::peer`]).
        pub epoch: u32 = 8,
        /// Zero; room for flags.
        pub flags: u32 = 12,
    }
}

/// How many veths a node may have. The kubelet's default is 110 pods.
pub const MAX_ENDPOINTS: usize = 4096;

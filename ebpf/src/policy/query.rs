//! What policy is asked of a packet, and what it says: the part of a packet's context that [`super::judge`] fills.

use postern_common::conntrack::{FROM_NODE, NODE, SERVICE};

/// What policy is asked, and what it said.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Query<A> {
    /// What it is asked: by whoever asks.
    pub question: Question<A>,
    /// The same, as the tables are asked.
    pub(super) key: CacheKey,
    /// What it said.
    pub outcome: Outcome,
}

/// What policy said last, beside its reason.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Outcome {
    /// The packet goes to a Service, or to the pod's own node, so that it may end elsewhere.
    pub service: bool,
    /// The peer is the pod's own node.
    pub is_peer_node: bool,
    /// What was asked about came from a process of that node, and passes by that alone.
    pub is_from_node: bool,
    /// It opens no flow: it is astray, and to the node or a Service by its addresses; or it comes from where a tunnel ends, which may
    /// not be answered.
    pub flowless: bool,
}

impl Outcome {
    /// Flags of a flow that begins with what policy was asked about.
    #[inline(always)]
    pub fn flow_flags(&self) -> u8 {
        let service = if self.service { SERVICE } else { 0 };
        service | if self.is_peer_node { NODE } else { 0 } | if self.is_from_node { FROM_NODE } else { 0 }
    }
}

/// What is asked of policy.
#[derive(Clone, Copy)]
pub struct Question<A> {
    /// Direction of what is to start.
    pub direction: u8,
    /// Who is on the other side.
    pub peer: A,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Port of the side that does not start it, in host byte order; zero where there is none.
    pub port: u16,
    /// The peer is where packets end, not a frontend.
    pub resolved: bool,
}

/// What the tables are asked, in full: the peer's address, the classes' epoch and the subject's class, port, protocol, and whether the
/// peer may be a frontend.
pub type CacheKey = [u64; 4];

/// What they say.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CachedVerdict {
    /// Class of the frontend, or else of the peer.
    pub class: u32,
    /// Whether the peer is the pod's own node, and whether the verdict between both classes allows it: see [`super::judge`].
    pub flags: u32,
}

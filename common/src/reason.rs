//! Why a packet passed or was dropped: one number for each, counted per direction.

/// Declares reasons with their number, name (in metrics and messages) and meaning.
macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, )+) => {
        /// Why a packet passed or was dropped. Numbers are stable: counters are pinned.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $( $(#[doc = $doc])+ $name = $number, )+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$( Self::$name, )+];

            /// The reason's name, as in metrics and messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

reasons! {
    /// The direction is not isolated.
    NotIsolated = 0, "not-isolated",
    /// Belongs to a flow that was allowed.
    Established = 1, "established",
    /// A policy allows the new flow.
    AllowedByPolicy = 2, "allowed-by-policy",
    /// To or from the pod's own node.
    Node = 3, "node",
    /// ARP, neighbour discovery or multicast listener messages: the link does not work without.
    Link = 4, "link",
    /// An ICMP error about a packet of a flow that was allowed.
    Related = 5, "related",
    /// To a Service: judged where the backend is known.
    Service = 6, "service",
    /// No policy allows the flow.
    DeniedByPolicy = 16, "denied-by-policy",
    /// The pod behind the veth is not known yet.
    Quarantined = 17, "quarantined",
    /// The frame is too short or contradicts itself.
    Malformed = 18, "malformed",
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEtherType = 19, "unknown-ethertype",
    /// A fragment that came without its first one, so that its ports are not known.
    OrphanFragment = 20, "orphan-fragment",
    /// A veth that carries the program but has no endpoint.
    NoEndpoint = 21, "no-endpoint",
    /// The packet names routers to go through, so that its destination is not where it ends.
    SourceRouted = 22, "source-routed",
    /// The pod sends from, or answers for, an address that is not its own.
    Spoofed = 23, "spoofed",
    /// A new flow that policy allows could not be noted: its veth has no room for any.
    FlowTableFull = 24, "flow-table-full",
    /// A packet behind the choice of a backend that is not what was noted of it on its way there.
    Untraceable = 25, "untraceable",
    /// To the pod's own node, which would take the packet apart and send on what is in it.
    Tunnel = 26, "tunnel",
    /// All memory for packets at hand is in use, on a kernel where programs of one CPU interrupt each other (`PREEMPT_RT`).
    Reentered = 27, "reentered",
}

impl Reason {
    /// First reason that drops.
    const FIRST_DROP: u8 = 16;

    /// Whether a packet with this reason is dropped.
    #[must_use]
    pub const fn drops(self) -> bool {
        self as u8 >= Self::FIRST_DROP
    }

    /// The reason with a number. Nothing is compared: the verifier would follow each reason on its own from there on.
    ///
    /// # Safety
    ///
    /// It must be a reason's.
    #[must_use]
    #[expect(
        unsafe_code,
        reason = "of functions that are checked apart, the verifier knows that they return a number, and no more"
    )]
    pub const unsafe fn of(number: u32) -> Self {
        let [number, ..] = number.to_le_bytes();
        // SAFETY: the caller's.
        unsafe { core::mem::transmute::<u8, Self>(number) }
    }

    /// Where this reason's packets of one direction are counted.
    #[must_use]
    pub const fn counter(self, direction: u8) -> u32 {
        direction as u32 * Self::COUNTERS_PER_DIRECTION + self as u32
    }

    const COUNTERS_PER_DIRECTION: u32 = 64;

    /// Entries of map `COUNTERS`.
    pub const COUNTERS: usize = (crate::direction::COUNT * Self::COUNTERS_PER_DIRECTION) as usize;
}

//! Services: frontends, and what is known of packets on their way from a pod to a backend.
//!
//! The programs on a pod's veth see what it sends before kube-proxy has chosen a backend. They tag all of it (`skb->tc_index`). What
//! may be on its way to a backend they note ([`Crossing`]), and the tag is the number of its slot; a netfilter program behind the
//! choice judges it by the backend, and notes that in its flow
//! ([`crate::conntrack::Flow`]). The tag of all else is [`NOTHING_NOTED`].

map_types! {
    /// Key of map `FRONTENDS4`.
    pub struct FrontendKey4 [12] {
        /// See [`crate::peer`].
        pub epoch: u32 = 0,
        /// IPv4 address in network byte order.
        pub address: [u8; 4] = 4,
        /// Port, host byte order.
        pub port: u16 = 8,
        /// `IPPROTO_*`
        pub protocol: u16 = 10,
    }

    /// Key of map `FRONTENDS6`.
    pub struct FrontendKey6 [24] {
        /// See [`crate::peer`].
        pub epoch: u32 = 0,
        /// IPv6 address in network byte order.
        pub address: [u8; 16] = 4,
        /// Port, host byte order.
        pub port: u16 = 20,
        /// `IPPROTO_*`
        pub protocol: u16 = 22,
    }

    /// Value of both frontend maps.
    pub struct Frontend [4] {
        /// [`BEHIND_NAT`], or the class of all its backends together: what a subject class may exchange with that is
        /// everything, where it allows each backend on the backend's port, or else nothing.
        pub class: u32 = 0,
    }

    /// Value of map `CROSSINGS`: a packet between the pod's veth and the choice of a backend.
    pub struct Crossing [56] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// [`JUDGED`], [`KEPT`], [`SEEN`].
        pub flags: u32 = 4,
        /// The pod's address, see [`crate::conntrack::wide`].
        pub pod: [u64; 2] = 8,
        /// Where it sent the packet.
        pub peer: [u64; 2] = 24,
        /// The pod's port, host byte order.
        pub pod_port: u16 = 40,
        /// The port it sent the packet to.
        pub peer_port: u16 = 42,
        /// `IPPROTO_*`, [`crate::conntrack::IPV6`] more for IPv6.
        pub protocol: u32 = 44,
        /// Eight bytes that no NAT changes (see [`content_at`]); zero where they cannot be had.
        pub content: u64 = 48,
    }

    /// Key of map `HAIRPINS`.
    pub struct HairpinSlot [8] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// Number of the slot, below [`HAIRPIN_SLOTS`].
        pub number: u32 = 4,
    }

    /// Value of map `HAIRPINS`: a packet that comes back to the pod that sent it, in its node's name.
    pub struct Hairpin [16] {
        /// Nanoseconds of `CLOCK_MONOTONIC` until which it may be on its way.
        pub expires: u64 = 0,
        /// TCP: the sequence number. Others: a digest of the payload and its length.
        pub digest: u32 = 8,
        /// The backend's port, host byte order.
        pub port: u16 = 12,
        /// `IPPROTO_*`, [`crate::conntrack::IPV6`] more for IPv6.
        pub protocol: u16 = 14,
    }

    /// Byte offsets of fields of the kernel's own structs, of `struct sk_buff` unless it says otherwise: a global of the programs,
    /// set when they are loaded.
    pub struct SkbLayout [40] {
        /// `tc_index`
        pub tc_index: u32 = 0,
        /// `len`
        pub len: u32 = 4,
        /// `data_len`
        pub data_len: u32 = 8,
        /// `head`
        pub head: u32 = 12,
        /// `network_header`
        pub network_header: u32 = 16,
        /// `_nfct`; zero: this kernel tracks no connections.
        pub nfct: u32 = 20,
        /// `sk`
        pub sk: u32 = 24,
        /// `out` of `struct nf_hook_state`
        pub out: u32 = 28,
        /// `ifindex` of `struct net_device`
        pub ifindex: u32 = 32,
        /// `skb_iif`
        pub skb_iif: u32 = 36,
    }
}

/// In place of a class: the backend decides, once it is known.
pub const BEHIND_NAT: u32 = u32::MAX;

/// Flag of a crossing: policy allows where the pod sent the packet. If it still goes there, there is nothing to judge.
pub const JUDGED: u32 = 1;

/// Flag of a crossing: its flow was allowed, and stays so whatever policy says now (`--established=keep`), for as long as it goes where
/// it went.
pub const KEPT: u32 = 2;

/// Flag of a crossing: a packet was found to be the one that was noted. What else may come with the same tag writes nothing.
pub const SEEN: u32 = 4;

/// Slots for packets that are on their way: as many as there are tags.
pub const CROSSINGS: u32 = 1 << 16;

/// Slots of one CPU, of which there may be so many: a power of two, so that what one CPU notes is nowhere near what others do.
#[must_use]
pub const fn crossings_per_cpu(cpus: u32) -> u32 {
    let cpus = if cpus > MOST_CPUS { MOST_CPUS } else { cpus };
    CROSSINGS / cpus.next_power_of_two()
}

/// Where a packet holds eight bytes that differ from packet to packet and that no NAT changes, in bytes behind the transport header's
/// beginning: TCP's sequence and acknowledgment number, for others the first of what follows the header.
#[must_use]
pub const fn content_at(protocol: u8) -> u32 {
    match protocol {
        crate::IPPROTO_TCP => 4,
        crate::IPPROTO_SCTP => 12,
        _ => 8,
    }
}

/// More would share slots.
const MOST_CPUS: u32 = CROSSINGS / 4;

/// Tag of what no program has tagged; no packet's slot.
pub const UNTAGGED: u16 = 0;

/// Tag of a packet that was judged by the address that stands on it, and of which nothing was noted; no packet's slot.
pub const NOTHING_NOTED: u16 = u16::MAX;

/// Most frontends, per family.
pub const MAX_FRONTENDS: usize = 1 << 18;

/// Slots for packets on their way back to the pod that sent them, of one veth; a power of two.
pub const HAIRPIN_SLOTS: u32 = 1 << 6;

/// Most of these of all veths: 1,024 veths with every slot in use.
pub const MAX_HAIRPINS: usize = 1 << 16;

/// Nanoseconds that a packet may be on its way back to who sent it.
pub const HAIRPIN_LIFETIME: u64 = crate::conntrack::SECOND;

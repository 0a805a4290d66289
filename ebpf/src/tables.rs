//! The maps that an address is looked up in, by family.

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::btf_maps::lpm_trie::Key;
use postern_common::conntrack::{DirectoryRow, Flow, Flow4, Flow6, Row, RowKey};
use postern_common::endpoint::{ANY_VETH, PodAddress4, PodAddress6};
use postern_common::peer::{
    EPOCH_BITS, LOCAL_NODE, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6,
};
use postern_common::service::{Frontend, FrontendKey4, FrontendKey6};

use crate::address::Address;
use crate::maps::{
    DIRECTORY4, DIRECTORY6, FLOWS4, FLOWS6, FRONTENDS4, FRONTENDS6, PEERS4, PEERS6, POD_ADDRESSES4,
    POD_ADDRESSES6, PREFIXES4, PREFIXES6,
};
use crate::seqcount;

/// The maps of one family.
pub trait Tables: Address {
    /// Key of this family's flow map.
    type FlowKey: Copy;

    /// The flow between a pod and a peer, from the pod's point of view.
    fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> Self::FlowKey;

    /// The established flow's entry.
    fn flow(key: &Self::FlowKey) -> Option<*mut Flow>;

    /// Remembers an established flow, which [`crate::flow::directory`] has a place for.
    fn remember(key: &Self::FlowKey, flow: &Flow) -> Result<(), i32>;

    /// Writes what became of an established flow, if it is there: by its key, since the memory that a look-up found may be another
    /// flow's by now.
    fn update(key: &Self::FlowKey, flow: &Flow);

    /// Forgets an established flow.
    fn forget(key: &Self::FlowKey);

    /// A row of a veth's directory of established flows.
    fn directory_row(key: &RowKey) -> Option<*mut DirectoryRow<Self::FlowKey>>;

    /// Makes such a row, where there is none: of the first bytes of an empty row of half-open flows.
    fn make_directory_row(key: &RowKey, empty: &Row);

    /// The peer that an address is, by its own entry.
    fn peer_exact(self, epoch: u32) -> Option<Peer>;

    /// The peer that an address is, where it has no entry of its own: by the longest CIDR that holds it.
    fn peer_lpm(self, epoch: u32) -> Option<Peer>;

    /// Whether the address is the own node's: each of these has an entry of its own.
    fn is_local_node(self, epoch: u32) -> bool;

    /// What is known of a port of this address, where a Service's backends are behind it.
    fn frontend(self, epoch: u32, protocol: u8, port: u16) -> Option<Frontend>;

    /// Whether the address is one of the pod's own.
    fn is_own(self, ifindex: u32) -> bool;

    /// The veth of the pod of this node that has the address; none, or zero, where there is not exactly one.
    fn owner(self) -> Option<u32>;
}

/// The maps of a family, with the types of their keys.
macro_rules! tables {
    (
        $address:ty {
            flows: $flows:ident[$flow:ident],
            directory: $directory:ident,
            peers: $peers:ident[$peer:ident],
            prefixes: $prefixes:ident[$prefix:ident],
            frontends: $frontends:ident[$frontend:ident],
            pod_addresses: $pod_addresses:ident[$pod_address:ident],
        }
    ) => {
        impl Tables for $address {
            type FlowKey = $flow;

            #[inline(always)]
            fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> $flow {
                $flow {
                    ifindex,
                    pod: pod.0.bytes(),
                    peer: peer.0.bytes(),
                    pod_port: pod.1,
                    peer_port: peer.1,
                    protocol: u32::from(protocol),
                }
            }

            #[inline(always)]
            fn flow(key: &$flow) -> Option<*mut Flow> {
                $flows.get_ptr_mut(key)
            }

            #[inline(always)]
            fn remember(key: &$flow, flow: &Flow) -> Result<(), i32> {
                $flows.insert(key, flow, u64::from(BPF_ANY))
            }

            #[inline(always)]
            fn update(key: &$flow, flow: &Flow) {
                // One that was removed meanwhile stays so; without memory, what stands there is nearly the same.
                let _ = $flows.insert(key, flow, u64::from(BPF_EXIST));
            }

            #[inline(always)]
            fn forget(key: &$flow) {
                // Another CPU may have been faster: gone is gone.
                let _ = $flows.remove(key);
            }

            #[inline(always)]
            fn directory_row(key: &RowKey) -> Option<*mut DirectoryRow<$flow>> {
                $directory.get_ptr_mut(key)
            }

            #[inline(always)]
            fn make_directory_row(key: &RowKey, empty: &Row) {
                // SAFETY: both begin with a lock and the interface index; all else is zeroes, and the other one is longer.
                let empty = unsafe { &*(&raw const *empty).cast::<DirectoryRow<$flow>>() };
                // Another CPU may have been faster; where there is no room, the look-up that follows finds nothing.
                let _ = $directory.insert(key, empty, u64::from(BPF_NOEXIST));
            }

            #[inline(always)]
            fn peer_exact(self, epoch: u32) -> Option<Peer> {
                let key = $peer { epoch, address: self.bytes() };
                seqcount::read(|| $peers.get_ptr(&key))
            }

            #[inline(always)]
            fn peer_lpm(self, epoch: u32) -> Option<Peer> {
                let address = $prefix { epoch: epoch.to_be_bytes(), address: self.bytes() };
                $prefixes.get(&Key::new(EPOCH_BITS + size_of::<Self>() as u32 * 8, address)).copied()
            }

            #[inline(always)]
            fn is_local_node(self, epoch: u32) -> bool {
                let key = $peer { epoch, address: self.bytes() };
                seqcount::read_or_default(|| $peers.get_ptr(&key)).flags & LOCAL_NODE != 0
            }

            #[inline(always)]
            fn frontend(self, epoch: u32, protocol: u8, port: u16) -> Option<Frontend> {
                let key = $frontend { epoch, address: self.bytes(), port, protocol: u16::from(protocol) };
                seqcount::read(|| $frontends.get_ptr(&key))
            }

            #[inline(always)]
            fn is_own(self, ifindex: u32) -> bool {
                $pod_addresses.get_ptr($pod_address { ifindex, address: self.bytes() }).is_some()
            }

            #[inline(always)]
            fn owner(self) -> Option<u32> {
                let key = $pod_address { ifindex: ANY_VETH, address: self.bytes() };
                seqcount::read(|| $pod_addresses.get_ptr(key))
            }
        }
    };
}

tables!(u32 {
    flows: FLOWS4[Flow4],
    directory: DIRECTORY4,
    peers: PEERS4[PeerKey4],
    prefixes: PREFIXES4[PrefixAddress4],
    frontends: FRONTENDS4[FrontendKey4],
    pod_addresses: POD_ADDRESSES4[PodAddress4],
});

tables!([u32; 4] {
    flows: FLOWS6[Flow6],
    directory: DIRECTORY6,
    peers: PEERS6[PeerKey6],
    prefixes: PREFIXES6[PrefixAddress6],
    frontends: FRONTENDS6[FrontendKey6],
    pod_addresses: POD_ADDRESSES6[PodAddress6],
});

//! What differs between IPv4 and IPv6: the width of an address, and the maps it is looked up in.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, Flow4, Flow6};
use postern_common::peer::{EPOCH_BITS, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6};

use crate::frame::Unreadable;
use crate::maps::{FLOWS4, FLOWS6, PEERS4, PEERS6, PREFIXES4, PREFIXES6};
use crate::parse::{self, Packet};
use crate::steady;

/// An address of one family.
pub trait Address: Copy + Default + PartialEq {
    /// Key of this family's flow map.
    type FlowKey;

    /// Parses a packet of this family behind an Ethernet header.
    fn parse(ctx: &TcContext, packet: &mut Packet<Self>) -> Result<(), Unreadable>;

    /// Gives an ICMP error the identity of the flow it is about, as a packet of that flow which goes the error's way.
    ///
    /// Says whether it could: the quoted packet must be readable and have been sent by whom the error goes to
    /// (RFC 5508 4.2). Nothing is changed where it could not.
    fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool;

    /// The flow between a pod and a peer, from the pod's point of view.
    fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> Self::FlowKey;

    /// The flow's entry.
    fn flow(key: &Self::FlowKey) -> Option<*mut Flow>;

    /// Remembers a flow; where the map is full, the least recently used one goes.
    fn remember(key: &Self::FlowKey, flow: &Flow) -> Result<(), i32>;

    /// Forgets a flow.
    fn forget(key: &Self::FlowKey);

    /// The peer that an address is, by its own entry or else by the longest CIDR that holds it.
    fn peer(self, epoch: u32) -> Option<Peer>;

    /// The address in 16 bytes, for keys that both families share.
    fn widen(self) -> [u8; 16];

    /// Added to the protocol in such keys.
    const FAMILY: u32;
}

macro_rules! address_family {
    ($bytes:literal, $flow:ident, $peer:ident, $prefix:ident, $flows:ident, $peers:ident, $prefixes:ident, $family:literal, $parse:path, $quote:path) => {
        impl Address for [u8; $bytes] {
            type FlowKey = $flow;

            #[inline(always)]
            fn parse(ctx: &TcContext, packet: &mut Packet<Self>) -> Result<(), Unreadable> {
                $parse(ctx, packet)
            }

            #[inline(always)]
            fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool {
                $quote(ctx, packet)
            }

            #[inline(always)]
            fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> $flow {
                $flow {
                    ifindex,
                    pod: pod.0,
                    peer: peer.0,
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
            fn forget(key: &$flow) {
                // Another CPU may have been faster: gone is gone.
                let _ = $flows.remove(key);
            }

            #[inline(always)]
            fn peer(self, epoch: u32) -> Option<Peer> {
                if let Some(peer) = steady::read(|| $peers.get_ptr($peer { epoch, address: self })) {
                    return Some(peer);
                }
                let address = $prefix { epoch: epoch.to_be_bytes(), address: self };
                $prefixes.get(&Key::new(EPOCH_BITS + $bytes * 8, address)).copied()
            }

            #[inline(always)]
            fn widen(self) -> [u8; 16] {
                let mut wide = [0; 16];
                wide[..$bytes].copy_from_slice(&self);
                wide
            }

            const FAMILY: u32 = $family;
        }
    };
}

address_family!(
    4,
    Flow4,
    PeerKey4,
    PrefixAddress4,
    FLOWS4,
    PEERS4,
    PREFIXES4,
    0,
    parse::ipv4,
    parse::quote_ipv4
);
address_family!(
    16,
    Flow6,
    PeerKey6,
    PrefixAddress6,
    FLOWS6,
    PEERS6,
    PREFIXES6,
    256,
    parse::ipv6,
    parse::quote_ipv6
);

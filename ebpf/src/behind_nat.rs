//! Services, behind the choice of a backend: netfilter's POST_ROUTING hook, after destination NAT and before source NAT. Whatever
//! chose, kube-proxy in any mode or a host port, what the packet says here is where it goes.
//!
//! Only tagged packets are looked at, of which [`crate::service`] has noted whose they are.

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use postern_common::direction::BEHIND_NAT;
use postern_common::endpoint::{ANY_VETH, NOT_ISOLATED};
use postern_common::peer::LOCAL_NODE;
use postern_common::reason::Reason;
use postern_common::service::{Backend, CROSSINGS, Crossing, HAIRPIN_LIFETIME, Hairpin, JUDGED, TAG};
use postern_common::verdict::VerdictKey;

use crate::count;
use crate::family::Address;
use crate::maps::{self, ENDPOINTS};
use crate::service::digest;
use crate::skb::Skb;
use crate::steady;
use crate::verdict::of_classes;

/// `NF_DROP` (`linux/netfilter.h`)
const DROP: u32 = 0;
/// `NF_ACCEPT`
const ACCEPT: u32 = 1;

/// Judges one packet: whether to drop it or to let it go on.
#[inline(always)]
pub fn judge<A: Address>(skb: Skb) -> u32 {
    let tag = u32::from(skb.tc_index());
    if tag & !(CROSSINGS - 1) != u32::from(TAG) {
        return ACCEPT;
    }
    let Some(reason) = reason::<A>(skb, tag & (CROSSINGS - 1)) else {
        return ACCEPT;
    };
    count::packet(reason, BEHIND_NAT);
    if reason.drops() { DROP } else { ACCEPT }
}

/// Why a packet passes or is dropped; none where it is not of our concern. Packets between nodes that share a kernel keep the other
/// node's tag, and anybody may use tags as ours.
#[inline(always)]
fn reason<A: Address>(skb: Skb, slot: u32) -> Option<Reason> {
    let crossing = maps::CROSSINGS.get_ptr_mut(slot)?;
    // SAFETY: it is an element of the map; what another CPU writes at this moment is not of this packet, and is found out below.
    let crossing: Crossing = unsafe { read_volatile(crossing) };
    let Some(source) = skb.read::<A>(A::SOURCE) else {
        return Some(Reason::Untraceable);
    };
    let Ok((protocol, transport)) = A::transport(skb) else {
        return untraceable(source);
    };
    let (Some(destination), Some([source_port, port])) =
        (skb.read::<A>(A::SOURCE + size_of::<A>() as u32), skb.read::<[u16; 2]>(transport))
    else {
        return untraceable(source);
    };
    let port = u16::from_be(port);
    if crossing.protocol != A::FAMILY | u32::from(protocol)
        || source.widen() != crossing.pod
        || u16::from_be(source_port) != crossing.pod_port
    {
        return untraceable(source);
    }
    let moved = destination.widen() != crossing.peer || port != crossing.peer_port;
    if !moved && crossing.flags & JUDGED != 0 {
        return Some(Reason::AllowedByPolicy);
    }
    let reason = verdict(
        &crossing,
        destination,
        protocol,
        port,
        |offset| skb.read(transport + offset),
        || skb.length(transport),
    );
    if moved && !reason.drops() {
        remember::<A>(&crossing, destination, port);
    }
    Some(reason)
}

/// Of a packet that is not what was noted under its tag: dropped where its sender is a pod of this node whose veth carries programs.
#[inline(always)]
fn untraceable<A: Address>(source: A) -> Option<Reason> {
    source.is_pods(ANY_VETH).then_some(Reason::Untraceable)
}

/// What policy says of the backend.
#[inline(always)]
fn verdict<A: Address>(
    crossing: &Crossing,
    destination: A,
    protocol: u8,
    port: u16,
    word: impl Fn(u32) -> Option<u32>,
    length: impl FnOnce() -> u32,
) -> Reason {
    let ifindex = crossing.ifindex;
    let Some(endpoint) = steady::read(|| ENDPOINTS.get_ptr(&ifindex)) else {
        // Its policies are gone, since the packet was sent.
        return Reason::NotIsolated;
    };
    if destination.is_pods(ifindex) {
        if endpoint.ingress_class != NOT_ISOLATED
            && let Some(digest) = digest(protocol, length(), word)
        {
            // SAFETY: the helper takes nothing and only reads a clock.
            let now = unsafe { bpf_ktime_get_ns() };
            let key = Hairpin { ifindex, digest, port, protocol: crossing.protocol as u16 };
            // Where there is no room, the packet is judged as its node's.
            let _ = maps::HAIRPINS.insert(&key, &(now + HAIRPIN_LIFETIME), u64::from(BPF_ANY));
        }
        return Reason::AllowedByPolicy;
    }
    if endpoint.egress_class == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    let listed = destination.listed_peer(endpoint.epoch);
    let peer = listed.or_else(|| destination.contained_peer(endpoint.epoch)).unwrap_or_default();
    if peer.flags & LOCAL_NODE != 0 {
        return Reason::Node;
    }
    of_classes(VerdictKey { subject: endpoint.egress_class, peer: peer.class }, protocol, port)
}

/// Remembers where a flow's packets go, for when policy changes.
#[inline(always)]
fn remember<A: Address>(crossing: &Crossing, destination: A, port: u16) {
    let pod = (A::narrow(crossing.pod), crossing.pod_port);
    let peer = (A::narrow(crossing.peer), crossing.peer_port);
    let flow = A::flow_key(crossing.ifindex, pod, peer, crossing.protocol as u8);
    let backend = Backend { address: destination.widen(), port, reserved: [0; 3] };
    if A::backend(&flow) != Some(backend) {
        A::set_backend(&flow, &backend);
    }
}

//! Services, behind the choice of a backend: netfilter's POST_ROUTING hook, after destination NAT and before source NAT. Whatever
//! chose, kube-proxy in any mode or a host port, what the packet says here is where it goes.
//!
//! What [`crate::service`] noted of a packet is found by its tag, and believed of packets that came in by the veth where it was noted, or
//! by the bridge of which that is a port: anybody may write tags, and nodes that share a kernel keep each other's. An isolated pod's
//! packet passes with nothing but a tag of the programs'.
//!
//! May be interrupted by TC programs on the same CPU: none of their memory is used here.

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use postern_common::conntrack::Flow;
use postern_common::direction::BEHIND_NAT;
use postern_common::endpoint::{Endpoint, NOT_ISOLATED, TAGGED};
use postern_common::peer::{LOCAL_NODE, Peer};
use postern_common::reason::Reason;
use postern_common::service::{
    Crossing, HAIRPIN_LIFETIME, Hairpin, JUDGED, KEPT, NOTHING_NOTED, SEEN, UNTAGGED, content_at,
};
use postern_common::verdict::VerdictKey;
use postern_common::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use crate::family::Address;
use crate::half_open::{self, Destination};
use crate::maps::{self, ENDPOINTS, STATE};
use crate::service::{digest, hairpin_slot, has_ports};
use crate::skb::Skb;
use crate::verdict::of_classes;
use crate::{config, conntrack, count, steady, tunnel};

/// `NF_DROP` (`linux/netfilter.h`)
const DROP: u32 = 0;
/// `NF_ACCEPT`
const ACCEPT: u32 = 1;

/// `IP_CT_NEW` (`linux/netfilter/nf_conntrack_common.h`): the first packets of a connection, until one is answered. With the first of
/// them conntrack settles where all go.
const NEW: u32 = 2;

/// Judges one packet: whether to drop it or to let it go on.
#[inline(always)]
pub fn judge<A: Address>(skb: Skb) -> u32 {
    let iif = skb.iif();
    // What the node sends itself came in by no interface; nor did what it put into a tunnel.
    if iif == 0 {
        return ACCEPT;
    }
    let Some(reason) = reason::<A>(skb, iif) else {
        return ACCEPT;
    };
    count::packet(reason, BEHIND_NAT);
    if reason.drops() { DROP } else { ACCEPT }
}

/// The veth that a packet may have come from, and what the agent says of it. Index zero: there is none.
struct Sender {
    ifindex: u32,
    endpoint: Endpoint,
    /// By where the packet came in, and not by its source address alone.
    is_sure: bool,
}

/// Where a packet goes.
struct Target<A> {
    address: A,
    port: u16,
    protocol: u8,
    /// The pod's port; of an echo, its identifier.
    source_port: u16,
    /// Byte offset of the transport header behind the IP header's beginning.
    at: u32,
}

/// Why a packet passes or is dropped; none where it is not of our concern.
#[inline(always)]
fn reason<A: Address>(skb: Skb, iif: u32) -> Option<Reason> {
    let tag = skb.tc_index();
    // What has no address that can be read fits no slot.
    let source = skb.read::<A>(A::SOURCE).unwrap_or_default();
    let mut sender = sender(iif, source);
    if tag == UNTAGGED && !sender.is_sure {
        return None;
    }
    if tag == NOTHING_NOTED && (sender.endpoint.egress_class == NOT_ISOLATED || skb.connection() != NEW) {
        return None;
    }
    if tag != UNTAGGED
        && let Some(target) = read::<A>(skb)
    {
        if tag == NOTHING_NOTED {
            return of_new(&sender, source, &target);
        }
        if let Some(noted) = noted(skb, source, &target)
            && may_be_from(iif, &mut sender, &noted.crossing)
        {
            return Some(of_noted(skb, &sender, &noted, &target));
        }
    }
    untraceable(&sender, source)
}

/// The veth that a packet came in by; or else that of the pod that has its source address.
#[inline(always)]
fn sender<A: Address>(iif: u32, source: A) -> Sender {
    let mut sender = Sender { ifindex: iif, endpoint: Endpoint::default(), is_sure: true };
    if !take_endpoint(iif, &mut sender.endpoint) {
        sender.ifindex = source.owner().unwrap_or_default();
        if !take_endpoint(sender.ifindex, &mut sender.endpoint) {
            sender.ifindex = 0;
        }
        sender.is_sure = sender.endpoint.master == iif;
    }
    sender
}

/// What the agent says of a veth. Whether there is anything: no endpoint has epoch zero.
#[inline(never)]
fn take_endpoint(ifindex: u32, endpoint: &mut Endpoint) -> bool {
    *endpoint = steady::read_or_default(|| ENDPOINTS.get_ptr(&ifindex));
    endpoint.epoch != 0
}

/// Where a packet goes.
#[inline(always)]
fn read<A: Address>(skb: Skb) -> Option<Target<A>> {
    let (protocol, at) = A::transport(skb).ok()?;
    let (protocol, at) = (skb.forget(protocol.into()) as u8, skb.forget(at));
    let address = skb.read::<A>(A::SOURCE + size_of::<A>() as u32)?;
    // An echo's identifier stands for both ports. What other messages have there is no flow's that is known.
    let is_echo = matches!(protocol, IPPROTO_ICMP | IPPROTO_ICMPV6);
    let ports = skb.read::<[u16; 2]>(if is_echo { at + 4 } else { at });
    let [first, second] = if is_echo || has_ports(protocol) { ports? } else { [0, 0] };
    let (source_port, port) = (u16::from_be(first), u16::from_be(if is_echo { first } else { second }));
    let (port, source_port) = (skb.forget(port.into()) as u16, skb.forget(source_port.into()) as u16);
    Some(Target { address, port, protocol: skb.forget(protocol.into()) as u8, source_port, at })
}

/// Of an isolated pod's packet that is not what the programs let pass: it is dropped, once all that it sends is tagged.
///
/// What the node made of it it sends in its own name (ESP, say): that was here before, as it was.
#[inline(always)]
fn untraceable<A: Address>(sender: &Sender, source: A) -> Option<Reason> {
    let Sender { endpoint, .. } = sender;
    let is_ours = endpoint.flags & TAGGED != 0 && endpoint.egress_class != NOT_ISOLATED;
    (is_ours && peer(source, endpoint).flags & LOCAL_NODE == 0).then_some(Reason::Untraceable)
}

/// What was noted under a packet's tag.
struct Noted {
    crossing: Crossing,
    slot: *mut Crossing,
    /// Nothing tells that it is of another packet of the same flow.
    is_same: bool,
}

/// What was noted under a packet's tag, where it is of a packet like this one.
#[inline(always)]
fn noted<A: Address>(skb: Skb, source: A, target: &Target<A>) -> Option<Noted> {
    let slot = maps::CROSSINGS.get_ptr_mut(u32::from(skb.tc_index()))?;
    // SAFETY: it is an element of the map; what another CPU writes at this moment is not of this packet, and is found out below.
    let crossing: Crossing = unsafe { read_volatile(slot) };
    let content = skb.read::<u64>(target.at + content_at(target.protocol));
    let is_same = crossing.content == 0 || content == Some(crossing.content);
    let is_it = crossing.protocol == A::FAMILY | u32::from(target.protocol)
        && crossing.pod == source.widen()
        && crossing.pod_port == target.source_port
        && (is_same || content.is_none());
    is_it.then_some(Noted { crossing, slot, is_same })
}

/// Whether a packet can be from the veth where it was noted, which is its sender from here on: surely, if it came in there, or by the bridge
/// of which that is a port.
///
/// Other ways from a veth to here (a VLAN's device on its bridge, say) are not known. What came by them is judged as what was noted, if its
/// source address is of that veth's pod, but nothing is remembered of it: any pod may have sent it.
#[inline(always)]
fn may_be_from(iif: u32, sender: &mut Sender, crossing: &Crossing) -> bool {
    if sender.ifindex == crossing.ifindex {
        return true;
    }
    if sender.ifindex == iif {
        // By another pod's veth.
        return false;
    }
    // Of a pod that may send from others' addresses.
    let mut endpoint = Endpoint::default();
    take_endpoint(crossing.ifindex, &mut endpoint);
    if endpoint.master != iif {
        return false;
    }
    *sender = Sender { ifindex: crossing.ifindex, endpoint, is_sure: true };
    true
}

/// Of a packet that was noted.
#[inline(always)]
fn of_noted<A: Address>(
    skb: Skb,
    sender: &Sender,
    Noted { crossing, slot, is_same }: &Noted,
    target: &Target<A>,
) -> Reason {
    let moved = target.address.widen() != crossing.peer || target.port != crossing.peer_port;
    if !moved && crossing.flags & JUDGED != 0 {
        return Reason::AllowedByPolicy;
    }
    let believed = sender.is_sure && *is_same && crossing.flags & SEEN == 0;
    if believed {
        // SAFETY: it is an element of the map. Where it is another packet's by now, nothing is remembered of that one.
        unsafe { (&raw mut (**slot).flags).write_volatile(crossing.flags | SEEN) };
    }
    let reason = verdict(sender, target);
    if believed && target.address.is_pods(sender.ifindex) {
        open_hairpin(skb, sender, crossing, target);
    }
    let key = flow_key::<A>(crossing);
    let mut goes = destination::<A>(crossing, target);
    let flow = steady::read_twice(|| A::flow(&key).map(<*mut Flow>::cast_const));
    let flow = flow.filter(|flow| flow.expires > config::now());
    let is_remembered = match &flow {
        Some(flow) => flow.backend == goes.address && flow.backend_port == goes.port,
        None => half_open::goes_to(&goes),
    };
    if crossing.flags & KEPT != 0 && is_remembered {
        return Reason::Established;
    }
    if !believed || is_remembered && !reason.drops() {
        return reason;
    }
    let mut age = 0;
    if reason.drops() {
        // Answers of whoever was there before are asked about.
        (goes.address, goes.port) = ([0; 2], 0);
        age = 1;
    }
    // For when policy changes.
    match flow {
        Some(flow) => {
            let generation = flow.generation.wrapping_sub(age);
            let (backend, backend_port) = (goes.address, goes.port);
            A::update(&key, &Flow { backend, backend_port, generation, ..flow });
        }
        None => half_open::set_backend(&goes),
    }
    reason
}

/// Where a packet that was noted goes, with its flow.
#[inline(always)]
fn destination<A: Address>(crossing: &Crossing, target: &Target<A>) -> Destination {
    let pod = (A::narrow(crossing.pod), crossing.pod_port);
    let peer = (A::narrow(crossing.peer), crossing.peer_port);
    let (identity, hash) = half_open::identity(pod, peer, crossing.protocol as u8);
    Destination {
        ifindex: crossing.ifindex,
        port: target.port,
        address: target.address.widen(),
        identity,
        hash,
    }
}

/// Of a packet that was judged by the address that stands on it, and that begins a connection for conntrack: the flow may be older than
/// the Service that its address is one's of by now.
#[inline(always)]
fn of_new<A: Address>(sender: &Sender, source: A, target: &Target<A>) -> Option<Reason> {
    let (pod, peer) = ((source, target.source_port), (target.address, target.port));
    if is_allowed_already(sender.ifindex, pod, peer, target.protocol) {
        return None;
    }
    Some(verdict(sender, target))
}

/// Whether a veth has a flow that is allowed, from the pod to where it goes, or back.
#[inline(always)]
fn is_allowed_already<A: Address>(ifindex: u32, pod: (A, u16), peer: (A, u16), protocol: u8) -> bool {
    let generation = STATE.get(0).map_or(0, |state| state.generation);
    let key = A::flow_key(ifindex, pod, peer, protocol);
    if let Some(flow) = A::flow(&key) {
        // SAFETY: until this program ends, the memory stays an element of the map; it counts only if it is still this flow's after.
        let is_current = unsafe { conntrack::is_current(&flow.read_volatile(), generation, config::now()) };
        if is_current && A::flow(&key) == Some(flow) {
            return true;
        }
    }
    let (identity, hash) = half_open::identity(pod, peer, protocol);
    half_open::allows(ifindex, &identity, hash, generation)
}

/// Who has an address.
#[inline(always)]
fn peer<A: Address>(address: A, endpoint: &Endpoint) -> Peer {
    let listed = address.listed_peer(endpoint.epoch);
    listed.or_else(|| address.contained_peer(endpoint.epoch)).unwrap_or_default()
}

/// What policy says of where a packet goes.
#[inline(always)]
fn verdict<A: Address>(sender: &Sender, target: &Target<A>) -> Reason {
    let endpoint = &sender.endpoint;
    if target.address.is_pods(sender.ifindex) {
        return Reason::AllowedByPolicy;
    }
    if endpoint.egress_class == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    let peer = peer(target.address, endpoint);
    if peer.flags & LOCAL_NODE != 0 {
        return if tunnel::may_be(target.protocol, target.port) { Reason::Tunnel } else { Reason::Node };
    }
    let key = VerdictKey { subject: endpoint.egress_class, peer: peer.class };
    of_classes(key, target.protocol, target.port)
}

/// Lets what a pod sends to itself come back to it.
#[inline(always)]
fn open_hairpin<A: Address>(skb: Skb, sender: &Sender, crossing: &Crossing, target: &Target<A>) {
    if sender.endpoint.ingress_class == NOT_ISOLATED {
        return;
    }
    let digest = digest(target.protocol, skb.length(target.at), |offset| skb.read(target.at + offset));
    let Some(digest) = digest else { return };
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (ifindex, port) = (sender.ifindex, target.port);
    let expires = now + HAIRPIN_LIFETIME;
    let noted = Hairpin { expires, digest, port, protocol: crossing.protocol as u16 };
    // Where there is no room, the packet is judged as its node's.
    let _ = maps::HAIRPINS.insert(hairpin_slot(ifindex, &noted), &noted, u64::from(BPF_ANY));
}

#[inline(always)]
fn flow_key<A: Address>(crossing: &Crossing) -> A::FlowKey {
    let pod = (A::narrow(crossing.pod), crossing.pod_port);
    let peer = (A::narrow(crossing.peer), crossing.peer_port);
    A::flow_key(crossing.ifindex, pod, peer, crossing.protocol as u8)
}

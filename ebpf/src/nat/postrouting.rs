//! Services, behind the choice of a backend: netfilter's `POST_ROUTING` hook, after destination NAT and before source NAT, or where
//! there are no netfilter programs the egress of the device that the packet leaves by ([`crate::nat::tc_egress`]). Whatever
//! chose, kube-proxy in any mode or a host port, what the packet says here is where it goes.
//!
//! What [`crate::nat::tag`] noted of a packet is found by its tag, and believed of packets that came in by the veth where it was noted, or
//! by the bridge of which that is a port: anybody may write tags, and nodes that share a kernel keep each other's. An isolated pod's
//! packet passes with nothing but a tag of the programs'.
//!
//! May be interrupted by TC programs on the same CPU: none of their memory is used here.

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use postern_common::direction::BEHIND_NAT;
use postern_common::endpoint::{Endpoint, NOT_ISOLATED, TAGGED};
use postern_common::peer::LOCAL_NODE;
use postern_common::reason::Reason;
use postern_common::service::{
    Crossing, HAIRPIN_LIFETIME, Hairpin, JUDGED, NOTHING_NOTED, SEEN, UNTAGGED, content_at,
};
use postern_common::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use super::endpoint::{master, take_endpoint};
use super::hairpin::{digest, hairpin_slot};
use super::target::{Sender, Target, call_is_allowed_already, call_remember, call_verdict, peer};
use crate::family::Family;
use crate::parse::skb::Routed;
use crate::parse::{NO_HEADER, has_ports};
use crate::{count, maps};

/// `NF_DROP` (`linux/netfilter.h`)
pub const DROP: u32 = 0;
/// `NF_ACCEPT`
pub const ACCEPT: u32 = 1;

/// Judges one packet: whether to drop it or to let it go on, in netfilter's numbers.
#[inline(always)]
pub fn judge<A: Family>(skb: impl Routed) -> u32 {
    let Some(reason) = reason::<A, _>(skb) else {
        return ACCEPT;
    };
    count::packet(reason, BEHIND_NAT);
    if reason.drops() { DROP } else { ACCEPT }
}

/// Why a packet passes or is dropped; none where it is not of our concern.
#[inline(always)]
fn reason<A: Family, S: Routed>(skb: S) -> Option<Reason> {
    let (iif, tag) = (skb.iif(), skb.tc_index());
    // What the node sends itself came in by no interface; nor did what it put into a tunnel. So it seems of IPv6's fragments, too, which
    // netfilter's hooks see in one piece.
    if iif == 0 && (!S::IS_TRANSLATED || tag == UNTAGGED || tag == NOTHING_NOTED) {
        return None;
    }
    // What has no address that can be read fits no slot.
    let source = skb.read::<A>(A::SOURCE).unwrap_or_default();
    let mut sender = Sender { ifindex: iif, is_sure: 1, endpoint: Endpoint::default() };
    identify(&mut sender, skb, source);
    if tag == UNTAGGED && sender.is_sure == 0 {
        return None;
    }
    if tag == NOTHING_NOTED && (sender.endpoint.egress_class == NOT_ISOLATED || !skb.is_new()) {
        return None;
    }
    let mut target = Target { address: A::default(), port: 0, source_port: 0, protocol: 0, at: 0 };
    let readable = if tag == UNTAGGED && !S::IS_TRANSLATED { UNREADABLE } else { read(skb, &mut target) };
    if readable != UNREADABLE && tag != UNTAGGED {
        if tag == NOTHING_NOTED {
            return of_new(&sender, source, &target);
        }
        let mut crossing = Crossing::default();
        let likeness = likeness(skb, source, &target, &mut crossing);
        if likeness != UNLIKE
            && may_be_from(skb, &mut sender, &crossing)
            && is_source_of(skb, &sender, source, (&crossing, likeness))
        {
            if readable == LATER_FRAGMENT {
                // Without the first one, which is judged, nobody can put it together.
                return None;
            }
            return Some(of_noted(skb, &sender, &crossing, likeness == SAME, &target));
        }
        if S::IS_TRANSLATED && sender.ifindex == 0 {
            // Its slot is another packet's by now, of the same bridge: so is the pod that sent it, if it has programs.
            identify_by_bridge(iif, &mut sender, &crossing);
        }
    }
    untraceable(skb, &sender, source, &target)
}

/// Whether a packet shows the address of its pod: or where source NAT may be behind it that of its node, or any, if it is surely the
/// one that was noted.
#[inline(always)]
fn is_source_of<A: Family, S: Routed>(
    skb: S,
    sender: &Sender,
    source: A,
    (crossing, likeness): (&Crossing, u32),
) -> bool {
    if !S::IS_TRANSLATED || crossing.pod == source.widen() {
        return true;
    }
    // What the node put into a tunnel shows its address, too, and came in by no interface.
    let is_surely_noted = sender.is_sure != 0 && likeness == SAME;
    skb.iif() != 0 && (is_surely_noted || source.is_local_node(sender.endpoint.epoch))
}

/// The veth that a packet came in by; or else that of the pod that has its source address.
#[inline(never)]
fn identify<A: Family>(sender: &mut Sender, skb: impl Routed, source: A) {
    let iif = sender.ifindex;
    if !take_endpoint(iif, &mut sender.endpoint) {
        sender.ifindex = source.owner().unwrap_or_default();
        if !take_endpoint(sender.ifindex, &mut sender.endpoint) {
            sender.ifindex = 0;
        }
        sender.is_sure = u32::from(iif != 0 && sender.endpoint.master == iif);
    }
    (sender.ifindex, sender.is_sure) = (skb.forget(sender.ifindex), skb.forget(sender.is_sure));
}

/// How much of a packet can be read: not where it goes.
const UNREADABLE: u32 = 0;
/// Address, protocol and ports, where it has them.
const READABLE: u32 = 1;
/// Address and protocol: it is a later fragment.
const LATER_FRAGMENT: u32 = 2;

/// Reads where a packet goes. Says how far it could. A function of its own, for its stack.
#[inline(never)]
fn read<A: Family>(skb: impl Routed, target: &mut Target<A>) -> u32 {
    let Ok((protocol, at)) = A::transport(skb) else { return UNREADABLE };
    let readable = if at == NO_HEADER { LATER_FRAGMENT } else { READABLE };
    let (protocol, at) = (skb.forget(protocol.into()) as u8, skb.forget(at));
    let Some(address) = skb.read::<A>(A::SOURCE + size_of::<A>() as u32) else { return UNREADABLE };
    // An echo's identifier stands for both ports. What other messages have there is no flow's that is known.
    let is_echo = matches!(protocol, IPPROTO_ICMP | IPPROTO_ICMPV6);
    if readable == READABLE && (is_echo || has_ports(protocol)) {
        let Some([first, second]) = skb.read::<[u16; 2]>(if is_echo { at + 4 } else { at }) else {
            return UNREADABLE;
        };
        target.source_port = u16::from_be(first);
        target.port = u16::from_be(if is_echo { first } else { second });
    }
    (target.address, target.protocol, target.at) = (address, skb.forget(protocol.into()), at);
    readable
}

/// Of an isolated pod's packet that is not what the programs let pass: it is dropped, once all that it sends is tagged.
///
/// What the node made of it it sends in its own name (ESP, say): that was here before, as it was. Where source NAT may be behind it, that is
/// what no NAT writes ports into, and ESP in UDP (RFC 3948).
#[inline(never)]
fn untraceable<A: Family, S: Routed>(_: S, sender: &Sender, source: A, target: &Target<A>) -> Option<Reason> {
    let Sender { endpoint, .. } = sender;
    let is_ours = endpoint.flags & TAGGED != 0 && endpoint.egress_class != NOT_ISOLATED;
    let may_be_pods = || {
        let has_ports = has_ports(target.protocol as u8) && target.port != ESP_IN_UDP;
        S::IS_TRANSLATED && sender.is_sure != 0 && has_ports
    };
    let is_nodes = || peer(source, endpoint).flags & LOCAL_NODE != 0;
    (is_ours && (may_be_pods() || !is_nodes())).then_some(Reason::Untraceable)
}

/// Port of ESP in UDP (RFC 3948 2.1).
const ESP_IN_UDP: u16 = 4500;

/// How like a packet is what was noted under its tag: it is of another one.
const UNLIKE: u32 = 0;
/// It is of one of the same flow.
const ALIKE: u32 = 1;
/// Nothing tells that it is of another packet of the same flow.
const SAME: u32 = 2;

/// Reads what was noted under a packet's tag, and says how like that is. A function of its own, for its stack; which returns a number, since
/// the kernel does not take how the compiler describes an `Option` of a struct.
#[inline(never)]
fn likeness<A: Family, S: Routed>(skb: S, source: A, target: &Target<A>, crossing: &mut Crossing) -> u32 {
    let Some(slot) = slot(skb) else { return UNLIKE };
    // SAFETY: it is an element of the map; what another CPU writes at this moment is not of this packet, and is found out below.
    *crossing = unsafe { read_volatile(slot) };
    let is_whole = target.at != NO_HEADER;
    let content =
        if is_whole { skb.read::<u64>(target.at + content_at(target.protocol as u8)) } else { None };
    let is_same = crossing.content == 0 || content == Some(crossing.content);
    let is_pods = crossing.pod == source.widen();
    // Source NAT writes both, or the port alone: where conntrack knows another connection to the same backend from it.
    let is_certain = crossing.content != 0 && content == Some(crossing.content);
    let may_be_pods = is_pods && (crossing.pod_port == target.source_port || !is_whole)
        || S::IS_TRANSLATED && (!is_pods || is_certain);
    let is_alike =
        crossing.protocol == A::FAMILY | target.protocol && may_be_pods && (is_same || content.is_none());
    match (is_alike, is_same) {
        (false, _) => UNLIKE,
        (true, false) => ALIKE,
        // Without either, any packet of its node's may be it.
        (true, true) if crossing.content == 0 && !is_pods => ALIKE,
        (true, true) => SAME,
    }
}

/// Where it stands.
#[inline(always)]
fn slot(skb: impl Routed) -> Option<*mut Crossing> {
    maps::CROSSINGS.get_ptr_mut(u32::from(skb.tc_index()))
}

/// Whether a packet can be from the veth where it was noted, which is its sender from here on: surely, if it came in there, or by the bridge
/// of which that is a port.
///
/// Other ways from a veth to here (a VLAN's device on its bridge, say) are not known. What came by them is judged as what was noted, if its
/// source address is of that veth's pod, or behind source NAT the node's, but nothing is remembered of it: any pod may have sent it.
#[inline(always)]
fn may_be_from<S: Routed>(skb: S, sender: &mut Sender, crossing: &Crossing) -> bool {
    let iif = skb.iif();
    if sender.ifindex == crossing.ifindex {
        return true;
    }
    if sender.ifindex == iif {
        // By another pod's veth.
        return false;
    }
    // Of a pod that may send from others' addresses, or whose address source NAT has taken off.
    if identify_by_bridge(iif, sender, crossing) {
        return true;
    }
    if !S::IS_TRANSLATED || iif == 0 || sender.ifindex != 0 {
        return false;
    }
    // By another way, and with its node's address.
    sender.ifindex = crossing.ifindex;
    take_endpoint(crossing.ifindex, &mut sender.endpoint)
}

/// Takes the veth where something was noted for the sender of what came in by the bridge of which that is a port. Says whether it is one.
#[inline(always)]
fn identify_by_bridge(iif: u32, sender: &mut Sender, crossing: &Crossing) -> bool {
    if iif == 0 || master(crossing.ifindex) != iif {
        return false;
    }
    (sender.ifindex, sender.is_sure) = (crossing.ifindex, 1);
    take_endpoint(crossing.ifindex, &mut sender.endpoint);
    true
}

/// Of a packet that was noted.
#[inline(always)]
fn of_noted<A: Family>(
    skb: impl Routed,
    sender: &Sender,
    crossing: &Crossing,
    is_same: bool,
    target: &Target<A>,
) -> Reason {
    let moved = target.address.widen() != crossing.peer || target.port != crossing.peer_port;
    if !moved && crossing.flags & JUDGED != 0 {
        return Reason::AllowedByPolicy;
    }
    let believed = sender.is_sure != 0 && is_same && crossing.flags & SEEN == 0;
    if believed && let Some(slot) = slot(skb) {
        // SAFETY: it is an element of the map. Where it is another packet's by now, nothing is remembered of that one.
        unsafe { (&raw mut (*slot).flags).write_volatile(crossing.flags | SEEN) };
    }
    let reason = call_verdict(sender, target);
    if believed && target.address.is_own(sender.ifindex) {
        open_hairpin(skb, sender, crossing, target);
    }
    call_remember(crossing, target, reason, believed)
}

/// Of a packet that was judged by the address that stands on it, and that begins a connection for conntrack: the flow may be older than
/// the Service that its address is one's of by now.
#[inline(always)]
fn of_new<A: Family>(sender: &Sender, source: A, target: &Target<A>) -> Option<Reason> {
    if call_is_allowed_already(sender.ifindex, &source, target) {
        return None;
    }
    Some(call_verdict(sender, target))
}

/// Lets what a pod sends to itself come back to it.
#[inline(never)]
fn open_hairpin<A: Family>(skb: impl Routed, sender: &Sender, crossing: &Crossing, target: &Target<A>) {
    if sender.endpoint.ingress_class == NOT_ISOLATED {
        return;
    }
    let digest = digest(target.protocol as u8, skb.length(target.at), |offset| skb.read(target.at + offset));
    let Some(digest) = digest else { return };
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (ifindex, port) = (sender.ifindex, target.port);
    let expires = now + HAIRPIN_LIFETIME;
    let noted = Hairpin { expires, digest, port, protocol: crossing.protocol as u16 };
    // Where there is no room, the packet is judged as its node's.
    let _ = maps::HAIRPINS.insert(hairpin_slot(ifindex, &noted), noted, u64::from(BPF_ANY));
}

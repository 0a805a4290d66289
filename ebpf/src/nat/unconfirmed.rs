//! What a pod of this node is about to get and may not: netfilter's `POST_ROUTING` hook, behind source NAT and just before conntrack
//! confirms the packet's connection. What is dropped here leaves nothing behind; what is dropped on the veth leaves an entry that
//! lives for minutes, so that whoever is denied could fill the node's table.
//!
//! Only packets that start something for conntrack are looked at, and dropped only where the program on the veth is sure to drop them.
//! Everything else goes on to there.
//!
//! May be interrupted by TC programs on the same CPU: none of their memory is used here.

use postern_common::direction::INGRESS;
use postern_common::endpoint::{Endpoint, NOT_ISOLATED, QUARANTINE};
use postern_common::peer::{LOCAL_NODE, Peer};
use postern_common::reason::Reason;
use postern_common::verdict::VerdictKey;
use postern_common::{IPPROTO_ICMPV6, IPPROTO_TCP};

use super::endpoint::take_endpoint;
use super::hairpin;
use super::postrouting::{ACCEPT, DROP};
use crate::count;
use crate::family::Family;
use crate::flow::{peek, row};
use crate::parse::frame::Unreadable;
use crate::parse::skb::{self, NetfilterContext, Routed as _, Skb};
use crate::parse::{self, NO_HEADER, Transport};
use crate::policy::verdict::of_classes;

/// Judges one packet: whether to drop it or to let it go on.
///
/// # Safety
///
/// The `skb` must be the running program's.
#[inline(always)]
pub unsafe fn judge<A: Family>(context: *const NetfilterContext) -> u32 {
    // SAFETY: the caller's.
    let skb = unsafe { Skb::of(context) };
    if !skb.is_new() {
        return ACCEPT;
    }
    // SAFETY: the same.
    let out = unsafe { skb::out(context) };
    let Some(reason) = denied::<A>(skb, out) else {
        return ACCEPT;
    };
    count::packet(reason, INGRESS);
    DROP
}

/// A packet that starts something, and whom it is for.
struct Start<A> {
    ifindex: u32,
    endpoint: Endpoint,
    pod: (A, u16),
    peer: (A, u16),
    protocol: u8,
}

/// Why the packet will be dropped on its pod's veth; none where it is not sure to be. The numbers are those of docs/packet-path.md.
#[inline(always)]
fn denied<A: Family>(skb: Skb, out: u32) -> Option<Reason> {
    let destination = skb.read::<A>(A::SOURCE + size_of::<A>() as u32)?;
    let mut endpoint = Endpoint::default();
    let ifindex = receiver(out, destination, &mut endpoint)?;
    // (2), and what is open where it comes in.
    if endpoint.ingress_class == NOT_ISOLATED {
        return None;
    }
    // (3)
    let (protocol, at) = match A::transport(skb) {
        Ok((_, NO_HEADER)) | Err(Unreadable::NotLinear) => return None,
        Ok((protocol, at)) => (skb.forget(protocol.into()) as u8, skb.forget(at)),
        Err(Unreadable::Malformed) => return Some(Reason::Malformed),
        Err(Unreadable::SourceRouted) => return Some(Reason::SourceRouted),
    };
    let source = skb.read::<A>(A::SOURCE)?;
    let transport = parse::transport_of_skb(skb, at, protocol)?;
    // (5), (8)
    if transport.error || protocol == IPPROTO_ICMPV6 && parse::may_be_link_control(transport.kind) {
        return None;
    }
    let Transport { source_port, destination_port, .. } = transport;
    let (pod, peer) = ((destination, destination_port), (source, source_port));
    let start = Start { ifindex, endpoint, pod, peer, protocol };
    // (9)
    let class = of_peer(&start);
    if class.flags & LOCAL_NODE != 0 && skb.is_sent_here() {
        return None;
    }
    let reason = verdict(&start, class);
    let is_syn = transport.opens && protocol == IPPROTO_TCP;
    // (7)
    if !reason.drops() || transport.flow && !is_syn && is_known(&start) {
        return None;
    }
    // Both sides may have sent one at once.
    if is_syn && may_have_started(&start, class) && is_half_open(&start) {
        return None;
    }
    if reason == Reason::Quarantined {
        return Some(reason);
    }
    if class.flags & LOCAL_NODE != 0 && may_be_hairpin(skb, at, &start)
        || transport.midstream && may_be_older(&start, class)
    {
        return None;
    }
    Some(reason)
}

/// The veth that the packet goes to, and what the agent says of it: the very device that the packet leaves by, or a port of the bridge
/// that it leaves by.
#[inline(always)]
fn receiver<A: Family>(out: u32, destination: A, endpoint: &mut Endpoint) -> Option<u32> {
    if take_endpoint(out, endpoint) {
        return Some(out);
    }
    let ifindex = destination.owner()?;
    (out != 0 && take_endpoint(ifindex, endpoint) && endpoint.master == out).then_some(ifindex)
}

/// Who sends.
#[inline(always)]
fn of_peer<A: Family>(start: &Start<A>) -> Peer {
    let (peer, epoch) = (start.peer.0, start.endpoint.epoch);
    peer.peer_exact(epoch).or_else(|| peer.peer_lpm(epoch)).unwrap_or_default()
}

/// What policy says of what comes in.
#[inline(always)]
fn verdict<A: Family>(start: &Start<A>, peer: Peer) -> Reason {
    let subject = start.endpoint.ingress_class;
    if subject == QUARANTINE {
        return Reason::Quarantined;
    }
    of_classes(VerdictKey { subject, peer: peer.class }, start.protocol, start.pod.1)
}

/// Whether the packet may be of a flow that was allowed: conntrack may have forgotten what the veth has not.
#[inline(always)]
fn is_known<A: Family>(start: &Start<A>) -> bool {
    let Start { ifindex, pod, peer, protocol, .. } = *start;
    if A::flow(&A::flow_key(ifindex, pod, peer, protocol)).is_some() {
        return true;
    }
    is_half_open(start)
}

/// Whether one side was heard of it, or both were, and no more.
#[inline(always)]
fn is_half_open<A: Family>(start: &Start<A>) -> bool {
    let Start { ifindex, pod, peer, protocol, .. } = *start;
    let (_, hash) = row::identity(pod, peer, protocol);
    peek::knows(ifindex, hash)
}

/// Whether the pod's node sends on what the pod sent to a Service just now.
#[inline(always)]
fn may_be_hairpin<A: Family>(skb: Skb, at: u32, start: &Start<A>) -> bool {
    if !hairpin::is_way_back(skb.iif(), start.ifindex, &start.endpoint) {
        return false;
    }
    let protocol = start.protocol;
    let digest = hairpin::digest(protocol, skb.length(at), |offset| skb.read(at + offset));
    // What cannot be told was not noted either.
    digest.is_some_and(|digest| {
        hairpin::is_noted(start.ifindex, digest, start.pod.1, A::FAMILY as u16 | u16::from(protocol))
    })
}

/// Whether the packet may be of a TCP connection that is older than the programs, which only the pod's sockets know, and which the pod
/// may have started: they are asked on the veth.
#[inline(always)]
fn may_be_older<A: Family>(start: &Start<A>, peer: Peer) -> bool {
    start.endpoint.netns != 0 && may_have_started(start, peer)
}

/// Whether policy may allow the pod to start this connection.
#[inline(always)]
fn may_have_started<A: Family>(start: &Start<A>, peer: Peer) -> bool {
    let Start { endpoint, protocol, .. } = *start;
    let (address, port) = start.peer;
    if endpoint.egress_class == NOT_ISOLATED || peer.flags & LOCAL_NODE != 0 {
        return true;
    }
    if address.frontend(endpoint.epoch, protocol, port).is_some() {
        return true;
    }
    !of_classes(VerdictKey { subject: endpoint.egress_class, peer: peer.class }, protocol, port).drops()
}

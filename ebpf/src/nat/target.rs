//! Where a packet goes behind the choice of a backend: what policy says of that, and what flows remember of it.

use postern_common::conntrack::Flow;
use postern_common::endpoint::{Endpoint, NOT_ISOLATED};
use postern_common::peer::{LOCAL_NODE, Peer};
use postern_common::reason::Reason;
use postern_common::service::{Crossing, KEPT};
use postern_common::verdict::VerdictKey;

use crate::family::Family;
use crate::flow::backend::{self, Destination};
use crate::flow::{established, peek, row};
use crate::global::by_family;
use crate::maps::STATE;
use crate::policy::tunnel;
use crate::policy::verdict::of_classes;
use crate::{config, seqcount};

/// The veth that a packet may have come from, and what the agent says of it. Index zero: there is none. Without padding, as what follows:
/// the verifier checks that all of it is set.
#[repr(C)]
pub struct Sender {
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// 1: by where the packet came in, and not by its source address alone.
    pub is_sure: u32,
    /// What the agent says of it.
    pub endpoint: Endpoint,
}

/// Where a packet goes.
#[repr(C)]
pub struct Target<A> {
    /// Its address.
    pub address: A,
    /// Its port; of an echo, the identifier.
    pub port: u16,
    /// The pod's port; of an echo, its identifier.
    pub source_port: u16,
    /// `IPPROTO_*`
    pub protocol: u32,
    /// Byte offset of the transport header behind the IP header's beginning.
    pub at: u32,
}

/// Who has an address.
#[inline(always)]
pub fn peer<A: Family>(address: A, endpoint: &Endpoint) -> Peer {
    let listed = address.peer_exact(endpoint.epoch);
    listed.or_else(|| address.peer_lpm(endpoint.epoch)).unwrap_or_default()
}

/// What policy says of where a packet goes: [`call_verdict`].
#[inline(always)]
fn verdict<A: Family>(sender: &Sender, target: &Target<A>) -> Reason {
    let endpoint = &sender.endpoint;
    if target.address.is_own(sender.ifindex) {
        return Reason::AllowedByPolicy;
    }
    if endpoint.egress_class == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    let peer = peer(target.address, endpoint);
    if peer.flags & LOCAL_NODE != 0 {
        return if tunnel::may_be(target.protocol as u8, target.port) {
            Reason::Tunnel
        } else {
            Reason::Node
        };
    }
    let key = VerdictKey { subject: endpoint.egress_class, peer: peer.class };
    of_classes(key, target.protocol as u8, target.port)
}

by_family! {
    /// [`verdict`], which the verifier checks apart: one of [`Reason`]'s numbers.
    unsafe fn verdict_apart[verdict4, verdict6]<A>(sender: *const Sender, target: *const Target<A>) -> u32 {
        // SAFETY: the caller's.
        let (Some(sender), Some(target)) = (unsafe { (sender.as_ref(), target.as_ref()) }) else {
            return Reason::DeniedByPolicy as u32;
        };
        verdict(sender, target) as u32
    }
}

/// What policy says of where a packet goes. Checked apart by the verifier.
#[inline(always)]
pub fn call_verdict<A: Family>(sender: &Sender, target: &Target<A>) -> Reason {
    // SAFETY: they are what they say.
    unsafe { Reason::of(verdict_apart(&raw const *sender, &raw const *target)) }
}

/// Remembers where the packets of a flow go, of which policy says this, if what was noted is believed; and says what becomes of the packet.
/// What [`call_remember`] does.
#[inline(always)]
fn remember<A: Family>(crossing: &Crossing, target: &Target<A>, reason: Reason, believed: bool) -> Reason {
    let established = goes_established(crossing, target);
    let is_remembered = match established {
        NOT_ESTABLISHED => goes_half_open(crossing, target),
        established => established == GOES_THERE,
    };
    if crossing.flags & KEPT != 0 && is_remembered {
        return Reason::Established;
    }
    if !believed || is_remembered && !reason.drops() {
        return reason;
    }
    // For when policy changes. Where the packet may not go, answers of whoever was there before are asked about.
    if established == NOT_ESTABLISHED {
        remember_half_open(crossing, target, reason.drops());
    } else {
        remember_established(crossing, target, reason.drops());
    }
    reason
}

/// There is no established flow of which a packet is.
const NOT_ESTABLISHED: u32 = 0;
/// There is one, which is known to go where the packet goes.
const GOES_THERE: u32 = 1;
/// There is one, of which that is not known.
const GOES_ELSEWHERE: u32 = 2;

/// Whether the established flow of a packet is known to go where that goes. Functions of their own, this and those below, for their stack.
#[inline(never)]
fn goes_established<A: Family>(crossing: &Crossing, target: &Target<A>) -> u32 {
    let flow = flow::<A>(&flow_key::<A>(crossing));
    if flow.expires <= config::now() {
        NOT_ESTABLISHED
    } else if flow.backend == target.address.widen() && flow.backend_port == target.port {
        GOES_THERE
    } else {
        GOES_ELSEWHERE
    }
}

/// An established flow. One that there is none of has expired.
#[inline(always)]
fn flow<A: Family>(key: &A::FlowKey) -> Flow {
    seqcount::read_twice(|| A::flow(key).map(<*mut Flow>::cast_const)).unwrap_or_default()
}

/// Remembers where an established flow's packets go, or that this is not known any more.
#[inline(never)]
fn remember_established<A: Family>(crossing: &Crossing, target: &Target<A>, drops: bool) {
    let key = flow_key::<A>(crossing);
    let mut flow = flow::<A>(&key);
    if flow.expires == 0 {
        // It went meanwhile, or somebody writes it: where its packets go is found out by the next one.
        return;
    }
    (flow.backend, flow.backend_port) = (target.address.widen(), target.port);
    if drops {
        (flow.backend, flow.backend_port) = ([0; 2], 0);
        flow.generation = flow.generation.wrapping_sub(1);
    }
    A::update(&key, &flow);
}

/// The same of a half-open flow.
#[inline(never)]
fn remember_half_open<A: Family>(crossing: &Crossing, target: &Target<A>, drops: bool) {
    let mut goes = destination::<A>(crossing, target);
    if drops {
        (goes.address, goes.port) = ([0; 2], 0);
    }
    backend::set_backend(&goes);
}

/// Whether a half-open flow is known to go where a packet goes.
#[inline(never)]
fn goes_half_open<A: Family>(crossing: &Crossing, target: &Target<A>) -> bool {
    backend::goes_to(&destination::<A>(crossing, target))
}

/// Where a packet that was noted goes, with its flow.
#[inline(always)]
fn destination<A: Family>(crossing: &Crossing, target: &Target<A>) -> Destination {
    let pod = (A::narrow(crossing.pod), crossing.pod_port);
    let peer = (A::narrow(crossing.peer), crossing.peer_port);
    let (identity, hash) = row::identity(pod, peer, crossing.protocol as u8);
    Destination {
        ifindex: crossing.ifindex,
        port: target.port,
        reserved: 0,
        address: target.address.widen(),
        identity,
        hash,
    }
}

by_family! {
    /// [`remember`]: one of [`Reason`]'s numbers.
    unsafe fn remember_apart[remember4, remember6]<A>(
        crossing: *const Crossing,
        target: *const Target<A>,
        reason: u32,
        believed: u32,
    ) -> u32 {
        // SAFETY: the caller's.
        let (Some(crossing), Some(target)) = (unsafe { (crossing.as_ref(), target.as_ref()) }) else {
            return Reason::DeniedByPolicy as u32;
        };
        // SAFETY: the caller's.
        let reason = unsafe { Reason::of(reason) };
        remember(crossing, target, reason, believed != 0) as u32
    }
}

/// Remembers where the packets of a flow go, and says what becomes of this one. Checked apart by the verifier.
#[inline(always)]
pub fn call_remember<A: Family>(
    crossing: &Crossing,
    target: &Target<A>,
    reason: Reason,
    believed: bool,
) -> Reason {
    let (reason, believed) = (reason as u32, u32::from(believed));
    // SAFETY: they are what they say.
    unsafe { Reason::of(remember_apart(&raw const *crossing, &raw const *target, reason, believed)) }
}

/// Whether a veth has a flow that is allowed, from the pod to where it goes, or back: [`call_is_allowed_already`].
#[inline(always)]
fn is_allowed_already<A: Family>(ifindex: u32, source: A, target: &Target<A>) -> bool {
    let (pod, peer) = ((source, target.source_port), (target.address, target.port));
    let protocol = target.protocol as u8;
    let generation = STATE.get(0).map_or(0, |state| state.generation);
    let key = A::flow_key(ifindex, pod, peer, protocol);
    if let Some(flow) = A::flow(&key) {
        // SAFETY: until this program ends, the memory stays an element of the map; it counts only if it is still this flow's after.
        let found = unsafe { flow.read_volatile() };
        // What is read before the second look-up must not be of whoever stands there after it.
        seqcount::fence();
        if established::is_current(&found, generation, config::now()) && A::flow(&key) == Some(flow) {
            return true;
        }
    }
    let (identity, hash) = row::identity(pod, peer, protocol);
    peek::allows(ifindex, &identity, hash, generation)
}

by_family! {
    /// [`is_allowed_already`]: 1 where there is one.
    unsafe fn is_allowed_already_apart[is_allowed_already4, is_allowed_already6]<A>(
        ifindex: u32,
        source: *const A,
        target: *const Target<A>,
    ) -> u32 {
        // SAFETY: the caller's.
        let (Some(source), Some(target)) = (unsafe { (source.as_ref(), target.as_ref()) }) else {
            return 0;
        };
        u32::from(is_allowed_already(ifindex, *source, target))
    }
}

/// Whether a veth has a flow that is allowed, from the pod to where it goes, or back. Checked apart by the verifier.
#[inline(always)]
pub fn call_is_allowed_already<A: Family>(ifindex: u32, source: &A, target: &Target<A>) -> bool {
    // SAFETY: they are what they say.
    unsafe { is_allowed_already_apart(ifindex, &raw const *source, &raw const *target) != 0 }
}

#[inline(always)]
fn flow_key<A: Family>(crossing: &Crossing) -> A::FlowKey {
    let pod = (A::narrow(crossing.pod), crossing.pod_port);
    let peer = (A::narrow(crossing.peer), crossing.peer_port);
    A::flow_key(crossing.ifindex, pod, peer, crossing.protocol as u8)
}

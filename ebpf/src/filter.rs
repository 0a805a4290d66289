//! In what order a packet is judged.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::Flow;
use postern_common::direction::EGRESS;
use postern_common::endpoint::{Endpoint, NOT_ISOLATED, QUARANTINE};
use postern_common::reason::Reason;
use postern_common::state::State;

use crate::config;
use crate::conntrack;
use crate::count::conclude;
use crate::family::Address;
use crate::fragment;
use crate::frame::{self, Unreadable};
use crate::maps::{ENDPOINTS, STATE};
use crate::parse::{self, Fragment, Packet, ethertype};
use crate::verdict;

/// Judges one packet:
///
/// 1. the endpoint, by interface: isolated in neither direction passes at once;
/// 2. the frame: ARP passes, so do neighbour discovery and multicast listener messages; other ethertypes than
///    IPv4 and IPv6 and what cannot be parsed is dropped;
/// 3. fragments: later ones follow the first;
/// 4. flows: what belongs to an allowed flow passes; when the policy generation moved on, the flow's first direction
///    is judged again;
/// 5. policy: not isolated in this direction, the pod's own node, the verdict of the two classes.
#[inline(always)]
pub fn judge<const DIRECTION: u8>(ctx: &TcContext) -> i32 {
    conclude::<DIRECTION>(ctx, reason::<DIRECTION>(ctx))
}

#[inline(always)]
fn reason<const DIRECTION: u8>(ctx: &TcContext) -> Reason {
    // SAFETY: the context of a running program is valid.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the agent replaces an endpoint as a whole.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(ifindex) }) else {
        return Reason::NoEndpoint;
    };
    if endpoint.ingress_class == NOT_ISOLATED && endpoint.egress_class == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    match parse::ethertype(ctx) {
        Ok(ethertype::ARP) => Reason::Link,
        Ok(ethertype::IPV4) => reason_of_packet::<DIRECTION, [u8; 4]>(ctx, ifindex, endpoint),
        Ok(ethertype::IPV6) => reason_of_packet::<DIRECTION, [u8; 16]>(ctx, ifindex, endpoint),
        Ok(_) if endpoint.ingress_class == QUARANTINE => Reason::Quarantined,
        Ok(_) => Reason::UnknownEtherType,
        Err(_) => Reason::Malformed,
    }
}

/// Parses a packet; when its headers are not linear, once more after making them so.
///
/// A loop with one call, not two calls: the compiler would make a function of its own from the parser, and pointers
/// into the packet may not be passed between functions.
#[inline(always)]
fn parsed<A: Address>(ctx: &TcContext) -> Result<Packet<A>, Unreadable> {
    let mut pulled = false;
    loop {
        match A::parse(ctx) {
            Err(Unreadable::NotLinear) if !pulled => {
                frame::pull(ctx);
                pulled = true;
            }
            parsed => return parsed,
        }
    }
}

#[inline(always)]
fn reason_of_packet<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    ifindex: u32,
    endpoint: &Endpoint,
) -> Reason {
    let Ok(packet) = parsed::<A>(ctx) else {
        return Reason::Malformed;
    };
    let packet = &packet;
    if packet.transport.link {
        return Reason::Link;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    match packet.fragment {
        Fragment::Whole => reason_of_flow::<DIRECTION, A>(ctx, ifindex, endpoint, packet, now),
        Fragment::First(identification) => {
            let reason = reason_of_flow::<DIRECTION, A>(ctx, ifindex, endpoint, packet, now);
            fragment::note::<DIRECTION, A>(ifindex, packet, identification, !reason.drops(), now);
            reason
        }
        Fragment::Later(identification) => {
            if fragment::follows::<DIRECTION, A>(ifindex, packet, identification, now) {
                Reason::Established
            } else {
                Reason::OrphanFragment
            }
        }
    }
}

#[inline(always)]
fn reason_of_flow<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    ifindex: u32,
    endpoint: &Endpoint,
    packet: &Packet<A>,
    now: u64,
) -> Reason {
    let transport = packet.transport;
    let source = (packet.source, transport.source_port);
    let destination = (packet.destination, transport.destination_port);
    let (pod, peer) = if DIRECTION == EGRESS { (source, destination) } else { (destination, source) };
    let tracked = conntrack::tracks(packet);
    let key = A::flow_key(ifindex, pod, peer, packet.protocol);

    // The generation is read before any table: a flow judged by tables of which some were newer is judged again.
    let generation = STATE.get(0).map_or(0, |state: &State| state.generation);
    if tracked && let Some(flow) = A::flow(&key) {
        // SAFETY: the element stays valid until this program ends; other CPUs may write it at the same time, which at
        // worst loses one of two updates that say nearly the same.
        let flow: &mut Flow = unsafe { &mut *flow };
        let reply = flow.initiator != DIRECTION;
        // A SYN against the flow's direction is a connection of its own, whatever its ports.
        if flow.expires > now && !(reply && transport.starts) {
            let current = flow.generation == generation || !config::recheck();
            let still_allowed = current || {
                // A flow's port is that of the side that did not start it.
                let port = if flow.initiator == EGRESS { peer.1 } else { pod.1 };
                !verdict::judge(ctx, endpoint, flow.initiator, peer.0, packet.protocol, port).drops()
            };
            if still_allowed {
                conntrack::refresh(flow, DIRECTION, packet.protocol, transport, generation, now);
                return Reason::Established;
            }
            A::forget(&key);
        }
    }

    if transport.answers {
        return Reason::DeniedByPolicy;
    }
    let reason = verdict::judge(ctx, endpoint, DIRECTION, peer.0, packet.protocol, destination.1);
    if tracked && !reason.drops() {
        conntrack::open::<A>(&key, DIRECTION, packet.protocol, generation, now);
    }
    reason
}

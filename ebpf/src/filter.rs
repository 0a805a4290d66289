//! In what order a packet is judged.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::TcContext;
use postern_common::IPPROTO_ICMP;
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
use crate::steady;
use crate::verdict;

/// Judges one packet:
///
/// 1. the endpoint, by interface: isolated in neither direction passes at once;
/// 2. the frame: ARP passes, so do neighbour discovery and multicast listener messages; other ethertypes than
///    IPv4 and IPv6 and what cannot be parsed is dropped;
/// 3. fragments: later ones follow the first;
/// 4. flows: what belongs to an allowed flow passes, ICMP errors about one too; when the policy generation moved on,
///    the flow's first direction is judged again;
/// 5. policy: not isolated in this direction, the pod's own node, the verdict of the two classes.
#[inline(always)]
pub fn judge<const DIRECTION: u8>(ctx: &TcContext) -> i32 {
    conclude::<DIRECTION>(ctx, reason::<DIRECTION>(ctx))
}

#[inline(always)]
fn reason<const DIRECTION: u8>(ctx: &TcContext) -> Reason {
    // SAFETY: the context of a running program is valid.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(endpoint) = &steady::read(|| ENDPOINTS.get_ptr(ifindex)) else {
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
fn parse_packet<A: Address>(ctx: &TcContext, packet: &mut Packet<A>) -> Result<(), Unreadable> {
    let mut pulled = false;
    loop {
        match A::parse(ctx, packet) {
            Err(Unreadable::NotLinear) if !pulled => {
                frame::pull(ctx);
                pulled = true;
            }
            parsed => return parsed,
        }
    }
}

/// Everything that depends on the family: a function of its own for each, since both together need more stack than a
/// program has (512 bytes).
#[inline(never)]
fn reason_of_packet<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    ifindex: u32,
    endpoint: &Endpoint,
) -> Reason {
    let mut packet = Packet::<A>::default();
    if parse_packet(ctx, &mut packet).is_err() {
        return Reason::Malformed;
    }
    if packet.transport.link {
        return Reason::Link;
    }
    // SAFETY: the helper takes nothing and only reads a clock.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if packet.fragment == Fragment::Later {
        return if fragment::follows::<DIRECTION, A>(ifindex, &packet, now) {
            Reason::Established
        } else {
            Reason::OrphanFragment
        };
    }
    let reason = reason_of_flow::<DIRECTION, A>(ctx, ifindex, endpoint, &mut packet, now);
    if packet.fragment == Fragment::First {
        fragment::note::<DIRECTION, A>(ifindex, &packet, !reason.drops(), now);
    }
    reason
}

#[inline(always)]
fn reason_of_flow<const DIRECTION: u8, A: Address>(
    ctx: &TcContext,
    ifindex: u32,
    endpoint: &Endpoint,
    packet: &mut Packet<A>,
    now: u64,
) -> Reason {
    // The generation is read before any table: a flow judged by tables of which some were newer is judged again.
    let generation = STATE.get(0).map_or(0, |state: &State| state.generation);
    let judge = Judge { ctx, endpoint, generation, now };
    let other_side = if DIRECTION == EGRESS { packet.destination } else { packet.source };
    let related = packet.transport.inner != 0 && A::quote(ctx, packet);

    let transport = packet.transport;
    let source = (packet.source, transport.source_port);
    let destination = (packet.destination, transport.destination_port);
    let (pod, peer) = if DIRECTION == EGRESS { (source, destination) } else { (destination, source) };
    let key = A::flow_key(ifindex, pod, peer, packet.protocol);
    if transport.flow
        && let Some(flow) = A::flow(&key)
    {
        // SAFETY: the element stays valid until this program ends; other CPUs may write it at the same time, which at
        // worst loses one of two updates that say nearly the same.
        let flow: &mut Flow = unsafe { &mut *flow };
        // A SYN or an echo request against the flow's direction starts one of its own, whatever its ports.
        if !(flow.initiator != DIRECTION && transport.starts) {
            if judge.holds(flow, pod.1, peer, packet.protocol) {
                if related {
                    return Reason::Related;
                }
                conntrack::refresh(flow, DIRECTION, packet.protocol, transport, generation, now);
                return Reason::Established;
            }
            A::forget(&key);
        }
    }

    if transport.answers {
        return Reason::DeniedByPolicy;
    }
    // An error about no flow is a packet without ports, to or from whoever is on the other side.
    let (peer, protocol, port) =
        if related { (other_side, IPPROTO_ICMP, 0) } else { (peer.0, packet.protocol, destination.1) };
    let reason = verdict::judge(ctx, endpoint, DIRECTION, peer, protocol, port);
    if transport.flow && !related && !reason.drops() {
        conntrack::open::<A>(&key, DIRECTION, packet.protocol, generation, now);
    }
    reason
}

/// What a flow is held against.
struct Judge<'a> {
    ctx: &'a TcContext,
    endpoint: &'a Endpoint,
    generation: u32,
    now: u64,
}

impl Judge<'_> {
    /// Whether a flow still counts: not expired, and allowed under the current generation or, judged again, by its
    /// first direction.
    #[inline(always)]
    fn holds<A: Address>(&self, flow: &Flow, pod_port: u16, peer: (A, u16), protocol: u8) -> bool {
        if flow.expires <= self.now {
            return false;
        }
        if flow.generation == self.generation || !config::recheck() {
            return true;
        }
        // A flow's port is that of the side that did not start it.
        let port = if flow.initiator == EGRESS { peer.1 } else { pod_port };
        !verdict::judge(self.ctx, self.endpoint, flow.initiator, peer.0, protocol, port).drops()
    }
}

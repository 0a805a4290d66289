//! Policy: may these two exchange this?

use aya_ebpf::programs::TcContext;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{NOT_ISOLATED, QUARANTINE};
use postern_common::peer::LOCAL_NODE;
use postern_common::reason::Reason;
use postern_common::service::BEHIND_NAT;
use postern_common::verdict::{
    EVERY_SCTP, EVERY_TCP, EVERY_UDP, EVERYTHING, PortPageKey, Verdict, VerdictKey,
};
use postern_common::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use crate::family::Address;
use crate::maps::{PORT_PAGES, STATE, VERDICTS};
use crate::scene::Scene;
use crate::service::has_ports;
use crate::sockets;

/// What is asked of policy.
#[derive(Clone, Copy)]
pub struct Question<A> {
    /// Direction of what is to start.
    pub direction: u8,
    /// Who is on the other side.
    pub peer: A,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Port of the side that does not start it, in host byte order; zero where there is none.
    pub port: u16,
    /// The peer is where packets end, not a frontend.
    pub resolved: bool,
}

/// Judges a new flow of one direction, as the scene's question has it, by policy alone, without regard to what was allowed before.
///
/// 1. A direction that no policy isolates: allowed.
/// 2. A Service's frontend: its backends decide, each behind the choice, or all of them together.
/// 3. The pod's own node: allowed when the packet goes there, or when a socket of the node sent it
///    (`skb->sk`; forwarded packets have none).
/// 4. The verdict of the pod's class and the peer's.
///
/// The scene says then whether the packet may end elsewhere.
///
/// A function of its own, since it is asked at several places; so are its two look-ups, for their stack.
#[inline(never)]
pub fn judge<A: Address>(ctx: &TcContext, scene: &mut Scene<A>) -> Reason {
    let endpoint = &scene.endpoint;
    let direction = scene.question.direction;
    let class = if direction == EGRESS { endpoint.egress_class } else { endpoint.ingress_class };
    if class == NOT_ISOLATED && direction == INGRESS {
        return Reason::NotIsolated;
    }
    let mut key = VerdictKey { subject: class, peer: NONE };
    if direction == EGRESS {
        key.peer = frontend_class(scene);
    }
    if key.peer == NONE {
        key.peer = peer_class(ctx, scene);
    }
    scene.service = direction == EGRESS && (key.peer == NODE || key.peer == BEHIND_NAT);
    if class == NOT_ISOLATED {
        return Reason::NotIsolated;
    }
    if key.peer == NODE {
        return Reason::Node;
    }
    if key.peer == BEHIND_NAT && class != QUARANTINE {
        let is_judged = STATE.get(0).is_some_and(|state| state.behind_nat != 0);
        return if is_judged { Reason::Service } else { Reason::DeniedByPolicy };
    }
    if class == QUARANTINE {
        return Reason::Quarantined;
    }
    of_classes(key, scene.question.protocol, scene.question.port)
}

/// What policy says of a port, between two classes.
#[inline(always)]
pub fn of_classes(key: VerdictKey, protocol: u8, port: u16) -> Reason {
    // SAFETY: a published verdict never changes; see "copy-on-write" in ARCHITECTURE.md.
    match unsafe { VERDICTS.get(&key) } {
        Some(verdict) if allows(verdict, protocol, port) => Reason::AllowedByPolicy,
        _ => Reason::DeniedByPolicy,
    }
}

/// In place of a peer class: the pod's own node. No class has this number.
const NODE: u32 = u32::MAX - 1;
/// In place of a peer class: there is none.
const NONE: u32 = u32::MAX - 2;

/// The class of the frontend in question, [`BEHIND_NAT`], or [`NONE`].
#[inline(never)]
fn frontend_class<A: Address>(scene: &Scene<A>) -> u32 {
    let Question { peer, protocol, port, resolved, .. } = scene.question;
    if resolved || !has_ports(protocol) {
        return NONE;
    }
    peer.frontend(scene.endpoint.epoch, protocol, port).map_or(NONE, |frontend| frontend.class)
}

/// The class of the peer in question, or [`NODE`].
#[inline(never)]
fn peer_class<A: Address>(ctx: &TcContext, scene: &mut Scene<A>) -> u32 {
    let peer = scene.question.peer.peer(scene.endpoint.epoch).unwrap_or_default();
    scene.is_peer_node = peer.flags & LOCAL_NODE != 0;
    if scene.is_peer_node && (scene.question.direction != INGRESS || sockets::sent(ctx)) {
        return NODE;
    }
    peer.class
}

/// Whether a verdict holds a port of a protocol. Costs the same whatever the verdict holds: four comparisons, or one
/// look-up.
#[inline(never)]
fn allows(verdict: &Verdict, protocol: u8, port: u16) -> bool {
    let whole = match protocol {
        IPPROTO_TCP => EVERYTHING | EVERY_TCP,
        IPPROTO_UDP => EVERYTHING | EVERY_UDP,
        IPPROTO_SCTP => EVERYTHING | EVERY_SCTP,
        // Without ports: allowed by rules without ports alone.
        _ => return verdict.whole & EVERYTHING != 0,
    };
    if verdict.whole & whole != 0 {
        return true;
    }
    if verdict.port_set != 0 {
        let [page, bit] = port.to_be_bytes();
        let key = PortPageKey { port_set: verdict.port_set, protocol, page, reserved: 0 };
        // SAFETY: a published port set never changes.
        return match unsafe { PORT_PAGES.get(&key) } {
            Some(page) => page.bits[usize::from(bit >> 6)] >> (bit & 63) & 1 != 0,
            None => false,
        };
    }
    let mut index = 0;
    while index < verdict.ranges.len() {
        let range = verdict.ranges[index];
        if range.protocol == protocol && range.first <= port && port <= range.last {
            return true;
        }
        index += 1;
    }
    false
}

//! TCP connections in the middle of which the programs come, or whose flow was forgotten.

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, state};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;

use crate::conntrack;
use crate::family::Address;
use crate::parse::Packet;
use crate::scene::{Scene, step};
use crate::sockets::{self, Connection};

/// What became of a connection that is older than the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PickedUp {
    /// There is none that the pod's sockets know of.
    Unknown,
    /// Policy allows it: from now on it is established.
    Allowed,
    /// Policy does not.
    Denied,
}

/// Takes up a TCP connection in the middle, if the pod really has it. Who started it is told by whether the pod
/// listens; where it does not (any more), either direction will do.
#[inline(never)]
pub fn pick_up<const DIRECTION: u8, A: Address>(ctx: &TcContext, scene: &mut Scene<A>) -> PickedUp {
    let connection = sockets::connection(ctx, scene);
    if connection == Connection::Unknown || scene.is_for_another() {
        return PickedUp::Unknown;
    }
    let mut initiator = if connection == Connection::FromPeer { INGRESS } else { EGRESS };
    let reason = scene.judge(ctx, initiator);
    // What the pod sends carries its own socket: that does not tell who started this. It passes, since it goes to the node.
    let mut drops = reason.drops() || reason == Reason::Node && initiator == INGRESS && DIRECTION == EGRESS;
    if drops && connection == Connection::FromPod {
        initiator = INGRESS;
        let reason = scene.judge(ctx, initiator);
        drops = reason.drops() || reason == Reason::Node && DIRECTION == EGRESS;
    }
    if drops {
        return PickedUp::Denied;
    }
    let Packet { transport, protocol, .. } = scene.packet;
    scene.service &= initiator == EGRESS;
    let flags = scene.flow_flags();
    let flow = &mut scene.flow;
    *flow =
        Flow { generation: scene.generation, initiator, state: state::ESTABLISHED, flags, ..Flow::default() };
    conntrack::refresh(flow, DIRECTION, protocol, transport, scene.now);
    // Where there is no room, the next packet asks again.
    scene.step = step::PICKED_UP;
    PickedUp::Allowed
}

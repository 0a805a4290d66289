//! What a packet is to the flow that it belongs to, or could start.

use postern_policy::model::{Direction, Protocol};

use super::flows::{Flow, Key, Place, Stage};
use super::icmp::{self, Message};
use super::packet::{self, Flags, Packet, SCTP, TCP, Transport, UDP};
use super::verdict::Arrival;
use crate::fuzz::world::Wanted;

/// What a packet tells about the flow that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) key: Key,
    pub(super) flags: Flags,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Belongs to no flow that the other side started: SYN without ACK, echo request.
    Start,
    /// Never starts a flow: SYN with ACK, echo reply.
    Answer,
    /// Starts a flow where there is none, and cannot be the first packet of a connection: TCP without SYN.
    Middle,
    /// Starts a flow where there is none.
    Any,
}

impl Turn {
    /// The flow of a packet, where its kind has flows.
    pub(super) fn of(direction: Direction, packet: &Packet<'_>) -> Option<Self> {
        let (protocol, source_port, destination_port, flags, kind) = match packet.transport {
            Transport::Ports { protocol, source, destination, flags } => {
                let kind = match (flags.syn, flags.ack) {
                    (true, false) if flags.rst => Kind::Any,
                    (true, false) => Kind::Start,
                    (true, true) => Kind::Answer,
                    (false, _) if protocol == TCP => Kind::Middle,
                    (false, _) => Kind::Any,
                };
                (protocol, source, destination, flags, kind)
            }
            Transport::Icmp { v6, bytes } => {
                let Message::Echo { identifier, request } = icmp::message(v6, bytes) else { return None };
                let protocol = if v6 { packet::ICMPV6 } else { packet::ICMP };
                let kind = if request { Kind::Start } else { Kind::Answer };
                (protocol, identifier, identifier, Flags::default(), kind)
            }
            Transport::Other | Transport::Later => return None,
        };
        let (source, destination) = ((packet.source, source_port), (packet.destination, destination_port));
        let (pod, peer) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let key = Key { pod: pod.0, peer: peer.0, protocol, pod_port: pod.1, peer_port: peer.1 };
        Some(Self { key, flags, kind })
    }

    /// Whether a packet is one of a flow's own. One that may be a flow's first packet, and comes from the side that
    /// started it, is judged as a new one is, for as long as the flow is half-open. A SYN is one of no flow, other than where policy denies
    /// it (see [`Self::answers`]); a SYN-ACK of the side that started a flow is one of it once the other side was heard. Nor is what
    /// leaves the flow by where it goes or comes from (see [`Arrival::leaves`]).
    pub(super) fn belongs(&self, arrival: Arrival, place: Place, flow: &Flow) -> bool {
        let direction = arrival.direction;
        if arrival.leaves(flow) || self.kind == Kind::Start && self.key.protocol == TCP {
            false
        } else if direction == flow.initiator {
            let is_answer =
                self.kind == Kind::Answer && self.key.protocol == TCP && flow.stage == Stage::Answered;
            place == Place::Established || self.kind == Kind::Middle || is_answer
        } else {
            self.kind != Kind::Start
        }
    }
}

impl Turn {
    /// Whether a packet that policy denies answers one that was sent the other way at the same time: a SYN against a flow that only
    /// opens.
    pub(super) fn answers(&self, flow: &Flow) -> bool {
        self.kind == Kind::Start && self.key.protocol == TCP && flow.stage == Stage::Opening
    }
}

/// What policy is asked about a flow that this direction starts.
pub(super) fn wanted(initiator: Direction, key: &Key) -> Wanted {
    let port = match initiator {
        Direction::Ingress => key.pod_port,
        Direction::Egress => key.peer_port,
    };
    match key.protocol {
        TCP => Wanted::Port(Protocol::Tcp, port),
        UDP => Wanted::Port(Protocol::Udp, port),
        SCTP => Wanted::Port(Protocol::Sctp, port),
        _ => Wanted::Portless,
    }
}

//! Flows, as `docs/packet-path.md` ("Flows") says. Neither time nor the number of flows plays a part here: a sequence
//! is over in a moment, and has few flows.

use std::collections::HashMap;
use std::net::IpAddr;

use postern_policy::model::Direction;

use super::packet::{Flags, TCP};
use super::verdict::Answer;

/// So many packets that nobody answers are a stream, other than in TCP.
const STREAM: usize = 8;

/// What tells flows of a veth apart. The family shows in the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::fuzz) struct Key {
    pub(in crate::fuzz) pod: IpAddr,
    pub(in crate::fuzz) peer: IpAddr,
    pub(in crate::fuzz) protocol: u8,
    pub(in crate::fuzz) pod_port: u16,
    pub(in crate::fuzz) peer_port: u16,
}

/// How far a flow got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first side alone was heard.
    Opening,
    /// Both were.
    Answered,
    /// Both were, and one more packet.
    Established,
    /// TCP: a RST, or a FIN of both sides.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) initiator: Direction,
    pub(super) stage: Stage,
    /// The policy generation that it was last judged under.
    pub(super) generation: u32,
    pub(super) denied: bool,
    /// Whether the other side has an address of the pod's own node.
    pub(super) node: bool,
    /// Whether it goes to a Service or to the node, and may end elsewhere.
    pub(super) service: bool,
    /// Whether a process of that node started it, by no other right.
    pub(super) from_node: bool,
    /// Which directions sent a FIN.
    finished: [bool; 2],
    /// Packets of the first side before anybody answered.
    unanswered: usize,
}

impl Flow {
    /// Whether `--established=keep` keeps it as it is. Of what a pod started it is to be found out whether its address is a Service's.
    pub(super) fn is_kept(&self) -> bool {
        self.initiator == Direction::Ingress || self.service
    }
}

/// All flows with the same addresses and ports: one half-open for either side that started it, and one established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) half_open: [Option<Flow>; 2],
    pub(super) established: Option<Flow>,
}

/// Where a flow of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    HalfOpen(Direction),
    Established,
}

impl Entry {
    /// Where flows can be, in the order in which a packet of this direction looks. Whatever is half-open beside an
    /// established flow is older: a flow that starts later has it forgotten.
    pub(super) fn places(direction: Direction) -> [Place; 3] {
        [Place::Established, Place::HalfOpen(other(direction)), Place::HalfOpen(direction)]
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut Option<Flow> {
        match place {
            Place::HalfOpen(initiator) => &mut self.half_open[index(initiator)],
            Place::Established => &mut self.established,
        }
    }

    /// A packet that policy allows opens a flow, or goes on with the half-open one that its side started; a SYN begins
    /// it anew. What was established before is forgotten.
    pub(super) fn start(
        &mut self,
        initiator: Direction,
        generation: u32,
        protocol: u8,
        flags: Flags,
        answer: Answer,
    ) {
        let Answer { node, service, from_node, .. } = answer;
        let place = Place::HalfOpen(initiator);
        let flow = self.get_mut(place);
        if let Some(flow) = flow.as_mut().filter(|_| !flags.syn) {
            (flow.generation, flow.denied) = (generation, false);
            (flow.node, flow.service, flow.from_node) = (node, service, from_node);
        } else {
            *flow = Some(Flow {
                initiator,
                stage: Stage::Opening,
                generation,
                denied: false,
                node,
                service,
                from_node,
                finished: [false; 2],
                unanswered: 0,
            });
        }
        self.established = None;
        self.advance(place, initiator, protocol, flags);
    }

    /// A packet of an allowed flow passes.
    pub(super) fn advance(&mut self, place: Place, direction: Direction, protocol: u8, flags: Flags) {
        let Some(mut flow) = *self.get_mut(place) else { return };
        flow.finished[index(direction)] |= flags.fin;
        if direction == flow.initiator {
            flow.unanswered += 1;
        }
        flow.stage = match flow.stage {
            Stage::Opening if protocol != TCP && flow.unanswered >= STREAM => Stage::Established,
            Stage::Opening if direction != flow.initiator => Stage::Answered,
            Stage::Answered if protocol != TCP || direction == flow.initiator => Stage::Established,
            stage => stage,
        };
        if matches!(flow.stage, Stage::Established | Stage::Closing) {
            if flags.rst || flow.finished == [true; 2] {
                flow.stage = Stage::Closing;
            }
            *self.get_mut(place) = None;
            self.established = Some(flow);
        } else {
            *self.get_mut(place) = Some(flow);
        }
    }
}

/// Flows of one veth.
pub(super) type Flows = HashMap<Key, Entry>;

pub(super) fn index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

pub(super) fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}

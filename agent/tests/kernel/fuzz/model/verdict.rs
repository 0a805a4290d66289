//! What policy, Services and the node's own addresses say of what one side starts (9), and what they say of a flow that it started.

use std::net::IpAddr;

use postern_common::reason::Reason;
use postern_policy::model::Direction;

use super::flows::{Flow, Key};
use crate::fuzz::sequence::Veth;
use crate::fuzz::world::{self, Policy, Services, TOGETHER, Wanted};

/// How the packet at hand came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) direction: Direction,
    /// What an isolated pod sends to somebody else than its node, by the MAC address.
    pub(super) astray: bool,
    /// What the pod gets, by another interface.
    pub(super) forwarded: bool,
}

impl Arrival {
    /// Whether a packet is none of a flow's, though its addresses and ports are: the pod sends it to somebody else than its node, and the
    /// flow is with that or with a Service; or it comes from elsewhere, and a process of the node started the flow.
    pub(super) fn leaves(&self, flow: &Flow) -> bool {
        self.astray && (flow.node || flow.service) || self.forwarded && flow.from_node
    }

    /// Whether it goes to the node, or comes from there.
    pub(super) fn is_by_node(&self) -> bool {
        !self.astray && !self.forwarded
    }
}

/// What is asked: who starts what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) initiator: Direction,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    pub(super) peer_port: u16,
    pub(super) wanted: Wanted,
}

/// What is said to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) reason: Reason,
    /// Whether the other side has an address of the pod's own node.
    pub(super) node: bool,
    /// Whether it goes where a packet may end elsewhere: to a Service, or to the node.
    pub(super) service: bool,
    /// Whether it comes from a process of that node, and passes by that alone.
    pub(super) from_node: bool,
    /// Whether it opens no flow.
    pub(super) flowless: bool,
}

impl Question {
    /// Of a flow that this side started.
    pub(super) fn of(initiator: Direction, key: &Key) -> Self {
        let wanted = super::turn::wanted(initiator, key);
        Self { initiator, peer: key.peer, protocol: key.protocol, peer_port: key.peer_port, wanted }
    }
}

/// Asks about a veth, while there is this Service.
pub(super) fn ask(veth: Veth, services: Services, question: Question, arrival: Arrival) -> Answer {
    let Question { initiator, peer, protocol, peer_port, wanted } = question;
    let policy = veth.policy;
    let isolates = policy.isolates(initiator);
    let mut answer = Answer {
        reason: Reason::NotIsolated,
        node: false,
        service: false,
        from_node: false,
        flowless: false,
    };
    let sends = initiator == Direction::Egress;
    let is_tunnel = world::is_tunnel(peer, protocol, peer_port);
    if !sends && !isolates {
        // Policy is not asked, and so knows of no node.
        (answer.node, answer.flowless) = (is_tunnel && world::is_node(peer), is_tunnel);
        return answer;
    }
    let services = if sends && world::is_frontend(peer, wanted) { services } else { Services::None };
    let behind_nat = services == Services::BehindNat;
    answer.node = world::is_node(peer);
    let is_node = answer.node
        && if sends {
            !arrival.astray
        } else {
            // What the pod sends does not tell who sent what it gets.
            arrival.direction == Direction::Egress || !arrival.forwarded
        };
    answer.service = sends && !arrival.astray && (is_node || behind_nat);
    answer.flowless = sends && arrival.astray && (answer.node || behind_nat);
    if is_tunnel {
        // What comes from where a tunnel ends may not be answered.
        answer.flowless = true;
        if sends {
            answer.reason = Reason::Tunnel;
            return answer;
        }
    }
    let allows = || match services {
        Services::Together => policy.allows(initiator, TOGETHER, wanted),
        _ => policy.allows(initiator, peer, wanted),
    };
    answer.reason = if !isolates {
        Reason::NotIsolated
    } else if is_node {
        Reason::Node
    } else if policy == Policy::Quarantine {
        Reason::Quarantined
    } else if behind_nat {
        if arrival.astray { Reason::DeniedByPolicy } else { Reason::Service }
    } else if allows() {
        Reason::AllowedByPolicy
    } else {
        Reason::DeniedByPolicy
    };
    answer.from_node = answer.reason == Reason::Node && !sends && arrival.direction == Direction::Ingress;
    answer
}

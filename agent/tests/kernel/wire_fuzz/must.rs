//! What must arrive: what every rule allows, and nothing on the way loses. Without this, a node that drops everything would do.

use super::link;
use super::model::{Key, Model, is_frontend, is_to_node};
use super::node::BACKENDS;
use super::read::{Content, Frame};
use super::shape::{ACK, Load, SYN, Shape, TCP, UDP};
use super::world::{BACKEND_PORT, BRIDGED, Mac, NODE_PORT, PODS, Place, SERVICE_PORT, VXLAN_PORT, Who};

impl Model {
    /// Where a frame must arrive, since every rule allows it.
    pub(super) fn must_arrive(&self, shape: &Shape, frame: &Frame<'_>) -> Vec<Place> {
        if shape.vlan.is_some() {
            return Vec::new();
        }
        if is_link_for_all(shape, frame) {
            return BRIDGED.into_iter().filter(|place| *place != shape.from).collect();
        }
        let Content::Ip(packet) = &frame.content else { return Vec::new() };
        let starts = match &shape.load {
            Load::Udp { .. } | Load::Echo { request: true, .. } => true,
            Load::Portless(protocol) => !matches!(protocol, 4 | 41 | 137),
            Load::Tcp { flags, .. } => flags & (SYN | ACK) == SYN,
            _ => false,
        };
        let from = if shape.from == Place::Node { Who::Of(Place::Node) } else { Who::Of(shape.from) };
        let is_own = shape.source == from
            || shape.from == Place::Outside && matches!(shape.source, Who::Remote | Who::Block);
        // Of an address that the agent takes for something else than it is, anything may be said.
        if !starts || !is_own || self.is_late && is_frontend(packet) {
            return Vec::new();
        }
        let is_translated = self.setting.service.is_some() && is_frontend(packet);
        let (source_port, asked) = packet.ports();
        if source_port == BACKEND_PORT {
            // conntrack may take it for an answer to what was dropped further on.
            return Vec::new();
        }
        let tuple = (packet.protocol, packet.source, source_port, packet.destination, asked);
        let before = self.translated.get(&tuple).copied();
        let (who, port) = if is_translated {
            let service = self.setting.service;
            let is_same =
                before.is_none_or(|before| before == service) && (packet.protocol == UDP || before.is_none());
            let Some(which) = service.filter(|_| is_same && matches!(packet.protocol, TCP | UDP)) else {
                return Vec::new();
            };
            (BACKENDS[which], BACKEND_PORT)
        } else if before.is_some_and(|before| before.is_some()) {
            // conntrack still translates it.
            return Vec::new();
        } else {
            (shape.destination, asked)
        };
        let Some(place) = place_of(who) else { return Vec::new() };
        let to_node = is_to_node(shape);
        if place == shape.from {
            // It comes back, in the node's name.
            return if is_translated && to_node { vec![place] } else { Vec::new() };
        }
        let direct =
            shape.from.is_bridged() && place.is_bridged() && shape.to_mac == Mac::Of(place) && !is_translated;
        if !direct && !to_node {
            return Vec::new();
        }
        let (out, into) = (self.policy(shape.from), self.policy(place));
        let address = who.address(shape.v6);
        if place == Place::Node {
            let is_seen = packet.protocol == UDP && asked != VXLAN_PORT;
            return if is_seen { vec![place] } else { Vec::new() };
        }
        let is_allowed = out.lets_out(self.setting.good, address, packet.protocol, port)
            && (shape.from == Place::Node
                || into.lets_in(self.setting.good, packet.source, packet.protocol, port));
        if is_allowed { vec![place] } else { Vec::new() }
    }

    /// An answer to what just arrived must arrive too, at the sender, where nothing has changed since.
    pub(super) fn must_answer(&self, shape: &Shape, frame: &Frame<'_>) -> Option<Place> {
        let Content::Ip(packet) = &frame.content else { return None };
        if shape.vlan.is_some()
            || self.is_late
            || !matches!(shape.load, Load::Udp { .. })
            || shape.source != Who::Of(shape.from)
        {
            return None;
        }
        let place =
            place_of(shape.destination).filter(|place| PODS.contains(place) && *place != shape.from)?;
        let (port, peer_port) = packet.ports();
        let answered =
            Key { pod: shape.from, protocol: UDP, pod_port: port, peer: packet.destination, peer_port };
        if !self.got.contains_key(&answered) || !is_to_node(shape) {
            return None;
        }
        // It may have started this itself, and policy was another one then: until a flow is established, its side is asked about again,
        // and one that is denied is remembered as such.
        let there =
            Key { pod: place, protocol: UDP, pod_port: peer_port, peer: packet.source, peer_port: port };
        if self.sent.get(&answered).is_some_and(|sent| sent.arrived_after != self.changes)
            || self.got.get(&there).is_some_and(|first| *first != self.changes)
        {
            return None;
        }
        // As it was sent: to this very address, or to what conntrack takes it for.
        [
            (packet.source, port),
            (Who::Frontend.address(shape.v6), SERVICE_PORT),
            (Who::Uplink.address(shape.v6), NODE_PORT),
        ]
        .into_iter()
        .filter_map(|(peer, peer_port_)| {
            let key = Key { pod: place, protocol: UDP, pod_port: peer_port, peer, peer_port: peer_port_ };
            self.sent.get(&key)
        })
        .any(|sent| sent.arrived_after == self.changes && sent.arrived == Some((packet.source, port)))
        .then_some(place)
    }
}

/// Link control that a bridge floods.
fn is_link_for_all(shape: &Shape, frame: &Frame<'_>) -> bool {
    if !shape.from.is_bridged() || !link::is_link(frame, Some(false)) {
        return false;
    }
    let own = Who::Of(shape.from);
    match &shape.load {
        Load::Arp { sender, .. } => *sender == own && shape.to_mac == Mac::Broadcast,
        Load::Neighbour { kind: 135, .. } => shape.source == own && shape.to_mac == Mac::AllNodes,
        Load::Neighbour { kind: 136, target, .. } => {
            shape.source == own && shape.to_mac == Mac::AllNodes && *target == own
        }
        _ => false,
    }
}

/// Where an address is.
fn place_of(who: Who) -> Option<Place> {
    match who {
        Who::Of(place) => Some(place),
        Who::Uplink => Some(Place::Node),
        Who::Remote | Who::Frontend | Who::Block | Who::Stranger => Some(Place::Outside),
        _ => None,
    }
}

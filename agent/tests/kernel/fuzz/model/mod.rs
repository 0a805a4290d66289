//! An independent model of the packet path: frames flow in, the reason for which each passes or is dropped flows out.
//!
//! Written from `docs/packet-path.md`, not from the programs: what both share is the specification and the names of
//! the reasons. Plain code without any of the programs' constraints; its own tests are frames written by hand.
//!
//! What the model cannot know, and how it copes:
//!
//! - Two datagrams in fragments may share a slot, and then the later one's takes the leave of the earlier one's. The
//!   model is sure of the last one that was noted in a direction, and accepts either answer for those before it.
//! - An error about ports of a denied established flow and an allowed half-open one is to be decided by the established one;
//!   the programs do not always do so, and either answer is accepted until they do.
//! - Half-open flows that fill a row are in the way of the next one. The caller sees from [`Model::half_open`] whether the programs
//!   remember all that the model does.

mod datagrams;
mod flows;
mod icmp;
mod ipv4;
mod ipv6;
mod packet;
#[cfg(test)]
mod tests;
mod turn;

use std::net::IpAddr;

use postern_common::reason::Reason;
use postern_policy::model::Direction;

use self::datagrams::Datagrams;
pub(super) use self::flows::Key;
use self::flows::{Entry, Flow, Flows, Place, index};
use self::icmp::{Claim, Message};
use self::packet::{Content, Packet, TCP, Transport, UDP};
use self::turn::{Kind, Turn, wanted};
use super::sequence::{Shown, Veth};
use super::world::{self, NODE_MAC, Policy, Wanted};

/// A veth with its flows and datagrams.
#[derive(Clone, Debug)]
pub(super) struct Model {
    veth: Veth,
    generation: u32,
    /// `--established=recheck`
    recheck: bool,
    flows: Flows,
    /// Datagrams in fragments, by direction.
    datagrams: [Datagrams; 2],
}

/// What the programs are to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// This.
    Exactly(Reason),
    /// One of these, the first of which is far more probable: see the module head.
    Either(Reason, Reason),
}

impl Model {
    pub(super) fn new(veth: Veth, generation: u32, recheck: bool) -> Self {
        Self { veth, generation, recheck, flows: Flows::new(), datagrams: Default::default() }
    }

    /// The veth is flipped.
    pub(super) fn flip(&mut self, veth: Veth) {
        self.veth = veth;
    }

    /// How the pod is isolated now.
    pub(super) fn policy(&self) -> Policy {
        self.veth.policy
    }

    /// The policy generation goes up.
    pub(super) fn advance(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Half-open flows, and who started each.
    pub(super) fn half_open(&self) -> impl Iterator<Item = (&Key, Direction)> {
        let both = [Direction::Ingress, Direction::Egress];
        self.flows.iter().flat_map(move |(key, entry)| {
            both.into_iter()
                .filter(|direction| entry.half_open[index(*direction)].is_some())
                .map(move |direction| (key, direction))
        })
    }

    /// Judges a frame.
    pub(super) fn judge(&mut self, shown: &Shown) -> Expected {
        let direction = shown.direction;
        let content = packet::read(&shown.bytes, shown.gso);
        let to_node = packet::destination(&shown.bytes) == Some(NODE_MAC);
        let astray = direction == Direction::Egress && self.veth.policy.isolates(direction) && !to_node;
        if self.veth.policy == Policy::Bare && direction == Direction::Egress {
            return Expected::Exactly(guard(&shown.bytes, content));
        }
        if let Ok(Content::Ip(packet)) = &content
            && self.passes_as_established(direction, packet, astray)
        {
            return Expected::Exactly(Reason::Established);
        }
        match self.veth.policy {
            Policy::Missing => return Expected::Exactly(Reason::NoEndpoint),
            Policy::Open | Policy::Bare => return Expected::Exactly(Reason::NotIsolated),
            _ => {}
        }
        let content = match content {
            Ok(content) => content,
            Err(Reason::UnknownEtherType) if self.veth.policy == Policy::Quarantine => {
                return Expected::Exactly(Reason::Quarantined);
            }
            Err(reason) => return Expected::Exactly(reason),
        };
        if self.is_checked(direction) && is_spoofed(&content) {
            return Expected::Exactly(Reason::Spoofed);
        }
        let Content::Ip(packet) = content else { return Expected::Exactly(Reason::Link) };
        if packet.transport == Transport::Later {
            return self.datagrams[index(direction)].follow(&packet, astray);
        }
        if icmp::is_link(&packet) && !(direction == Direction::Egress && leaves_link(&packet, to_node)) {
            return Expected::Exactly(Reason::Link);
        }
        let reason = self.judge_new(direction, &packet, astray);
        let first_to_node = direction == Direction::Egress && !astray;
        self.datagrams[index(direction)].note(&packet, reason, first_to_node);
        Expected::Exactly(reason)
    }

    fn is_checked(&self, direction: Direction) -> bool {
        direction == Direction::Egress && self.veth.guarded
    }

    /// Step 1.
    fn passes_as_established(&mut self, direction: Direction, packet: &Packet<'_>, astray: bool) -> bool {
        if packet.fragment.is_some() {
            return false;
        }
        let Some(turn) = Turn::of(direction, packet) else { return false };
        if turn.kind == Kind::Start && turn.key.protocol == TCP {
            return false;
        }
        let (generation, recheck) = (self.generation, self.recheck);
        // Without an endpoint, nobody knows to whom a frame is addressed.
        let may_be_astray = astray || direction == Direction::Egress && self.veth.policy == Policy::Missing;
        let Some(entry) = self.flows.get_mut(&turn.key) else { return false };
        let passes = entry
            .established
            .filter(|flow| turn.belongs(direction, Place::Established, flow))
            .is_some_and(|flow| {
                !flow.denied && (!recheck || flow.generation == generation) && !(flow.node && may_be_astray)
            });
        if passes {
            entry.advance(Place::Established, direction, turn.key.protocol, turn.flags);
        }
        passes
    }

    /// Steps 7 to 9.
    fn judge_new(&mut self, direction: Direction, packet: &Packet<'_>, astray: bool) -> Reason {
        let peer = peer(direction, packet);
        let Some(turn) = Turn::of(direction, packet) else {
            return if self.is_related(direction, packet, astray) {
                Reason::Related
            } else if direction == Direction::Egress && world::is_tunnel(peer, packet.protocol, None) {
                Reason::Tunnel
            } else {
                self.ask(direction, peer, Wanted::Portless, astray)
            };
        };
        if let Some(reason) = self.follow_flow(direction, turn, astray) {
            return reason;
        }
        let reason = self.ask_about(direction, &turn.key, astray);
        if turn.kind == Kind::Answer {
            return refused(reason);
        }
        if reason == Reason::DeniedByPolicy && self.opens_simultaneously(direction, turn) {
            return Reason::Established;
        }
        let for_pod = direction == Direction::Egress || !self.veth.guarded || is_own(packet.destination);
        let opens = for_pod && !(astray && world::is_node(peer)) && !is_of_tunnel(&turn.key);
        if !reason.drops() && opens && !turn.flags.rst {
            let generation = self.generation;
            let node = self.is_with_node(direction, &turn.key);
            self.flows.entry(turn.key).or_default().start(
                direction,
                (generation, node),
                turn.key.protocol,
                turn.flags,
            );
        }
        reason
    }

    /// Step 7: what a packet's flow says; nothing where it has none.
    fn follow_flow(&mut self, direction: Direction, turn: Turn, astray: bool) -> Option<Reason> {
        let mut entry = *self.flows.get(&turn.key)?;
        let mut denied = false;
        let mut allowed = None;
        for place in Entry::places(direction) {
            let Some(flow) =
                entry.get_mut(place).as_mut().filter(|flow| turn.belongs(direction, place, flow))
            else {
                continue;
            };
            let is_allowed = !(astray && flow.node) && self.judge_again(direction, &turn.key, flow);
            if astray && flow.node {
                // It is none of the flow's.
                continue;
            }
            if is_allowed {
                allowed = Some(place);
                break;
            }
            denied = true;
            if place == Place::Established {
                break;
            }
        }
        if let Some(place) = allowed {
            entry.advance(place, direction, turn.key.protocol, turn.flags);
        }
        self.flows.insert(turn.key, entry);
        match (allowed, denied) {
            (Some(_), _) => Some(Reason::Established),
            (None, true) => {
                let reason = self.ask_about(direction, &turn.key, astray);
                let never_starts = matches!(turn.kind, Kind::Answer | Kind::Middle);
                Some(if never_starts { refused(reason) } else { reason })
            }
            (None, false) => None,
        }
    }

    /// Whether both sides start a connection at once, and this is the other one's SYN.
    fn opens_simultaneously(&mut self, direction: Direction, turn: Turn) -> bool {
        let (generation, recheck) = (self.generation, self.recheck);
        let Some(entry) = self.flows.get_mut(&turn.key) else { return false };
        let place = Place::HalfOpen(flows::other(direction));
        let passes = entry.get_mut(place).is_some_and(|flow| {
            turn.answers(&flow) && !flow.denied && (!recheck || flow.generation == generation)
        });
        if passes {
            entry.advance(place, direction, turn.key.protocol, turn.flags);
        }
        passes
    }

    /// Step 8. The flow that an error is about is judged again where need be, and goes on as it was.
    fn is_related(&mut self, direction: Direction, packet: &Packet<'_>, astray: bool) -> bool {
        let Transport::Icmp { v6, bytes } = packet.transport else { return false };
        if packet.fragment.is_some() {
            return false;
        }
        let Message::Error(about) = icmp::message(v6, bytes) else { return false };
        let Some(quoted) =
            icmp::quoted(packet.source.is_ipv6(), about).filter(|quoted| quoted.source == packet.destination)
        else {
            return false;
        };
        let (source, destination) =
            ((quoted.source, quoted.source_port), (quoted.destination, quoted.destination_port));
        // The quoted packet went the other way.
        let (pod, peer) = match direction {
            Direction::Ingress => (source, destination),
            Direction::Egress => (destination, source),
        };
        let key =
            Key { pod: pod.0, peer: peer.0, protocol: quoted.protocol, pod_port: pod.1, peer_port: peer.1 };
        let Some(mut entry) = self.flows.get(&key).copied() else { return false };
        let mut allowed = false;
        for place in Entry::places(direction) {
            let Some(flow) = entry.get_mut(place) else { continue };
            let is_allowed = !(astray && flow.node) && self.judge_again(direction, &key, flow);
            if astray && flow.node {
                continue;
            }
            allowed = is_allowed;
            if allowed || place == Place::Established {
                break;
            }
        }
        self.flows.insert(key, entry);
        allowed
    }

    /// Judges a flow again that is denied, or of an older generation, at a packet of this direction. Whether it is allowed.
    fn judge_again(&self, direction: Direction, key: &Key, flow: &mut Flow) -> bool {
        let is_older = self.recheck && flow.generation != self.generation;
        if !flow.denied && !is_older {
            return true;
        }
        let own = (!self.veth.guarded || is_own(key.pod))
            && !(flow.initiator == Direction::Ingress && is_of_tunnel(key));
        let reason = self.ask_about(flow.initiator, key, false);
        flow.node = self.is_with_node(flow.initiator, key);
        let of_node = reason == Reason::Node && flow.initiator == Direction::Ingress;
        if own && of_node && (flow.denied || direction == Direction::Egress) {
            // That does not tell who started it.
            return false;
        }
        flow.denied = !own || reason.drops();
        flow.generation = self.generation;
        !flow.denied
    }

    /// Whether a flow that this direction starts is marked as one with the node.
    fn is_with_node(&self, initiator: Direction, key: &Key) -> bool {
        let is_asked = initiator == Direction::Egress || self.veth.policy.isolates(initiator);
        world::is_node(key.peer) && (is_asked || is_of_tunnel(key))
    }

    /// Step 9, of what this direction starts.
    fn ask_about(&self, direction: Direction, key: &Key, astray: bool) -> Reason {
        if direction == Direction::Egress && is_of_tunnel(key) {
            return Reason::Tunnel;
        }
        self.ask(direction, key.peer, wanted(direction, key), astray)
    }

    /// Step 9.
    fn ask(&self, direction: Direction, peer: IpAddr, wanted: Wanted, astray: bool) -> Reason {
        let policy = self.veth.policy;
        if !policy.isolates(direction) {
            Reason::NotIsolated
        } else if world::is_node(peer) && !astray {
            Reason::Node
        } else if policy == Policy::Quarantine {
            Reason::Quarantined
        } else if policy.allows(direction, peer, wanted) {
            Reason::AllowedByPolicy
        } else {
            Reason::DeniedByPolicy
        }
    }
}

/// Whether a flow's other side is where a tunnel of the node ends.
fn is_of_tunnel(key: &Key) -> bool {
    world::is_tunnel(key.peer, key.protocol, Some(key.peer_port))
}

/// Whether a packet goes into a tunnel of the node.
fn is_into_tunnel(packet: &Packet<'_>) -> bool {
    let port = match packet.transport {
        Transport::Ports { protocol: UDP, destination, .. } => Some(destination),
        _ => None,
    };
    world::is_tunnel(packet.destination, packet.protocol, port)
}

/// Whether the node, to which it is addressed, would send on what a pod tells the link.
fn leaves_link(packet: &Packet<'_>, to_node: bool) -> bool {
    let IpAddr::V6(destination) = packet.destination else { return false };
    let is_on_link = destination.is_multicast() || icmp::is_link_local(destination);
    !is_on_link && to_node && !world::is_node(packet.destination)
}

/// What policy says of a packet that must not start anything.
fn refused(reason: Reason) -> Reason {
    if reason == Reason::AllowedByPolicy { Reason::DeniedByPolicy } else { reason }
}

fn peer(direction: Direction, packet: &Packet<'_>) -> IpAddr {
    match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    }
}

/// What the program does that only checks sources, on veths whose pods' are to be checked: what it cannot read passes.
fn guard(frame: &[u8], content: Result<Content<'_>, Reason>) -> Reason {
    let spoofed = match content {
        Ok(content) if is_spoofed(&content) => true,
        Ok(Content::Ip(packet)) if is_into_tunnel(&packet) => return Reason::Tunnel,
        Ok(_) => false,
        Err(Reason::Malformed) if packet::is_of_no_family(frame) => return Reason::Malformed,
        Err(_) => packet::source(frame).is_some_and(|source| !is_own(source)),
    };
    if spoofed { Reason::Spoofed } else { Reason::NotIsolated }
}

/// Step 4.
fn is_spoofed(content: &Content<'_>) -> bool {
    let packet = match content {
        Content::Arp { sender } => return !world::is_pod((*sender).into()) && !sender.is_unspecified(),
        Content::Ip(packet) => packet,
    };
    let claims_too_much = match icmp::claim(packet) {
        Some(Claim::Routing) => true,
        Some(Claim::Address(target)) => {
            !target.is_some_and(|target| world::is_pod(target.into()) || icmp::is_link_local(target))
        }
        None => false,
    };
    !is_own(packet.source) || claims_too_much
}

/// Whether the pod may send from an address.
fn is_own(address: IpAddr) -> bool {
    world::is_pod(address)
        || address.is_unspecified()
        || matches!(address, IpAddr::V6(address) if icmp::is_link_local(address))
}

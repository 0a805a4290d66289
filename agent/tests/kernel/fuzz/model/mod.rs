//! An independent model of the packet path: frames flow in, the reason for which each passes or is dropped flows out.
//!
//! Written from `docs/packet-path.md`, not from the programs: what both share is the specification and the names of
//! the reasons. Plain code without any of the programs' constraints; its own tests are frames written by hand.
//!
//! What the model cannot know, and how it copes:
//!
//! - Two datagrams in fragments may share a slot, and then the later one's takes the leave of the earlier one's. The
//!   model is sure of the last one that was noted in a direction, and accepts either answer for those before it.
//! - What a packet to a Service becomes behind NAT is not shown: nothing is known of any backend.
//! - An error about ports of a denied established flow and an allowed half-open one is to be decided by the established one;
//!   the programs do not always do so, and either answer is accepted until they do.
//! - Half-open flows that fill a row are in the way of the next one. The caller sees from [`Model::half_open`] whether the programs
//!   remember all that the model does.

mod datagrams;
mod flows;
mod icmp;
mod ipv4;
mod ipv6;
#[cfg(test)]
mod node_tests;
mod packet;
#[cfg(test)]
mod tests;
mod turn;
mod verdict;

use std::net::IpAddr;

use postern_common::reason::Reason;
use postern_policy::model::Direction;

use self::datagrams::Datagrams;
pub(super) use self::flows::Key;
use self::flows::{Entry, Flow, Flows, Place, index};
use self::icmp::{Claim, Message};
use self::packet::{Content, Packet, TCP, Transport};
use self::turn::{Kind, Turn};
use self::verdict::{Answer, Arrival, Question, ask};
use super::sequence::{Sequence, Shown, Veth};
use super::world::{self, BRIDGE_MAC, Policy, Services, VETH_MAC, Wanted};

/// A veth with its flows and datagrams.
#[derive(Clone, Debug)]
pub(super) struct Model {
    veth: Veth,
    services: Services,
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
    /// At the beginning of a sequence.
    pub(super) fn new(sequence: &Sequence, generation: u32, recheck: bool) -> Self {
        let Sequence { veth, services, .. } = *sequence;
        Self { veth, services, generation, recheck, flows: Flows::new(), datagrams: Default::default() }
    }

    /// The Service comes, goes, or is another one.
    pub(super) fn serve(&mut self, services: Services) {
        self.services = services;
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
        if self.veth.policy == Policy::Bare && direction == Direction::Egress {
            return Expected::Exactly(guard(&shown.bytes, content));
        }
        let arrival = self.arrival(shown);
        if let Ok(Content::Ip(packet)) = &content
            && self.passes_as_established(arrival, packet)
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
        if icmp::is_link(&packet) && !self.leaves_link(shown, &packet) {
            return Expected::Exactly(Reason::Link);
        }
        if packet.transport == Transport::Later {
            return self.datagrams[index(direction)].follow(&packet, arrival.is_by_node());
        }
        let reason = self.judge_new(arrival, &packet);
        self.datagrams[index(direction)].note(&packet, reason, arrival.is_by_node());
        Expected::Exactly(reason)
    }

    /// How a frame came: whom it is addressed to counts for what an isolated pod sends.
    fn arrival(&self, shown: &Shown) -> Arrival {
        let direction = shown.direction;
        let sends = direction == Direction::Egress;
        let policy = self.veth.policy;
        let is_asked = policy == Policy::Missing || policy.isolates(direction);
        let astray = sends && is_asked && !self.is_to_node(shown);
        Arrival { direction, astray, forwarded: !sends && shown.forwarded }
    }

    /// Whether a frame is addressed to the node: to the veth, or to the bridge that it is a port of. Without an endpoint, nobody knows
    /// of any.
    fn is_to_node(&self, shown: &Shown) -> bool {
        let mac = &shown.bytes[..6];
        mac == VETH_MAC || self.veth.bridged && self.veth.policy != Policy::Missing && mac == BRIDGE_MAC
    }

    /// Whether the node would send on what a pod sends to the link: to an address that is neither the node's nor the link's.
    fn leaves_link(&self, shown: &Shown, packet: &Packet<'_>) -> bool {
        let IpAddr::V6(destination) = packet.destination else { return false };
        let is_on_link = destination.is_multicast() || icmp::is_link_local(destination);
        shown.direction == Direction::Egress
            && !is_on_link
            && !world::is_node(packet.destination)
            && self.is_to_node(shown)
    }

    fn is_checked(&self, direction: Direction) -> bool {
        direction == Direction::Egress && self.veth.guarded
    }

    /// Step 1.
    fn passes_as_established(&mut self, arrival: Arrival, packet: &Packet<'_>) -> bool {
        let direction = arrival.direction;
        if packet.fragment.is_some() {
            return false;
        }
        let Some(turn) = Turn::of(direction, packet) else { return false };
        if turn.kind == Kind::Start && turn.key.protocol == TCP {
            return false;
        }
        let (generation, recheck) = (self.generation, self.recheck);
        let Some(entry) = self.flows.get_mut(&turn.key) else { return false };
        let passes =
            entry.established.filter(|flow| turn.belongs(arrival, Place::Established, flow)).is_some_and(
                |flow| !flow.denied && (flow.generation == generation || !recheck && flow.is_kept()),
            );
        if passes {
            entry.advance(Place::Established, direction, turn.key.protocol, turn.flags);
        }
        passes
    }

    /// Steps 7 to 9.
    fn judge_new(&mut self, arrival: Arrival, packet: &Packet<'_>) -> Reason {
        let direction = arrival.direction;
        let Some(turn) = Turn::of(direction, packet) else {
            return if self.is_related(arrival, packet) {
                Reason::Related
            } else {
                let (peer, protocol) = (peer(direction, packet), packet.protocol);
                let question =
                    Question { initiator: direction, peer, protocol, peer_port: 0, wanted: Wanted::Portless };
                self.ask(question, arrival).reason
            };
        };
        if let Some(reason) = self.follow_flow(arrival, turn) {
            return reason;
        }
        let answer = self.ask(Question::of(direction, &turn.key), arrival);
        if turn.kind == Kind::Answer {
            return refused(answer.reason);
        }
        if answer.reason == Reason::DeniedByPolicy && self.opens_simultaneously(arrival, turn) {
            return Reason::Established;
        }
        let for_pod = direction == Direction::Egress || !self.veth.guarded || is_own(packet.destination);
        if !answer.reason.drops() && for_pod && !turn.flags.rst && !answer.flowless {
            let generation = self.generation;
            let entry = self.flows.entry(turn.key).or_default();
            entry.start(direction, generation, turn.key.protocol, turn.flags, answer);
        }
        answer.reason
    }

    /// Step 7: what a packet's flow says; nothing where it has none.
    fn follow_flow(&mut self, arrival: Arrival, turn: Turn) -> Option<Reason> {
        let direction = arrival.direction;
        let mut entry = *self.flows.get(&turn.key)?;
        let mut denied = false;
        let mut allowed = None;
        for place in Entry::places(direction) {
            let Some(flow) = entry.get_mut(place).as_mut().filter(|flow| turn.belongs(arrival, place, flow))
            else {
                continue;
            };
            let is_allowed = self.judge_again(arrival, &turn.key, flow);
            if arrival.leaves(flow) {
                // As it turned out just now.
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
                let reason = self.ask(Question::of(direction, &turn.key), arrival).reason;
                let never_starts = matches!(turn.kind, Kind::Answer | Kind::Middle);
                Some(if never_starts { refused(reason) } else { reason })
            }
            (None, false) => None,
        }
    }

    /// Whether both sides start a connection at once, and this is the other one's SYN.
    fn opens_simultaneously(&mut self, arrival: Arrival, turn: Turn) -> bool {
        let direction = arrival.direction;
        let (generation, recheck) = (self.generation, self.recheck);
        let Some(entry) = self.flows.get_mut(&turn.key) else { return false };
        let place = Place::HalfOpen(flows::other(direction));
        let passes = entry.get_mut(place).is_some_and(|flow| {
            turn.answers(&flow)
                && !arrival.leaves(&flow)
                && !flow.denied
                && (flow.generation == generation || !recheck && flow.is_kept())
        });
        if passes {
            entry.advance(place, direction, turn.key.protocol, turn.flags);
        }
        passes
    }

    /// Step 8. The flow that an error is about is judged again where need be, and goes on as it was.
    fn is_related(&mut self, arrival: Arrival, packet: &Packet<'_>) -> bool {
        let direction = arrival.direction;
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
            let Some(flow) = entry.get_mut(place).as_mut().filter(|flow| !arrival.leaves(flow)) else {
                continue;
            };
            allowed = self.judge_again(arrival, &key, flow) && !arrival.leaves(flow);
            if allowed || place == Place::Established {
                break;
            }
        }
        self.flows.insert(key, entry);
        allowed
    }

    /// Judges a flow again that is denied, or of an older generation, at a packet that arrives. Whether it is allowed.
    fn judge_again(&self, arrival: Arrival, key: &Key, flow: &mut Flow) -> bool {
        let question = Question::of(flow.initiator, key);
        let outgoing = flow.initiator == Direction::Egress;
        if !flow.denied {
            if flow.generation == self.generation || !self.recheck && flow.is_kept() {
                return true;
            }
            if !self.recheck {
                // It is kept, and learns that its address is a Service's by now.
                flow.service |= outgoing && self.is_behind_nat(question);
                flow.generation = self.generation;
                return true;
            }
        }
        // An answer from an address that was no Service's so far is judged by the address: the pod's next packet tells.
        let answers = outgoing && arrival.direction == Direction::Ingress && !flow.service && !flow.denied;
        let resolved = answers && self.is_behind_nat(question);
        let services = if resolved { Services::None } else { self.services };
        let answer = ask(self.veth, services, question, arrival);
        let is_ours = !self.veth.guarded || is_own(key.pod);
        let is_unanswerable = flow.initiator == Direction::Ingress && answer.flowless;
        if !resolved {
            flow.node = answer.node;
        }
        let own = is_ours && !is_unanswerable;
        if answers && (resolved || answer.service) && own && !answer.reason.drops() {
            return true;
        }
        if outgoing && !answers {
            // Once a Service's, always: conntrack may go on translating.
            flow.service |= answer.service;
        }
        let reason = answer.reason;
        if own && flow.service {
            // Nobody knows where it went: what the node sends itself came from there, and what the pod sends is judged elsewhere.
            let is_unknown = reason == Reason::Service;
            let is_nodes = arrival.direction == Direction::Ingress && !arrival.forwarded;
            if !reason.drops() && (!is_unknown || is_nodes) {
                (flow.generation, flow.denied) = (self.generation, false);
                return true;
            }
            return arrival.direction == Direction::Egress && is_unknown;
        }
        let of_node = reason == Reason::Node && flow.initiator == Direction::Ingress;
        if own && of_node && (flow.denied || arrival.direction == Direction::Egress) {
            // That does not tell who started it.
            return false;
        }
        flow.denied = !own || reason.drops();
        flow.from_node = answer.from_node;
        flow.generation = self.generation;
        !flow.denied
    }

    /// Whether what is asked about goes to a Service whose backend is judged behind NAT.
    fn is_behind_nat(&self, question: Question) -> bool {
        self.services == Services::BehindNat && world::is_frontend(question.peer, question.wanted)
    }

    /// Step 9.
    fn ask(&self, question: Question, arrival: Arrival) -> Answer {
        ask(self.veth, self.services, question, arrival)
    }
}

/// What policy says of a packet that must not start anything.
fn refused(reason: Reason) -> Reason {
    match reason {
        Reason::AllowedByPolicy | Reason::Service => Reason::DeniedByPolicy,
        reason => reason,
    }
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
        Ok(Content::Ip(packet)) if !is_spoofed_packet(&packet) && is_tunnel(&packet) => {
            return Reason::Tunnel;
        }
        Ok(content) => is_spoofed(&content),
        Err(Reason::Malformed) if packet::is_of_no_family(frame) => return Reason::Malformed,
        Err(_) => packet::source(frame).is_some_and(|source| !is_own(source)),
    };
    if spoofed { Reason::Spoofed } else { Reason::NotIsolated }
}

/// Whether the pod's own node would take a packet apart.
fn is_tunnel(packet: &Packet<'_>) -> bool {
    let port = match packet.transport {
        Transport::Ports { destination, .. } => destination,
        _ => 0,
    };
    world::is_tunnel(packet.destination, packet.protocol, port)
}

/// Step 4.
fn is_spoofed(content: &Content<'_>) -> bool {
    match content {
        Content::Arp { sender } => !world::is_pod((*sender).into()) && !sender.is_unspecified(),
        Content::Ip(packet) => is_spoofed_packet(packet),
    }
}

fn is_spoofed_packet(packet: &Packet<'_>) -> bool {
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

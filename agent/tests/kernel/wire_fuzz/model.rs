//! What may arrive where.
//!
//! Written from `docs/packet-path.md` and from what Kubernetes says of NetworkPolicy, not from the programs. It looks at what a frame says
//! when it arrives, not at how it came: whatever a pod that policy isolates sends, and whatever it gets, must be allowed as it is then.
//!
//! Where the page leaves it open whether something passes, it may and need not.

use std::collections::HashMap;
use std::net::IpAddr;

use super::link;
use super::node::Setting;
use super::policy::Policy;
use super::read::{Content, Frame, Packet};
use super::shape::{ICMPV6, Load, Shape, TCP, UDP};
use super::world::{Mac, NODE_PORT, Place, SERVICE_PORT, Who, node_addresses};

/// Which rule of the page something is against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Breach {
    /// A pod sent what policy does not let out.
    Egress,
    /// ... to a Service, or as what a Service made of it.
    Service,
    /// ... in a frame for the node's address that is not addressed to the node.
    NotToNode,
    /// ... from, or for, an address that is not its own.
    Spoofed,
    /// ... that is no link control, though it looks like it.
    LinkOut,
    /// ... to what the node takes tunnels apart with, or out of a tunnel.
    Tunnel,
    /// A pod got what policy does not let in.
    Ingress,
    /// ... from the node's address, and not from the node.
    NotFromNode,
    /// ... that is no link control, though it looks like it.
    LinkIn,
    /// What every rule allows did not arrive.
    Lost,
}

/// A flow as the pod has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pod: Place,
    pub(super) protocol: u8,
    pub(super) pod_port: u16,
    pub(super) peer: IpAddr,
    pub(super) peer_port: u16,
}

/// What a pod sent last in a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Whether the node got it, by its MAC address.
    to_node: bool,
    /// Whether policy let it out to where it said, so that it opened a flow, though the bridge may have given it to nobody.
    let_out: bool,
    /// Where it came out last, and after how many changes.
    pub(super) arrived: Option<(IpAddr, u16)>,
    pub(super) arrived_after: u64,
}

pub(super) struct Model {
    pub(super) setting: Setting,
    /// Whoever chooses backends has one chosen of which the agent does not know.
    pub(super) is_late: bool,
    pub(super) tunnel: bool,
    /// What was allowed stays so.
    keep: bool,
    pub(super) changes: u64,
    pub(super) sent: HashMap<Key, Sent>,
    /// What a pod got, and after how many changes for the first time.
    pub(super) got: HashMap<Key, u64>,
    /// Packets that conntrack may know, and translate, since it forgot; and the backend that it chose, if it did.
    pub(super) translated: HashMap<(u8, IpAddr, u16, IpAddr, u16), Option<usize>>,
}

/// In place of a backend: nobody knows which, or whether there is any.
const UNKNOWN: Option<usize> = Some(usize::MAX);

impl Model {
    pub(super) fn new(setting: Setting, tunnel: bool, keep: bool) -> Self {
        Self {
            setting,
            is_late: false,
            tunnel,
            keep,
            changes: 0,
            sent: HashMap::new(),
            got: HashMap::new(),
            translated: HashMap::new(),
        }
    }

    pub(super) fn set(&mut self, setting: Setting) {
        self.setting = setting;
        self.is_late = false;
        self.changes += 1;
    }

    /// Packets to the Service are led elsewhere, and the agent does not know of it.
    pub(super) fn lead(&mut self, service: Option<usize>) {
        self.setting.service = service;
        self.is_late = true;
        self.changes += 1;
    }

    /// conntrack forgot everything.
    pub(super) fn forget(&mut self) {
        self.translated.clear();
        self.changes += 1;
    }

    /// How often anything was changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn policy(&self, place: Place) -> Policy {
        match place {
            Place::Subject => self.setting.policies[0],
            Place::Routed => self.setting.policies[1],
            _ => Policy::Open,
        }
    }

    /// A frame is about to be sent.
    pub(super) fn sends(&mut self, shape: &Shape, frame: &Frame<'_>) {
        let Content::Ip(packet) = &frame.content else { return };
        if !packet.has_flow() {
            return;
        }
        let (pod_port, peer_port) = packet.ports();
        let Packet { source, destination, protocol, .. } = *packet;
        // With the first packet of a connection, conntrack settles what becomes of both ways.
        let service = self.setting.service.filter(|_| is_frontend(packet));
        let to_node = is_to_node(shape);
        // Of what is not addressed to the node, that is not known: it may see it, and forget it again.
        let (there, back) = if to_node { (service, None) } else { (UNKNOWN, UNKNOWN) };
        self.translated.entry((protocol, source, pod_port, destination, peer_port)).or_insert(there);
        let answered =
            self.translated.entry((protocol, destination, peer_port, source, pod_port)).or_insert(back);
        if answered.is_some() {
            // What was to be translated may have been dropped: then this one begins the connection, and what is sent next is its answer.
            *answered = UNKNOWN;
        }
        if source != Who::Of(shape.from).address(source.is_ipv6()) {
            return;
        }
        let key = Key { pod: shape.from, protocol, pod_port, peer: destination, peer_port };
        let policy = self.policy(shape.from);
        let let_out = !policy.isolates_egress()
            || !is_frontend(packet) && policy.lets_out(self.setting.good, destination, protocol, peer_port);
        let new = Sent { to_node, let_out, arrived: None, arrived_after: 0 };
        let sent = self.sent.entry(key).or_insert(new);
        sent.to_node |= to_node;
        sent.let_out |= let_out;
    }

    /// A frame that was sent has arrived: whether it may.
    pub(super) fn arrives(
        &mut self,
        shape: &Shape,
        sent: &Frame<'_>,
        place: Place,
        got: &Frame<'_>,
    ) -> Result<(), Breach> {
        if place == shape.from {
            if let Content::Ip(packet) = &got.content {
                self.note(shape, sent, place, packet);
            }
            return Ok(());
        }
        self.may_leave(shape, sent, place, got)?;
        self.may_come(shape, place, got)?;
        if let Content::Ip(packet) = &got.content {
            self.note(shape, sent, place, packet);
        }
        Ok(())
    }

    fn note(&mut self, shape: &Shape, sent: &Frame<'_>, place: Place, packet: &Packet<'_>) {
        let (source_port, port) = packet.ports();
        if packet.destination == Who::Of(place).address(packet.destination.is_ipv6()) && packet.has_flow() {
            let (pod, protocol, peer, peer_port) = (place, packet.protocol, packet.source, source_port);
            let key = Key { pod, protocol, pod_port: port, peer, peer_port };
            self.got.entry(key).or_insert(self.changes);
        }
        if let Content::Ip(before) = &sent.content {
            let (pod_port, peer_port) = before.ports();
            if (before.source, before.destination) != (packet.source, packet.destination) {
                let back = (packet.protocol, packet.destination, port, packet.source, source_port);
                self.translated.insert(back, UNKNOWN);
            }
            let (pod, protocol, peer) = (shape.from, before.protocol, before.destination);
            if let Some(sent) = self.sent.get_mut(&Key { pod, protocol, pod_port, peer, peer_port }) {
                (sent.arrived, sent.arrived_after) = (Some((packet.destination, port)), self.changes);
            }
        }
    }

    /// Whether what an isolated pod sent may be where it is.
    fn may_leave(
        &self,
        shape: &Shape,
        sent: &Frame<'_>,
        place: Place,
        got: &Frame<'_>,
    ) -> Result<(), Breach> {
        let policy = self.policy(shape.from);
        let is_guarded = match shape.from {
            Place::Subject | Place::Routed => policy != Policy::Open,
            Place::Accomplice => self.setting.guarded,
            _ => false,
        };
        if !is_guarded {
            return Ok(());
        }
        let is_own = |address: IpAddr| address == Who::Of(shape.from).address(address.is_ipv6());
        let before = match &sent.content {
            Content::Arp { sender, .. } => {
                let is_honest = sender.is_unspecified() || is_own((*sender).into());
                return if !is_honest {
                    Err(Breach::Spoofed)
                } else if policy == Policy::Open || link::is_link(got, Some(false)) {
                    Ok(())
                } else {
                    Err(Breach::LinkOut)
                };
            }
            Content::Other if policy == Policy::Open => return Ok(()),
            Content::Other => return Err(Breach::Egress),
            Content::Ip(packet) => packet,
        };
        let is_link_local = matches!(before.source, IpAddr::V6(it) if link::is_link_local(it));
        if !is_own(before.source) && !before.source.is_unspecified() && !is_link_local {
            return Err(Breach::Spoofed);
        }
        let to_node = is_to_node(shape);
        if link::is_link(sent, Some(to_node)) {
            let may_advertise = match before.kind() {
                Some(134 | 137) => false,
                Some(136) => {
                    link::address(before.body).is_some_and(|it| is_own(it.into()) || link::is_link_local(it))
                }
                _ => true,
            };
            return if may_advertise { Ok(()) } else { Err(Breach::Spoofed) };
        }
        if matches!(shape.load, Load::Tunnel(_))
            && node_addresses().contains(&before.destination)
            && self.tunnel
        {
            return Err(Breach::Tunnel);
        }
        if !policy.isolates_egress() {
            return Ok(());
        }
        let Content::Ip(after) = &got.content else { return Err(Breach::Egress) };
        if place == Place::Node && to_node {
            return Ok(());
        }
        let (_, after_port) = after.ports();
        if policy.lets_out(self.setting.good, after.destination, after.protocol, after_port) {
            return Ok(());
        }
        let (peer, protocol) = (before.destination, before.protocol);
        let (port, asked) = before.ports();
        let key = Key { pod: shape.from, protocol, pod_port: port, peer, peer_port: asked };
        // An answer to what policy lets in, or did; or more of what it did let out, to where it went.
        let may_answer = self.keep || policy.lets_in(self.setting.good, peer, protocol, port);
        let there = (after.destination, after_port);
        let goes_on = |sent: &Sent| sent.arrived == Some(there) || sent.let_out && there == (peer, asked);
        if before.has_flow()
            && (!before.is_request() && self.got.contains_key(&key) && may_answer
                || self.keep && self.sent.get(&key).is_some_and(goes_on))
        {
            return Ok(());
        }
        Err(if matches!(before.kind(), Some(130..=137 | 143)) && before.protocol == ICMPV6 {
            Breach::LinkOut
        } else if !to_node && (node_addresses().contains(&before.destination) || is_frontend(before)) {
            Breach::NotToNode
        } else if after.destination != before.destination || is_frontend(before) {
            Breach::Service
        } else {
            Breach::Egress
        })
    }

    /// Whether an isolated pod may get what it got.
    fn may_come(&self, shape: &Shape, place: Place, got: &Frame<'_>) -> Result<(), Breach> {
        let policy = self.policy(place);
        if !policy.isolates_ingress() || link::is_link(got, None) {
            return Ok(());
        }
        let packet = match &got.content {
            Content::Arp { .. } => return Err(Breach::LinkIn),
            Content::Other => return Err(Breach::Ingress),
            Content::Ip(packet) => packet,
        };
        let (peer, protocol) = (packet.source, packet.protocol);
        let (peer_port, port) = packet.ports();
        if policy.lets_in(self.setting.good, peer, protocol, port) {
            return Ok(());
        }
        let is_nodes = node_addresses().contains(&peer);
        if is_nodes && shape.from == Place::Node {
            return Ok(());
        }
        let key = Key { pod: place, protocol, pod_port: port, peer, peer_port };
        if packet.has_flow() {
            let is_answer = self.sent.get(&key).is_some_and(|sent| {
                !packet.is_request() && self.may_answer(policy, sent, (peer, peer_port), protocol)
            });
            if is_answer || self.keep && self.got.contains_key(&key) {
                return Ok(());
            }
        }
        Err(if matches!(packet.kind(), Some(130..=137 | 143)) && protocol == ICMPV6 {
            Breach::LinkIn
        } else if is_nodes {
            Breach::NotFromNode
        } else {
            Breach::Ingress
        })
    }

    /// Whether answers may come to what a pod sent.
    fn may_answer(&self, policy: Policy, sent: &Sent, (peer, port): (IpAddr, u16), protocol: u8) -> bool {
        let lets_out = |(address, port)| policy.lets_out(self.setting.good, address, protocol, port);
        let is_frontends = peer == Who::Frontend.address(peer.is_ipv6());
        lets_out((peer, port))
            || self.keep && (sent.arrived.is_some() || sent.let_out)
            || sent.arrived.is_some_and(lets_out)
            || sent.to_node && node_addresses().contains(&peer)
            // The veth lets it go, whatever becomes of it; and cannot tell whose the answer is.
            || sent.to_node && is_frontends
    }
}

/// Whether a frame is addressed to the node: by the pod's own veth, or by the bridge that it is a port of.
pub(super) fn is_to_node(shape: &Shape) -> bool {
    shape.from == Place::Node
        || shape.to_mac == Mac::NodeEnd(shape.from)
        || shape.from.is_bridged() && shape.to_mac == Mac::Bridge
}

/// Whether a Service has this address and port, when there is one.
pub(super) fn is_frontend(packet: &Packet<'_>) -> bool {
    let (_, port) = packet.ports();
    let is = |who: Who| packet.destination == who.address(packet.destination.is_ipv6());
    matches!(packet.protocol, TCP | UDP)
        && (is(Who::Frontend) && port == SERVICE_PORT || is(Who::Uplink) && port == NODE_PORT)
}

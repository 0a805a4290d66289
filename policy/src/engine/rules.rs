//! Effective rules: what all policies that select a pod add up to, in one direction.
//!
//! Rules of policies and the subject's named ports flow in; a map from targets to ports flows out, canonical enough
//! that pods with the same rules get the same map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::attributes::AttributeId;
use crate::model::{ContainerPort, Direction, NamespaceScope, Peer, PortMatch, Protocol, Rule, Selector};
use crate::ports::{PortRange, PortSet};

/// What a rule's peer names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// Any address (`from`/`to` empty).
    Anyone,
    /// `podSelector` and/or `namespaceSelector`
    Pods(NamespaceScope, Selector),
    /// `ipBlock`
    Block(IpNet, Vec<IpNet>),
}

/// What a target is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) ports: PortSet,
    /// Named ports of egress rules, resolved on the destination.
    pub(super) named: BTreeSet<(Protocol, Arc<str>)>,
}

/// Effective rules by target.
pub(super) type Effective = BTreeMap<Target, Allowed>;

/// Adds up rules. `subject` are the ports that the selected pod declares: ingress rules' named ports mean these.
pub(super) fn effective<'a>(
    direction: Direction,
    rules: impl Iterator<Item = &'a Rule>,
    subject: &[ContainerPort],
) -> Effective {
    let mut effective = Effective::new();
    for rule in rules {
        let allowed = allowed(direction, rule, subject);
        if allowed.ports.is_nothing() && allowed.named.is_empty() {
            continue;
        }
        let mut add = |target| {
            let sum = effective.entry(target).or_default();
            sum.ports = sum.ports.union(&allowed.ports);
            sum.named.extend(allowed.named.iter().cloned());
        };
        if rule.peers.is_empty() {
            add(Target::Anyone);
        }
        for peer in &rule.peers {
            match peer {
                Peer::Pods { namespaces, pods } => add(Target::Pods(namespaces.clone(), pods.clone())),
                Peer::Block { cidr, except } => add(Target::Block(*cidr, except.clone())),
                Peer::Nothing => {}
            }
        }
    }
    simplify(&mut effective);
    effective
}

fn allowed(direction: Direction, rule: &Rule, subject: &[ContainerPort]) -> Allowed {
    if rule.ports.is_empty() {
        return Allowed { ports: PortSet::Everything, named: BTreeSet::new() };
    }
    let mut ranges = Vec::new();
    let mut named = BTreeSet::new();
    for port in &rule.ports {
        let protocol = port.protocol;
        match (&port.ports, direction) {
            (PortMatch::Any, _) => ranges.push(PortRange::all_of(protocol)),
            (PortMatch::Range(first, last), _) => {
                ranges.push(PortRange { protocol, first: *first, last: *last });
            }
            (PortMatch::Named(name), Direction::Ingress) => {
                let declared = subject
                    .iter()
                    .filter(|declared| declared.protocol == protocol && declared.name.as_ref() == Some(name));
                ranges.extend(declared.map(|declared| PortRange {
                    protocol,
                    first: declared.number,
                    last: declared.number,
                }));
            }
            (PortMatch::Named(name), Direction::Egress) => {
                named.insert((protocol, name.clone()));
            }
            (PortMatch::Nothing, _) => {}
        }
    }
    Allowed { ports: PortSet::from_ranges(ranges), named }
}

/// Drops what is allowed to anyone anyway, so that it takes no attribute into use.
fn simplify(effective: &mut Effective) {
    for allowed in effective.values_mut() {
        let covered = |(protocol, _): &(Protocol, _)| allowed.ports.covers(&PortSet::all_of(*protocol));
        allowed.named.retain(|named| !covered(named));
    }
    let Some(anyone) = effective.get(&Target::Anyone).cloned() else { return };
    effective.retain(|target, allowed| {
        *target == Target::Anyone
            || !anyone.ports.covers(&allowed.ports)
            || allowed
                .named
                .iter()
                .any(|named| !anyone.named.contains(named) && !anyone.ports.covers(&PortSet::all_of(named.0)))
    });
}

/// Effective rules with their targets as attributes: the meaning of a subject class, and its key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RuleSet {
    pub(super) direction: Direction,
    /// Sorted by attribute.
    pub(super) targets: Vec<RuleTarget>,
}

/// One target of a [`RuleSet`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RuleTarget {
    pub(super) attribute: AttributeId,
    pub(super) ports: PortSet,
    /// Named ports in use, sorted.
    pub(super) named: Vec<(AttributeId, Protocol)>,
}

/// The meaning of a peer class, and its key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Known {
    /// What is known of an address.
    Address(Facts),
    /// All backends of a frontend, sorted: what may be sent there is what each of them may be sent.
    Backends(Vec<Place>),
}

/// A backend of a [`Known::Backends`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) facts: Facts,
    /// An address of the subjects' own node.
    pub(super) local: bool,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// What is known of an address in terms of attributes in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Facts {
    /// Selectors and blocks that the address satisfies, sorted.
    pub(super) satisfies: Vec<AttributeId>,
    /// Named ports that its pod declares, and their numbers, sorted.
    pub(super) declares: Vec<(AttributeId, u16)>,
}

impl Facts {
    pub(super) fn is_empty(&self) -> bool {
        self.satisfies.is_empty() && self.declares.is_empty()
    }

    /// What both know. Rules only ever allow more for more facts, so this is the careful answer for an address that
    /// two pods claim.
    pub(super) fn intersection(mut self, other: &Self) -> Self {
        self.satisfies.retain(|id| other.satisfies.contains(id));
        self.declares.retain(|port| other.declares.contains(port));
        self
    }
}

impl RuleSet {
    /// Attributes that these rules take into use.
    pub(super) fn attributes(&self) -> impl Iterator<Item = AttributeId> {
        let targets = self.targets.iter().map(|target| target.attribute);
        let named = self.targets.iter().flat_map(|target| &target.named).map(|(id, _)| *id);
        targets.chain(named).filter(|id| *id != AttributeId::ANYONE)
    }

    /// What these rules allow a class. Of a frontend: everything, or nothing.
    pub(super) fn answer(&self, known: &Known) -> PortSet {
        let backends = match known {
            Known::Address(facts) => return self.verdict(facts),
            Known::Backends(backends) => backends,
        };
        let is_allowed =
            |place: &Place| place.local || self.verdict(&place.facts).allows(place.protocol, place.port);
        if self.direction == Direction::Egress && backends.iter().all(is_allowed) {
            PortSet::Everything
        } else {
            PortSet::nothing()
        }
    }

    /// What these rules allow an address.
    pub(super) fn verdict(&self, facts: &Facts) -> PortSet {
        let mut ports = PortSet::nothing();
        for id in std::iter::once(&AttributeId::ANYONE).chain(&facts.satisfies) {
            let Ok(index) = self.targets.binary_search_by_key(id, |target| target.attribute) else {
                continue;
            };
            let target = &self.targets[index];
            ports = ports.union(&target.ports);
            for (name, protocol) in &target.named {
                for (_, number) in facts.declares.iter().filter(|(declared, _)| declared == name) {
                    ports = ports.union(&PortSet::port(*protocol, *number));
                }
            }
            if ports.is_everything() {
                break;
            }
        }
        ports
    }
}

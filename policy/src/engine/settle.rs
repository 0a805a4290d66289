//! From an event to the tables: which rules a pod has, which attributes are in use, which class an address is in.

use ipnet::IpNet;

use super::attributes::{Attribute, AttributeId};
use super::blocks::bounds;
use super::cluster::{PodKey, is_peer};
use super::rules::{Allowed, Effective, Facts, RuleSet, RuleTarget, Target, effective};
use super::{Engine, Local};
use crate::model::{Direction, NamespaceScope, Pod};
use crate::tables::{ClassId, Subject};

impl Engine {
    /// Finds anew which attributes in use a pod has.
    pub(super) fn refresh_facts(&mut self, key: PodKey) {
        let pod = self.pods.get(key).filter(|pod| is_peer(pod)).cloned();
        let new = pod.map(|pod| self.attributes.facts(&pod, &self.namespaces)).unwrap_or_default();
        self.set_facts(key, new);
    }

    fn set_facts(&mut self, key: PodKey, new: Facts) {
        let old = self.facts.remove(&key).unwrap_or_default();
        if old != new {
            self.attributes.replace_member(key, &old, &new);
            if let Some(pod) = self.pods.get(key) {
                self.dirty.extend(pod.addresses.iter().map(|address| IpNet::from(*address)));
            }
        }
        if !new.is_empty() {
            self.facts.insert(key, new);
        }
    }

    /// Finds anew which rules a pod in scope has.
    pub(super) fn refresh_subject(&mut self, key: PodKey) {
        let Some(pod) = self.pods.get(key).filter(|pod| self.in_scope(pod)).cloned() else {
            if let Some(old) = self.locals.remove(&key) {
                self.subjects.set(&old.id, None);
                self.release_subject(&old.subject);
            }
            return;
        };
        let policies = self.policies.selecting(&pod);
        let mut addresses = pod.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let mut classes = [ClassId::NOT_ISOLATED; 2];
        for (class, direction) in classes.iter_mut().zip([Direction::Ingress, Direction::Egress]) {
            let rules: Vec<_> = policies
                .iter()
                .filter_map(|policy| {
                    let rules = match direction {
                        Direction::Ingress => policy.ingress.as_deref(),
                        Direction::Egress => policy.egress.as_deref(),
                    };
                    // One that is refused isolates all the same.
                    rules.map(
                        |rules| if self.budgets.refuses(&policy.id) { Default::default() } else { rules },
                    )
                })
                .collect();
            if !rules.is_empty() {
                let rules = effective(direction, rules.into_iter().flatten(), &pod.ports);
                *class = self.acquire_rules(direction, rules);
            }
        }
        let [ingress, egress] = classes;
        let subject = Subject { ingress, egress, addresses };
        self.subjects.set(&pod.id, subject.is_isolated().then(|| subject.clone()));
        // The new rules are held before the old ones are let go: attributes that both name stay in use.
        if let Some(old) = self.locals.insert(key, Local { id: pod.id.clone(), subject, policies }) {
            self.release_subject(&old.subject);
        }
    }

    pub(super) fn release_subject(&mut self, subject: &Subject) {
        for class in [subject.ingress, subject.egress] {
            if class != ClassId::NOT_ISOLATED && self.rule_sets.release(class.0) {
                let meaning = self.rule_sets.get(class.0).map(|class| class.meaning.clone());
                for id in meaning.iter().flat_map(|rules| rules.attributes()) {
                    self.attributes.release(id);
                }
            }
        }
    }

    fn acquire_rules(&mut self, direction: Direction, rules: Effective) -> ClassId {
        let mut targets: Vec<_> = rules
            .into_iter()
            .map(|(target, Allowed { ports, named })| {
                let mut named: Vec<_> = named
                    .into_iter()
                    .map(|(protocol, name)| (self.attribute(Attribute::PortName(protocol, name)), protocol))
                    .collect();
                named.sort_unstable();
                RuleTarget { attribute: self.attribute(Attribute::Target(target)), ports, named }
            })
            .collect();
        targets.sort_unstable_by_key(|target| target.attribute);
        let (id, first) = self.rule_sets.acquire(RuleSet { direction, targets });
        if first && let Some(class) = self.rule_sets.get(id) {
            for id in class.meaning.attributes() {
                self.attributes.hold(id);
            }
        }
        ClassId(id)
    }

    /// The attribute's id; brings it into use, and finds who has it, when no other rule uses it yet.
    fn attribute(&mut self, attribute: Attribute) -> AttributeId {
        if attribute == Attribute::Target(Target::Anyone) {
            return AttributeId::ANYONE;
        }
        if let Some(id) = self.attributes.id(&attribute) {
            return id;
        }
        let id = self.attributes.insert(attribute.clone());
        match attribute {
            Attribute::Target(Target::Pods(namespaces, pods)) => {
                let within = match &namespaces {
                    NamespaceScope::Named(name) => Some(&**name),
                    NamespaceScope::Matching(_) => None,
                };
                for key in self.pods.candidates(within, &pods) {
                    let Some(pod) = self.pods.get(key) else { continue };
                    if pods.matches(&pod.labels) && self.is_within(&namespaces, pod) {
                        let mut facts = self.facts.get(&key).cloned().unwrap_or_default();
                        // Ids only grow: the newest one is the last of a sorted list.
                        facts.satisfies.push(id);
                        self.set_facts(key, facts);
                    }
                }
            }
            Attribute::PortName(protocol, name) => {
                let pods: Vec<_> = self.pods.declaring(protocol, &name).collect();
                for key in pods {
                    self.refresh_facts(key);
                }
            }
            Attribute::Target(Target::Block(cidr, except)) => {
                self.blocks.insert(id, cidr, &except);
                self.block_changed(cidr, &except);
            }
            Attribute::Target(Target::Anyone) => {}
        }
        id
    }

    fn is_within(&self, namespaces: &NamespaceScope, pod: &Pod) -> bool {
        match namespaces {
            NamespaceScope::Named(name) => pod.id.namespace == *name,
            NamespaceScope::Matching(selector) => self.namespaces.matches(selector, &pod.id.namespace),
        }
    }

    /// Marks what a block that came or went may concern: prefixes and known addresses inside it.
    fn block_changed(&mut self, cidr: IpNet, except: &[IpNet]) {
        self.dirty.insert(cidr);
        self.dirty.extend(except);
        self.dirty.extend(self.blocks.within(cidr));
        let (first, last) = bounds(cidr);
        let known = self.pods.owned_between(first, last);
        // A pod without attributes has no entry of its own: prefixes speak for it.
        let classed = known.filter(|(_, owners)| owners.iter().any(|key| self.facts.contains_key(key)));
        self.dirty.extend(classed.map(|(address, _)| IpNet::from(address)));
        self.dirty.extend(self.local_addresses.range(first..=last).map(|address| IpNet::from(*address)));
    }

    /// Ends an event: lets go of attributes that no rule uses any more, and brings entries up to date.
    pub(super) fn settle(&mut self) {
        for (id, attribute, members) in self.attributes.take_idle() {
            for key in members {
                let mut facts = self.facts.get(&key).cloned().unwrap_or_default();
                facts.satisfies.retain(|other| *other != id);
                facts.declares.retain(|(other, _)| *other != id);
                self.set_facts(key, facts);
            }
            if let Attribute::Target(Target::Block(cidr, except)) = attribute {
                // Marked both before and after: prefixes that only this block named are gone afterwards.
                self.block_changed(cidr, &except);
                self.blocks.remove(id, cidr, &except);
            }
        }
        let dirty = std::mem::take(&mut self.dirty);
        for prefix in &dirty {
            let known = self.known(*prefix);
            self.peers.set(*prefix, known);
        }
        self.known_changed(dirty);
    }

    /// What the peer table is to say of a prefix, and whether it is an own node's address.
    ///
    /// An address gets an entry of its own when more is known of it than its prefix says.
    fn known(&self, prefix: IpNet) -> Option<(Facts, bool)> {
        let mut facts = Facts::default();
        let mut local = false;
        if prefix.prefix_len() == prefix.max_prefix_len() {
            let address = prefix.addr();
            // Two live pods with one address: an update is still on its way. Until it is here, only what holds for both.
            let owners =
                self.pods.owners(address).map(|key| self.facts.get(&key).cloned().unwrap_or_default());
            facts = owners.reduce(|both, facts| both.intersection(&facts)).unwrap_or_default();
            local = self.local_addresses.contains(&address);
        }
        if facts.is_empty() && !local && !self.blocks.names(&prefix) {
            return None;
        }
        facts.satisfies.extend(self.blocks.holding(prefix));
        facts.satisfies.sort_unstable();
        Some((facts, local))
    }
}

//! Attributes in use: what the rules of local subjects can tell addresses apart by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::cluster::{Namespaces, PodKey};
use super::index::SelectorIndex;
use super::rules::{Facts, Target};
use crate::model::{NamespaceScope, Pod, Protocol, Selector};

/// An attribute for as long as rules use it; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttributeId(u64);

impl AttributeId {
    /// What every address satisfies.
    pub(super) const ANYONE: Self = Self(0);
}

/// What rules can ask of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Attribute {
    /// Being one of these pods, or in this block.
    Target(Target),
    /// Being a pod that declares a port of this name; the number is part of the answer.
    PortName(Protocol, Arc<str>),
}

#[derive(Debug)]
struct Used {
    attribute: Attribute,
    /// Rule sets that pods have and that name it.
    rule_sets: usize,
    /// The pods that have it. Blocks have none: they hold addresses.
    members: BTreeSet<PodKey>,
}

/// All attributes in use, indexed so that a pod meets only those that it may satisfy.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    last: u64,
    ids: HashMap<Attribute, AttributeId>,
    used: BTreeMap<AttributeId, Used>,
    in_namespace: HashMap<Arc<str>, SelectorIndex<AttributeId>>,
    in_matching: HashMap<Selector, SelectorIndex<AttributeId>>,
    /// The keys of `in_matching`, by what they ask of namespaces.
    namespace_selectors: SelectorIndex<Selector>,
    /// Candidates for [`Self::take_idle`].
    idle: BTreeSet<AttributeId>,
}

impl Attributes {
    pub(super) fn get(&self, id: AttributeId) -> Option<&Attribute> {
        self.used.get(&id).map(|used| &used.attribute)
    }

    pub(super) fn id(&self, attribute: &Attribute) -> Option<AttributeId> {
        self.ids.get(attribute).copied()
    }

    /// Takes a new attribute into use. Idle until a rule set holds it.
    pub(super) fn insert(&mut self, attribute: Attribute) -> AttributeId {
        self.last += 1;
        let id = AttributeId(self.last);
        match &attribute {
            Attribute::Target(Target::Pods(NamespaceScope::Named(namespace), pods)) => {
                self.in_namespace.entry(namespace.clone()).or_default().insert(pods, &id);
            }
            Attribute::Target(Target::Pods(NamespaceScope::Matching(namespaces), pods)) => {
                let index = self.in_matching.entry(namespaces.clone()).or_default();
                if index.is_empty() {
                    self.namespace_selectors.insert(namespaces, namespaces);
                }
                index.insert(pods, &id);
            }
            Attribute::Target(Target::Block(..) | Target::Anyone) | Attribute::PortName(..) => {}
        }
        self.ids.insert(attribute.clone(), id);
        self.used.insert(id, Used { attribute, rule_sets: 0, members: BTreeSet::new() });
        self.idle.insert(id);
        id
    }

    pub(super) fn hold(&mut self, id: AttributeId) {
        if let Some(used) = self.used.get_mut(&id) {
            used.rule_sets += 1;
        }
    }

    pub(super) fn release(&mut self, id: AttributeId) {
        if let Some(used) = self.used.get_mut(&id) {
            used.rule_sets = used.rule_sets.saturating_sub(1);
            self.idle.insert(id);
        }
    }

    /// Drops the attributes that no rule set holds; returns what they were and which pods had them.
    pub(super) fn take_idle(&mut self) -> Vec<(AttributeId, Attribute, BTreeSet<PodKey>)> {
        let idle = std::mem::take(&mut self.idle);
        let unused = |id: &AttributeId| self.used.get(id).is_some_and(|used| used.rule_sets == 0);
        let idle: Vec<_> = idle.into_iter().filter(unused).collect();
        idle.into_iter()
            .filter_map(|id| {
                let used = self.used.remove(&id)?;
                self.ids.remove(&used.attribute);
                self.unindex(id, &used.attribute);
                Some((id, used.attribute, used.members))
            })
            .collect()
    }

    fn unindex(&mut self, id: AttributeId, attribute: &Attribute) {
        match attribute {
            Attribute::Target(Target::Pods(NamespaceScope::Named(namespace), pods)) => {
                let Some(index) = self.in_namespace.get_mut(namespace) else { return };
                index.remove(pods, &id);
                if index.is_empty() {
                    self.in_namespace.remove(namespace);
                }
            }
            Attribute::Target(Target::Pods(NamespaceScope::Matching(namespaces), pods)) => {
                let Some(index) = self.in_matching.get_mut(namespaces) else { return };
                index.remove(pods, &id);
                if index.is_empty() {
                    self.in_matching.remove(namespaces);
                    self.namespace_selectors.remove(namespaces, namespaces);
                }
            }
            Attribute::Target(Target::Block(..) | Target::Anyone) | Attribute::PortName(..) => {}
        }
    }

    /// What is known of a pod: the selectors in use that match it, the port names in use that it declares.
    pub(super) fn facts(&self, pod: &Pod, namespaces: &Namespaces) -> Facts {
        let mut satisfies = Vec::new();
        let mut collect = |index: &SelectorIndex<AttributeId>| {
            satisfies.extend(index.candidates(&pod.labels).filter(|id| self.selects(**id, pod)));
        };
        if let Some(index) = self.in_namespace.get(&pod.id.namespace) {
            collect(index);
        }
        if !self.namespace_selectors.is_empty() {
            let labels = namespaces.labels(&pod.id.namespace);
            for selector in self.namespace_selectors.candidates(&labels) {
                if let Some(index) = self.in_matching.get(selector)
                    && namespaces.matches(selector, &pod.id.namespace)
                {
                    collect(index);
                }
            }
        }
        satisfies.sort_unstable();
        let named = pod.ports.iter().filter_map(|port| {
            let name = Attribute::PortName(port.protocol, port.name.clone()?);
            Some((self.id(&name)?, port.number))
        });
        let mut declares: Vec<_> = named.collect();
        declares.sort_unstable();
        declares.dedup();
        Facts { satisfies, declares }
    }

    /// Whether a pod selector in use matches a pod of a namespace in its scope.
    fn selects(&self, id: AttributeId, pod: &Pod) -> bool {
        match self.get(id) {
            Some(Attribute::Target(Target::Pods(_, pods))) => pods.matches(&pod.labels),
            _ => false,
        }
    }

    /// Notes what a pod has now instead of what it had.
    pub(super) fn replace_member(&mut self, pod: PodKey, old: &Facts, new: &Facts) {
        let ids = |facts: &Facts| -> BTreeSet<AttributeId> {
            facts.satisfies.iter().copied().chain(facts.declares.iter().map(|(id, _)| *id)).collect()
        };
        let (old, new) = (ids(old), ids(new));
        for id in old.difference(&new) {
            if let Some(used) = self.used.get_mut(id) {
                used.members.remove(&pod);
            }
        }
        for id in new.difference(&old) {
            if let Some(used) = self.used.get_mut(id) {
                used.members.insert(pod);
            }
        }
    }
}

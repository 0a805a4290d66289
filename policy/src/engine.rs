//! The incremental compiler: objects flow in, in any order; tables and plans flow out.
//!
//! ```text
//! Pod ───────► policies that select it ──► effective rules ──► subject class ──┐
//!                                              │ attributes in use              ├─► verdict (a pure function)
//! Pod, block ► attributes that it has ◄────────┘ ───────────► peer class ──────┘
//! ```
//!
//! Only rules of subjects in scope bring attributes into use, so addresses that no rule here can tell apart share a
//! class. A class is its meaning (rules, or what is known of an address) under a number: verdicts are computed from
//! the two meanings and need no bookkeeping. An event updates the indexes, brings attributes into and out of use, and
//! then settles each address that it concerned, once.

mod attributes;
mod blocks;
mod budget;
mod classes;
mod cluster;
mod departed;
mod dump;
mod frontends;
mod index;
mod peers;
mod publish;
mod rules;
mod settle;
#[cfg(test)]
mod tests;
mod tracked;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use self::attributes::Attributes;
use self::blocks::Blocks;
use self::budget::Budgets;
pub use self::budget::{Budget, Refused};
use self::classes::Classes;
pub use self::cluster::PodKey;
use self::cluster::{Namespaces, Pods, Policies, is_peer};
pub use self::departed::DepartedPod;
use self::departed::is_another;
use self::frontends::Frontends;
use self::peers::Peers;
use self::rules::{Facts, RuleSet};
use self::tracked::Tracked;
use crate::model::{NamespacedName, NetworkPolicy, Node, Object, ObjectRef, Pod};
use crate::tables::{ClassId, FIRST_TRANSITIONAL, Subject};

/// Whose pods are subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of one node (`spec.nodeName`): what an agent enforces.
    Node(Arc<str>),
    /// All pods: what offline questions need.
    All,
}

/// A pod within the engine's scope, isolated or not.
#[derive(Clone, Debug)]
pub struct LocalPod {
    /// Which it is: another pod of the same name, made after this one is gone, has another key.
    pub key: PodKey,
    /// The pod as last applied.
    pub pod: Arc<Pod>,
    /// Its classes; both 0 when nothing isolates it.
    pub subject: Subject,
    /// The policies that select it, sorted.
    pub policies: Vec<NamespacedName>,
}

/// A pod in scope, and what it was last found to be.
#[derive(Debug)]
struct Local {
    id: NamespacedName,
    subject: Subject,
    policies: Vec<Arc<NetworkPolicy>>,
}

/// The incremental compiler.
#[derive(Debug)]
pub struct Engine {
    scope: Scope,
    namespaces: Namespaces,
    nodes: HashMap<Arc<str>, Node>,
    pods: Pods,
    policies: Policies,
    /// Attributes in use that a pod has; pods without any are left out.
    facts: HashMap<PodKey, Facts>,
    locals: HashMap<PodKey, Local>,
    keeps_departed: bool,
    departed: BTreeMap<PodKey, DepartedPod>,
    departures: Vec<NamespacedName>,
    attributes: Attributes,
    blocks: Blocks,
    local_addresses: BTreeSet<IpAddr>,
    /// Prefixes whose entry must be looked at before the event is over.
    dirty: BTreeSet<IpNet>,
    rule_sets: Classes<RuleSet>,
    /// Classes that live only while a plan is executed are numbered from here.
    first_transitional: u32,
    subjects: Tracked<NamespacedName, Subject>,
    peers: Peers,
    frontends: Frontends,
    budgets: Budgets,
}

impl Engine {
    /// An engine without objects. Its classes are numbered upward from `first_class` and never reused: pass
    /// [`Tables::next_class`](crate::Tables::next_class) of what the kernel still holds.
    #[must_use]
    pub fn new(scope: Scope, first_class: ClassId) -> Self {
        Self {
            scope,
            namespaces: Namespaces::default(),
            nodes: HashMap::new(),
            pods: Pods::default(),
            policies: Policies::default(),
            facts: HashMap::new(),
            locals: HashMap::new(),
            keeps_departed: false,
            departed: BTreeMap::new(),
            departures: Vec::new(),
            attributes: Attributes::default(),
            blocks: Blocks::default(),
            local_addresses: BTreeSet::new(),
            dirty: BTreeSet::new(),
            rule_sets: Classes::new(first_class.0),
            first_transitional: FIRST_TRANSITIONAL,
            subjects: Tracked::default(),
            peers: Peers::new(first_class.0),
            frontends: Frontends::default(),
            budgets: Budgets::default(),
        }
    }

    /// Numbers classes that live only while a plan is executed from here, since the kernel still holds what an earlier engine's plan
    /// left, from [`FIRST_TRANSITIONAL`] on.
    pub fn number_transitional_from(&mut self, first: ClassId) {
        self.first_transitional = first.0.max(FIRST_TRANSITIONAL);
    }

    /// Adds or replaces an object. Returns whether it differs from the one known.
    pub fn apply(&mut self, object: Object) -> bool {
        match object {
            Object::Namespace(namespace) => {
                if self.namespaces.0.get(&namespace.name) == Some(&namespace.labels) {
                    return false;
                }
                self.namespaces.0.insert(namespace.name.clone(), namespace.labels);
                self.namespace_changed(&namespace.name);
            }
            // Whose processes are exempt is for the kernel to say (`set_local_addresses`), not for `status.addresses`.
            Object::Node(node) => {
                let differs = self.nodes.insert(node.name.clone(), node.clone()).as_ref() != Some(&node);
                if differs {
                    self.node_changed();
                }
                return differs;
            }
            Object::Pod(pod) => {
                let known = self.pods.key(&pod.id).and_then(|key| self.pods.get(key));
                if known.is_some_and(|known| **known == pod) {
                    return false;
                }
                if known.is_some_and(|known| is_another(known, &pod)) {
                    self.delete(&ObjectRef::Pod(pod.id.clone()));
                }
                let (key, old) = self.pods.insert(Arc::new(pod));
                self.pod_changed(key, old.as_ref());
            }
            Object::Service(service) => return self.apply_service(service),
            Object::EndpointSlice(slice) => return self.apply_slice(slice),
            Object::NetworkPolicy(policy) => {
                if self.policies.get(&policy.id).is_some_and(|known| **known == policy) {
                    return false;
                }
                let policy = Arc::new(policy);
                let old = self.policies.insert(policy.clone());
                self.policy_changed(&policy.id, &[Some(policy.clone()), old]);
                self.note_policy(&policy.id);
            }
        }
        self.settle();
        true
    }

    /// Forgets an object. Returns whether it was known.
    pub fn delete(&mut self, object: &ObjectRef) -> bool {
        match object {
            ObjectRef::Namespace(name) => {
                if self.namespaces.0.remove(name).is_none() {
                    return false;
                }
                self.namespace_changed(name);
            }
            ObjectRef::Node(name) => {
                let was_known = self.nodes.remove(name).is_some();
                if was_known {
                    self.node_changed();
                }
                return was_known;
            }
            ObjectRef::Service(id) => return self.delete_service(id),
            ObjectRef::EndpointSlice(id) => return self.delete_slice(id),
            ObjectRef::Pod(id) => {
                let Some(key) = self.pods.key(id) else { return false };
                let old = self.pods.remove(key);
                self.pod_changed(key, old.as_ref());
                self.pods.forget(id);
            }
            ObjectRef::NetworkPolicy(id) => {
                let Some(old) = self.policies.remove(id) else { return false };
                self.policy_changed(id, &[Some(old)]);
                self.note_policy(id);
            }
        }
        self.settle();
        true
    }

    /// Replaces the own node's addresses, as the kernel knows them. Returns whether they differ.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> bool {
        let addresses: BTreeSet<_> = addresses.into_iter().collect();
        let changed: Vec<_> = self.local_addresses.symmetric_difference(&addresses).copied().collect();
        self.dirty.extend(changed.iter().map(|address| IpNet::from(*address)));
        self.local_addresses = addresses;
        self.settle();
        !changed.is_empty()
    }

    /// A pod in scope (not on the host's network, not finished), isolated or not.
    #[must_use]
    pub fn local_pod(&self, id: &NamespacedName) -> Option<LocalPod> {
        self.local(self.pods.key(id)?)
    }

    /// Every pod in scope, by name.
    pub fn local_pods(&self) -> impl Iterator<Item = LocalPod> + use<> {
        let mut pods: Vec<_> = self.locals.keys().filter_map(|key| self.local(*key)).collect();
        pods.sort_by(|left, right| left.pod.id.cmp(&right.pod.id));
        pods.into_iter()
    }

    fn local(&self, key: PodKey) -> Option<LocalPod> {
        let local = self.locals.get(&key)?;
        Some(LocalPod {
            key,
            pod: self.pods.get(key)?.clone(),
            subject: local.subject.clone(),
            policies: local.policies.iter().map(|policy| policy.id.clone()).collect(),
        })
    }

    fn in_scope(&self, pod: &Pod) -> bool {
        is_peer(pod)
            && match &self.scope {
                Scope::Node(name) => pod.node.as_ref() == Some(name),
                Scope::All => true,
            }
    }

    fn namespace_changed(&mut self, name: &Arc<str>) {
        let pods: Vec<_> = self.pods.in_namespace(name).collect();
        for key in pods {
            self.refresh_facts(key);
        }
    }

    fn pod_changed(&mut self, key: PodKey, old: Option<&Arc<Pod>>) {
        let new = self.pods.get(key).cloned();
        let addresses = |pod: Option<&Pod>| -> BTreeSet<IpAddr> {
            pod.filter(|pod| is_peer(pod)).into_iter().flat_map(|pod| &pod.addresses).copied().collect()
        };
        let (before, now) = (addresses(old.map(|pod| &**pod)), addresses(new.as_deref()));
        self.dirty.extend(before.symmetric_difference(&now).map(|address| IpNet::from(*address)));
        self.refresh_facts(key);
        if let Some(old) =
            old.filter(|_| self.keeps_departed && !new.as_deref().is_some_and(|pod| self.in_scope(pod)))
        {
            self.depart(key, old);
        }
        self.refresh_subject(key);
        if let Some(pod) = new.as_ref().or(old) {
            self.pod_may_serve(pod);
        }
    }

    fn policy_changed(&mut self, id: &NamespacedName, versions: &[Option<Arc<NetworkPolicy>>]) {
        let selected = |key: &PodKey| {
            self.locals.contains_key(key)
                && self.pods.get(*key).is_some_and(|pod| {
                    versions.iter().flatten().any(|policy| policy.pod_selector.matches(&pod.labels))
                })
        };
        let pods: Vec<_> = self.pods.in_namespace(&id.namespace).filter(selected).collect();
        for key in pods {
            self.refresh_subject(key);
        }
    }
}

//! The objects as last applied, with the indexes that make an event touch only what it concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::index::{SelectorIndex, discard};
use crate::model::{Labels, NamespacedName, NetworkPolicy, Pod, Protocol, Requirement, Selector};

/// A pod for as long as it is known; never reused.
pub type PodKey = u64;

/// The label that the API server sets on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Namespaces by name.
#[derive(Debug, Default)]
pub(super) struct Namespaces(pub(super) HashMap<Arc<str>, Labels>);

impl Namespaces {
    /// Whether a namespace selector matches a namespace.
    ///
    /// Of a namespace that is not known (yet), only its name is certain: whatever asks for other labels, or for their
    /// absence, does not match. Otherwise pods of a namespace that arrives late would be let in by `NotIn`.
    pub(super) fn matches(&self, selector: &Selector, name: &Arc<str>) -> bool {
        match self.0.get(name) {
            Some(labels) => selector.matches(labels),
            None => selector.0.iter().all(|requirement| {
                &**requirement.key() == NAME_LABEL && requirement.matches(&name_only(name))
            }),
        }
    }

    /// The labels that are certain.
    pub(super) fn labels(&self, name: &Arc<str>) -> Labels {
        self.0.get(name).cloned().unwrap_or_else(|| name_only(name))
    }
}

fn name_only(name: &Arc<str>) -> Labels {
    Labels::from([(Arc::from(NAME_LABEL), name.clone())])
}

/// Pods. What is not [a peer](is_peer) is kept, but in no index.
#[derive(Debug, Default)]
pub(super) struct Pods {
    next: PodKey,
    keys: HashMap<NamespacedName, PodKey>,
    by_key: HashMap<PodKey, Arc<Pod>>,
    by_namespace: HashMap<Arc<str>, BTreeSet<PodKey>>,
    by_label: HashMap<Arc<str>, HashMap<Arc<str>, BTreeSet<PodKey>>>,
    by_port_name: HashMap<(Protocol, Arc<str>), BTreeSet<PodKey>>,
    owners: BTreeMap<IpAddr, BTreeSet<PodKey>>,
}

/// Whether pod selectors can match the pod and its addresses are its own: not on the host's network, not finished.
pub(super) fn is_peer(pod: &Pod) -> bool {
    !pod.host_network && !pod.finished
}

impl Pods {
    pub(super) fn key(&self, id: &NamespacedName) -> Option<PodKey> {
        self.keys.get(id).copied()
    }

    pub(super) fn get(&self, key: PodKey) -> Option<&Arc<Pod>> {
        self.by_key.get(&key)
    }

    /// Adds or replaces a pod; its former self comes back.
    pub(super) fn insert(&mut self, pod: Arc<Pod>) -> (PodKey, Option<Arc<Pod>>) {
        let old = self.key(&pod.id).and_then(|key| self.remove(key));
        let key = self.keys.get(&pod.id).copied().unwrap_or(self.next);
        self.next = self.next.max(key + 1);
        if is_peer(&pod) {
            self.index(key, &pod);
        }
        self.keys.insert(pod.id.clone(), key);
        self.by_key.insert(key, pod);
        (key, old)
    }

    /// Takes a pod out of all indexes; its key stays reserved until [`Self::forget`].
    pub(super) fn remove(&mut self, key: PodKey) -> Option<Arc<Pod>> {
        let pod = self.by_key.remove(&key)?;
        if is_peer(&pod) {
            self.unindex(key, &pod);
        }
        Some(pod)
    }

    pub(super) fn forget(&mut self, id: &NamespacedName) {
        self.keys.remove(id);
    }

    fn index(&mut self, key: PodKey, pod: &Pod) {
        self.by_namespace.entry(pod.id.namespace.clone()).or_default().insert(key);
        for (label, value) in &pod.labels {
            let values = self.by_label.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().insert(key);
        }
        for port in &pod.ports {
            if let Some(name) = &port.name {
                self.by_port_name.entry((port.protocol, name.clone())).or_default().insert(key);
            }
        }
        for address in &pod.addresses {
            self.owners.entry(*address).or_default().insert(key);
        }
    }

    fn unindex(&mut self, key: PodKey, pod: &Pod) {
        discard(&mut self.by_namespace, &pod.id.namespace, &key);
        for (label, value) in &pod.labels {
            if let Some(values) = self.by_label.get_mut(label) {
                discard(values, value, &key);
                if values.is_empty() {
                    self.by_label.remove(label);
                }
            }
        }
        for port in &pod.ports {
            if let Some(name) = &port.name {
                discard(&mut self.by_port_name, &(port.protocol, name.clone()), &key);
            }
        }
        for address in &pod.addresses {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.remove(&key);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = PodKey> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Those on the host's network and finished ones too. Goes through all pods.
    pub(super) fn all_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_key.values().filter(move |pod| &*pod.id.namespace == namespace)
    }

    pub(super) fn declaring(&self, protocol: Protocol, name: &Arc<str>) -> impl Iterator<Item = PodKey> {
        self.by_port_name.get(&(protocol, name.clone())).into_iter().flatten().copied()
    }

    pub(super) fn owners(&self, address: IpAddr) -> impl Iterator<Item = PodKey> {
        self.owners.get(&address).into_iter().flatten().copied()
    }

    /// The addresses from `first` to `last` that pods own.
    pub(super) fn owned_between(
        &self,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, &BTreeSet<PodKey>)> {
        self.owners.range(first..=last).map(|(address, owners)| (*address, owners))
    }

    /// Pods that a selector may match: those of a namespace, or those with a label that it requires, whichever are
    /// fewer.
    pub(super) fn candidates(&self, namespace: Option<&str>, selector: &Selector) -> Vec<PodKey> {
        let required = selector.0.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => {
                let by_value = self.by_label.get(key);
                Some(values.iter().filter_map(|value| by_value?.get(value)).collect::<Vec<_>>())
            }
            _ => None,
        });
        let size = |sets: &Vec<&BTreeSet<PodKey>>| sets.iter().map(|set| set.len()).sum::<usize>();
        let labelled = required.min_by_key(size);
        let in_namespace = namespace.map(|namespace| self.by_namespace.get(namespace).into_iter().collect());
        let mut pods: Vec<_> = match labelled.into_iter().chain(in_namespace).min_by_key(size) {
            Some(sets) => sets.into_iter().flatten().copied().collect(),
            None => self.by_namespace.values().flatten().copied().collect(),
        };
        // A selector may list a value twice.
        pods.sort_unstable();
        pods.dedup();
        pods
    }
}

/// Policies by namespace.
#[derive(Debug, Default)]
pub(super) struct Policies(HashMap<Arc<str>, InNamespace>);

#[derive(Debug, Default)]
struct InNamespace {
    policies: BTreeMap<Arc<str>, Arc<NetworkPolicy>>,
    index: SelectorIndex<Arc<str>>,
}

impl Policies {
    pub(super) fn get(&self, id: &NamespacedName) -> Option<&Arc<NetworkPolicy>> {
        self.0.get(&id.namespace)?.policies.get(&id.name)
    }

    /// Adds or replaces a policy; its former self comes back.
    pub(super) fn insert(&mut self, policy: Arc<NetworkPolicy>) -> Option<Arc<NetworkPolicy>> {
        let old = self.remove(&policy.id);
        let namespace = self.0.entry(policy.id.namespace.clone()).or_default();
        namespace.index.insert(&policy.pod_selector, &policy.id.name);
        namespace.policies.insert(policy.id.name.clone(), policy);
        old
    }

    pub(super) fn remove(&mut self, id: &NamespacedName) -> Option<Arc<NetworkPolicy>> {
        let namespace = self.0.get_mut(&id.namespace)?;
        let policy = namespace.policies.remove(&id.name)?;
        namespace.index.remove(&policy.pod_selector, &id.name);
        if namespace.policies.is_empty() {
            self.0.remove(&id.namespace);
        }
        Some(policy)
    }

    /// The policies that select a pod, by name.
    pub(super) fn selecting(&self, pod: &Pod) -> Vec<Arc<NetworkPolicy>> {
        let Some(namespace) = self.0.get(&pod.id.namespace) else { return Vec::new() };
        let candidates = namespace.index.candidates(&pod.labels);
        let mut policies: Vec<_> = candidates
            .filter_map(|name| namespace.policies.get(name))
            .filter(|policy| policy.pod_selector.matches(&pod.labels))
            .cloned()
            .collect();
        policies.sort_by(|left, right| left.id.cmp(&right.id));
        policies
    }
}

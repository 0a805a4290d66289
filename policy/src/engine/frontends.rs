//! Services' frontends as one node's pods meet them: which there are, and who judges what is sent there.
//!
//! Where packets are judged behind the choice of a backend, a frontend needs no more than to be known. Those of which
//! another node chooses, and all of them where nothing is judged behind the choice, are in the class of all their
//! backends together: all of them allowed, or nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::blocks::bounds;
use super::rules::{Facts, Known, Place};
use super::tracked::{Changed, Tracked};
use super::{Engine, Scope};
use crate::model::{EndpointSlice, NamespacedName, Node, Pod, Protocol, Service, ServicePort};
use crate::services::{Backend, Frontend, Via, candidates, eligible};
use crate::tables::{FrontendEntry, PeerClass};

/// Services and their backends, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    services: BTreeMap<NamespacedName, Service>,
    /// By the Service that they are of.
    slices: HashMap<NamespacedName, BTreeMap<Arc<str>, EndpointSlice>>,
    /// Which Service a slice is of, by its name: updates may change it.
    slice_owners: HashMap<NamespacedName, NamespacedName>,
    entries: Tracked<Frontend, FrontendEntry>,
    /// What each Service makes of each of its frontends; several may claim one (`spec.externalIPs`).
    claims: BTreeMap<Frontend, BTreeMap<NamespacedName, FrontendEntry>>,
    claimed: HashMap<NamespacedName, BTreeSet<Frontend>>,
    /// Services that are in a class with what is known of these addresses.
    together: BTreeMap<IpAddr, BTreeSet<NamespacedName>>,
    backends: HashMap<NamespacedName, BTreeSet<IpAddr>>,
    /// Services to look at before the next plan.
    stale: BTreeSet<NamespacedName>,
    /// Namespaces whose Services without slices are to be looked at.
    stale_namespaces: BTreeSet<Arc<str>>,
    /// Prefixes of which more or less is known than when Services were looked at.
    touched: BTreeSet<IpNet>,
    /// Nobody judges behind the choice of a backend.
    pub(super) judged_in_front: bool,
}

/// What a port of a Service may lead to in one family.
struct Candidates<'a> {
    port: &'a ServicePort,
    is_ipv4: bool,
    backends: Vec<Backend>,
}

impl Frontends {
    pub(super) fn current(&self) -> &BTreeMap<Frontend, FrontendEntry> {
        self.entries.current()
    }

    pub(super) fn changed(&self) -> Vec<Changed<Frontend, FrontendEntry>> {
        self.entries.changed()
    }

    pub(super) fn publish(&mut self) {
        self.entries.publish();
    }

    fn slices_of(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    fn has_slices(&self, service: &NamespacedName) -> bool {
        self.slices.get(service).is_some_and(|slices| !slices.is_empty())
    }
}

impl Engine {
    /// For kernels on which packets cannot be judged behind the choice of a backend: every frontend is allowed where all its
    /// backends are, or not at all. To be said before any object is applied.
    pub fn judge_in_front_of_services(&mut self) {
        self.frontends.judged_in_front = true;
    }

    pub(super) fn apply_service(&mut self, service: Service) -> bool {
        let id = service.id.clone();
        let differs = self.frontends.services.get(&id) != Some(&service);
        if differs {
            self.frontends.services.insert(id.clone(), service);
            self.frontends.stale.insert(id);
        }
        differs
    }

    pub(super) fn delete_service(&mut self, id: &NamespacedName) -> bool {
        let was_known = self.frontends.services.remove(id).is_some();
        if was_known {
            self.frontends.stale.insert(id.clone());
        }
        was_known
    }

    pub(super) fn apply_slice(&mut self, slice: EndpointSlice) -> bool {
        let id = slice.id.clone();
        let owner = slice.service.clone().map(|name| NamespacedName::new(id.namespace.clone(), name));
        let mut differs = false;
        if self.frontends.slice_owners.get(&id) != owner.as_ref() {
            differs |= self.delete_slice(&id);
        }
        let Some(owner) = owner else { return differs };
        let slices = self.frontends.slices.entry(owner.clone()).or_default();
        if slices.get(&id.name) == Some(&slice) {
            return differs;
        }
        slices.insert(id.name.clone(), slice);
        self.frontends.slice_owners.insert(id, owner.clone());
        self.frontends.stale.insert(owner);
        true
    }

    pub(super) fn delete_slice(&mut self, id: &NamespacedName) -> bool {
        let Some(owner) = self.frontends.slice_owners.remove(id) else { return false };
        if let Some(slices) = self.frontends.slices.get_mut(&owner) {
            slices.remove(&id.name);
            if slices.is_empty() {
                self.frontends.slices.remove(&owner);
            }
        }
        self.frontends.stale.insert(owner);
        true
    }

    /// A pod came, went or changed: Services without slices may select it.
    pub(super) fn pod_may_serve(&mut self, pod: &Pod) {
        self.frontends.stale_namespaces.insert(pod.id.namespace.clone());
    }

    /// A node came, went or changed its addresses: its node ports with it.
    pub(super) fn node_changed(&mut self) {
        let has_node_ports = |service: &&Service| service.ports.iter().any(|port| port.node_port.is_some());
        let frontends = &mut self.frontends;
        let services = frontends.services.values().filter(has_node_ports).map(|service| service.id.clone());
        frontends.stale.extend(services);
    }

    /// More or less is known of what is inside these prefixes.
    pub(super) fn known_changed(&mut self, prefixes: BTreeSet<IpNet>) {
        if !self.frontends.together.is_empty() {
            self.frontends.touched.extend(prefixes);
        }
    }

    /// Brings the frontends up to date with all that was applied. Not with each object: of a Service's slices and pods there may be
    /// thousands in one change.
    pub(super) fn refresh_frontends(&mut self) {
        let frontends = &mut self.frontends;
        let mut stale = std::mem::take(&mut frontends.stale);
        for prefix in std::mem::take(&mut frontends.touched) {
            let (first, last) = bounds(prefix);
            stale.extend(frontends.together.range(first..=last).flat_map(|(_, services)| services).cloned());
        }
        for namespace in std::mem::take(&mut frontends.stale_namespaces) {
            let first = NamespacedName::new(namespace.clone(), "");
            let of_namespace =
                frontends.services.range(first..).take_while(|(id, _)| id.namespace == namespace);
            let selecting = of_namespace
                .filter(|(id, service)| service.selector.is_some() && !frontends.has_slices(id))
                .map(|(id, _)| id.clone());
            stale.extend(selecting);
        }
        for id in stale {
            self.refresh_service(&id);
        }
    }

    /// Finds anew what a Service's frontends are.
    fn refresh_service(&mut self, id: &NamespacedName) {
        // Frontends are what a node's pods meet.
        let Scope::Node(here) = self.scope.clone() else { return };
        let (claims, backends) = match self.frontends.services.get(id).cloned() {
            Some(service) => self.claims_of(&service, &here),
            None => Default::default(),
        };
        self.set_claims(id, claims);
        let before = self.frontends.backends.remove(id).unwrap_or_default();
        for address in before.difference(&backends) {
            if let Some(services) = self.frontends.together.get_mut(address) {
                services.remove(id);
                if services.is_empty() {
                    self.frontends.together.remove(address);
                }
            }
        }
        for address in backends.difference(&before) {
            self.frontends.together.entry(*address).or_default().insert(id.clone());
        }
        if !backends.is_empty() {
            self.frontends.backends.insert(id.clone(), backends);
        }
    }

    /// A Service's frontends, and the addresses of backends whose classes they rest on. Each class is acquired once for each claim.
    fn claims_of(
        &mut self,
        service: &Service,
        here: &Arc<str>,
    ) -> (BTreeMap<Frontend, FrontendEntry>, BTreeSet<IpAddr>) {
        let mut claims = BTreeMap::new();
        let mut rests_on = BTreeSet::new();
        let in_front = self.frontends.judged_in_front;
        let candidates = self.candidates(service);
        let of = |port: &ServicePort, like: IpAddr| -> &[Backend] {
            let it = candidates.iter().find(|it| it.port == port && it.is_ipv4 == like.is_ipv4());
            it.map_or(&[], |it| &it.backends)
        };
        for (frontend, via, port) in service.frontends() {
            let within = (via == Via::Cluster && service.internal_local).then_some(&**here);
            let backends = eligible(of(port, frontend.address), within);
            if !backends.is_empty() {
                let entry = if in_front {
                    FrontendEntry::Together(self.together(port, &backends, &mut rests_on))
                } else {
                    FrontendEntry::BehindNat
                };
                self.claim(&mut claims, frontend, entry);
            }
        }
        // What a pod sends to its own node is judged behind NAT whatever it is.
        let nodes: Vec<Node> =
            self.nodes.values().filter(|node| in_front || node.name != *here).cloned().collect();
        // A port's backends are the same on every node, unless each prefers its own.
        let mut shared: HashMap<(u16, Protocol, bool), PeerClass> = HashMap::new();
        for node in nodes {
            for (frontend, port) in service.node_ports(&node) {
                let candidates = of(port, frontend.address);
                let mut backends = eligible(candidates, None);
                if service.external_local {
                    // That node may have none but such that terminate, while others elsewhere are ready.
                    backends.extend(eligible(candidates, Some(&*node.name)));
                }
                if backends.is_empty() {
                    continue;
                }
                let port_of_all = (frontend.port, frontend.protocol, frontend.address.is_ipv4());
                let class = match shared.get(&port_of_all) {
                    Some(class) if !service.external_local => {
                        self.peers.classes.share(class.0);
                        *class
                    }
                    _ => self.together(port, &backends, &mut rests_on),
                };
                shared.insert(port_of_all, class);
                self.claim(&mut claims, frontend, FrontendEntry::Together(class));
            }
        }
        (claims, rests_on)
    }

    fn claim(
        &mut self,
        claims: &mut BTreeMap<Frontend, FrontendEntry>,
        frontend: Frontend,
        entry: FrontendEntry,
    ) {
        if let Some(FrontendEntry::Together(class)) = claims.insert(frontend, entry) {
            self.peers.classes.release(class.0);
        }
    }

    /// What each port of a Service may lead to, by family: looked up once, however many nodes have it as a node port.
    fn candidates<'a>(&self, service: &'a Service) -> Vec<Candidates<'a>> {
        let pods: Vec<&Pod> = if self.frontends.has_slices(&service.id) {
            Vec::new()
        } else {
            self.pods.all_in(&service.id.namespace).map(|pod| &**pod).collect()
        };
        let families: [IpAddr; 2] = [[0; 4].into(), [0; 16].into()];
        let ports = service.ports.iter().flat_map(|port| families.map(|like| (port, like)));
        let of = |(port, like): (&'a ServicePort, IpAddr)| {
            let slices = self.frontends.slices_of(&service.id);
            let backends = candidates(service, port, slices, pods.iter().copied(), like);
            Candidates { port, is_ipv4: like.is_ipv4(), backends }
        };
        ports.map(of).collect()
    }

    /// The class of backends together.
    fn together(
        &mut self,
        port: &ServicePort,
        backends: &[&Backend],
        rests_on: &mut BTreeSet<IpAddr>,
    ) -> PeerClass {
        let mut places: Vec<_> = backends
            .iter()
            .map(|backend| {
                rests_on.insert(backend.address);
                let (_, entry) = self.peers.decides(IpNet::from(backend.address));
                let facts = match self.peers.classes.get(entry.class.0).map(|class| &*class.meaning) {
                    Some(Known::Address(facts)) => facts.clone(),
                    _ => Facts::default(),
                };
                Place { facts, local: entry.local, protocol: port.protocol, port: backend.port }
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        let (class, _) = self.peers.classes.acquire(Known::Backends(places));
        PeerClass(class)
    }

    /// Replaces what a Service makes of its frontends.
    fn set_claims(&mut self, id: &NamespacedName, mut claims: BTreeMap<Frontend, FrontendEntry>) {
        let mut frontends = self.frontends.claimed.remove(id).unwrap_or_default();
        let now: BTreeSet<Frontend> = claims.keys().copied().collect();
        frontends.extend(&now);
        for frontend in frontends {
            let claimants = self.frontends.claims.entry(frontend).or_default();
            let old = match claims.remove(&frontend) {
                Some(entry) => claimants.insert(id.clone(), entry),
                None => claimants.remove(id),
            };
            // One that is judged behind the choice is judged by its own backend, whoever claims it.
            let behind = claimants.values().find(|entry| **entry == FrontendEntry::BehindNat);
            let entry = behind.or_else(|| claimants.values().next()).copied();
            if claimants.is_empty() {
                self.frontends.claims.remove(&frontend);
            }
            self.frontends.entries.set(&frontend, entry);
            // The new one was acquired before the old one is given up.
            if let Some(FrontendEntry::Together(class)) = old {
                self.peers.classes.release(class.0);
            }
        }
        if !now.is_empty() {
            self.frontends.claimed.insert(id.clone(), now);
        }
    }
}

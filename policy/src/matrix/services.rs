//! Rows of Services: every backend that kube-proxy may choose for a source, judged one by one.
//!
//! Which backends there are to choose from, and under whose address the packet arrives, depends on the frontend:
//!
//! | frontend | traffic policy | asked by | backends | the backend sees |
//! |---|---|---|---|---|
//! | cluster address | Cluster | pods | all | the pod |
//! | cluster address | Local | pods | those of its node | the pod |
//! | headless | any | pods | all that are ready: DNS names them | the pod |
//! | node port, external | Cluster | pods, hosts outside | all | the node that translates |
//! | node port, external | Local | pods of the node that translates | all | the pod |
//! | node port, external | Local | everyone else | those of the node that translates | the source |
//! | any | any | processes of the node that translates | all (cluster address with Local: its own) | the node |
//!
//! Pods on the host's network are processes of their node. The node that translates is the source's own, but for node
//! ports, where it is the node asked, and for external addresses that hosts outside ask
//! ([`entry`](crate::services::entry)).
//!
//! What a node forwards under its own address is judged by that address, also by its own pods: only what its processes
//! send is exempt. A pod sends to the node port of another node only what all backends may get, since its own node
//! cannot see which one the other chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Cell, End, IpFamily, Judge, Reach};
use crate::model::{
    Direction, EndpointSlice, NamespacedName, Node, Object, Pod, Protocol, Service, ServicePort,
};
use crate::services::{self, Backend, Via, eligible};

/// The cells of all Services.
pub(super) fn cells(objects: &[Object], ends: &[End<'_>], judge: &Judge<'_>) -> Vec<Cell> {
    let world = World::of(objects, ends);
    let mut cells = Vec::new();
    for service in world.services.values() {
        for ip_family in [IpFamily::V4, IpFamily::V6] {
            for row in world.rows(service, ip_family) {
                for from in ends {
                    let Some(allowed) = world.reach(&row, from, ip_family, judge) else { continue };
                    cells.push(Cell {
                        from: from.name.clone(),
                        to: row.to.clone(),
                        port: row.port,
                        protocol: row.protocol,
                        ip_family,
                        allowed,
                    });
                }
            }
        }
    }
    cells
}

/// The objects that Services are made of; the last of several with one name counts, as it does in the engine.
struct World<'a> {
    services: BTreeMap<&'a NamespacedName, &'a Service>,
    slices: BTreeMap<&'a NamespacedName, &'a EndpointSlice>,
    pods: BTreeMap<&'a NamespacedName, &'a Pod>,
    nodes: BTreeMap<&'a str, &'a Node>,
    /// Who answers at an address.
    owners: BTreeMap<IpAddr, &'a End<'a>>,
}

/// A destination and port.
struct Row<'a> {
    to: String,
    port: u16,
    protocol: Protocol,
    service: &'a Service,
    frontend: Frontend<'a>,
    candidates: Vec<Backend>,
    /// Where hosts outside go for external addresses.
    entry: Option<&'a Node>,
}

#[derive(Clone, Copy)]
enum Frontend<'a> {
    Cluster,
    Headless,
    NodePort(&'a Node),
    External,
}

/// A backend that may be chosen, and the address that it sees when that is not the source's own.
type Choice<'a> = (&'a Backend, Option<IpAddr>);

impl<'a> World<'a> {
    fn of(objects: &'a [Object], ends: &'a [End<'a>]) -> Self {
        let mut world = Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        for object in objects {
            match object {
                Object::Service(service) => drop(world.services.insert(&service.id, service)),
                Object::EndpointSlice(slice) => drop(world.slices.insert(&slice.id, slice)),
                Object::Pod(pod) => drop(world.pods.insert(&pod.id, pod)),
                Object::Node(node) => drop(world.nodes.insert(&node.name, node)),
                Object::Namespace(_) | Object::NetworkPolicy(_) => {}
            }
        }
        for end in ends {
            world.owners.extend(end.addresses.iter().map(|address| (*address, end)));
        }
        world
    }

    fn candidates(&self, service: &Service, port: &ServicePort, like: IpAddr) -> Vec<Backend> {
        let (slices, pods) = (self.slices.values().copied(), self.pods.values().copied());
        services::candidates(service, port, slices, pods, like)
    }

    fn rows(&self, service: &'a Service, family: IpFamily) -> Vec<Row<'a>> {
        let like = any(family);
        let candidates: Vec<_> =
            service.ports.iter().map(|port| (port, self.candidates(service, port, like))).collect();
        let all: Vec<Backend> = candidates.iter().flat_map(|(_, backends)| backends).cloned().collect();
        let entry = services::entry(service, &all, self.nodes.values().copied(), like);
        let row = |to, port, protocol, frontend, candidates: &[Backend]| Row {
            to,
            port,
            protocol,
            service,
            frontend,
            candidates: candidates.to_vec(),
            entry,
        };
        let name = format!("service:{}", service.id);
        let mut rows = Vec::new();
        for (port, candidates) in &candidates {
            let protocol = port.protocol;
            let ways: BTreeSet<Via> = service
                .frontends()
                .filter(|(frontend, _, of)| of == port && IpFamily::of(frontend.address) == family)
                .map(|(_, via, _)| via)
                .collect();
            if ways.contains(&Via::Cluster) {
                rows.push(row(name.clone(), port.port, protocol, Frontend::Cluster, candidates));
            }
            if ways.contains(&Via::External) {
                let to = format!("{name}@external");
                rows.push(row(to, port.port, protocol, Frontend::External, candidates));
            }
            for node in self.nodes.values() {
                let mut ports = service.node_ports(node);
                let here =
                    ports.find(|(frontend, of)| of == port && IpFamily::of(frontend.address) == family);
                if let Some((frontend, _)) = here {
                    let to = format!("{name}@{}", node.name);
                    rows.push(row(to, frontend.port, protocol, Frontend::NodePort(node), candidates));
                }
            }
        }
        for ((protocol, port), backends) in headless(service, &candidates) {
            rows.push(row(name.clone(), port, protocol, Frontend::Headless, &backends));
        }
        rows
    }

    /// What the source reaches; `None` where there is no way for it to ask.
    fn reach(&self, row: &Row<'a>, from: &End<'_>, family: IpFamily, judge: &Judge<'_>) -> Option<Reach> {
        let choices = self.choices(row, from, any(family))?;
        let mut connections = from.of_family(family).flat_map(|source| {
            // None to choose from is one connection that fails.
            let none = choices.is_empty().then_some(false);
            let through =
                |(backend, shown): &Choice<'_>| self.judged(row, from, source, backend, *shown, judge);
            none.into_iter().chain(choices.iter().map(through)).collect::<Vec<_>>()
        });
        let first = connections.next()?;
        Some(Reach::of(std::iter::once(first).chain(connections)))
    }

    fn judged(
        &self,
        row: &Row<'_>,
        from: &End<'_>,
        source: IpAddr,
        backend: &Backend,
        shown: Option<IpAddr>,
        judge: &Judge<'_>,
    ) -> bool {
        let leaves =
            |to: &Backend| judge.allows(from, Direction::Egress, to.address).allows(row.protocol, to.port);
        let beyond = is_beyond(row, from);
        let sent = match row.frontend {
            Frontend::NodePort(node) if beyond => {
                // With `Local`, what terminates there may be chosen although something is ready elsewhere.
                let there = row.service.external_local.then_some(&*node.name);
                let possible = [None, there].map(|within| eligible(&row.candidates, within)).concat();
                possible.into_iter().all(leaves)
            }
            _ => leaves(backend),
        };
        let Some(owner) = self.owners.get(&backend.address).filter(|_| sent) else { return sent };
        let ports = match (shown, owner.pod) {
            // A pod that comes back to itself; what its own node masquerades for that is known for it.
            _ if owner.name == from.name && !beyond => return true,
            (None, _) => judge.allows(owner, Direction::Ingress, source),
            (Some(_), Some(pod)) if pod.host_network => return true,
            (Some(address), Some(pod)) => judge.judges(pod, Direction::Ingress, address),
            (Some(_), None) => return true,
        };
        ports.allows(row.protocol, backend.port)
    }

    fn choices<'b>(&self, row: &'b Row<'a>, from: &End<'_>, like: IpAddr) -> Option<Vec<Choice<'b>>> {
        let own = from.pod.and_then(|pod| pod.node.as_deref());
        let all = || eligible(&row.candidates, None);
        let within = |node: &str| eligible(&row.candidates, Some(node));
        let kept = |backends: Vec<&'b Backend>| backends.into_iter().map(|it| (it, None)).collect();
        let translator = match row.frontend {
            Frontend::Cluster | Frontend::Headless if from.pod.is_none() => return None,
            Frontend::Cluster if row.service.internal_local => {
                return Some(kept(within(own.unwrap_or_default())));
            }
            Frontend::Cluster | Frontend::Headless => return Some(kept(all())),
            Frontend::NodePort(node) => node,
            Frontend::External if from.pod.is_none() => row.entry?,
            Frontend::External => *self.nodes.get(own?)?,
        };
        let is_here = own == Some(&*translator.name);
        let is_process = is_here && from.pod.is_some_and(|pod| pod.host_network);
        Some(if is_process || (row.service.external_local && is_here) {
            kept(all())
        } else if row.service.external_local {
            kept(within(&translator.name))
        } else {
            let address = translator.address_like(like)?;
            all().into_iter().map(|backend| (backend, Some(address))).collect()
        })
    }
}

/// Whether the choice is made where the source's own node cannot see it.
fn is_beyond(row: &Row<'_>, from: &End<'_>) -> bool {
    let Frontend::NodePort(node) = row.frontend else { return false };
    from.pod.is_some_and(|pod| pod.node.as_deref() != Some(&*node.name))
}

/// Where DNS leads for a headless Service: ready backends, by their own ports, which two of the Service's ports may share
/// and a named one may not.
fn headless(
    service: &Service,
    candidates: &[(&ServicePort, Vec<Backend>)],
) -> BTreeMap<(Protocol, u16), Vec<Backend>> {
    let mut rows: BTreeMap<_, Vec<Backend>> = BTreeMap::new();
    for (port, backends) in candidates.iter().filter(|_| service.cluster_ips.is_empty()) {
        for backend in backends.iter().filter(|backend| backend.ready) {
            let there = rows.entry((port.protocol, backend.port)).or_default();
            if !there.iter().any(|it| it.address == backend.address) {
                there.push(backend.clone());
            }
        }
    }
    rows
}

/// Some address of the family.
const fn any(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

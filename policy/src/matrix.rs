//! Who reaches whom: objects flow in, one cell for each question flows out, answered through the engine's tables.

#[cfg(test)]
mod agreement;
mod reach;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::reach::Reach;
use crate::engine::{Engine, Scope};
use crate::model::{Direction, Labels, Namespace, NamespacedName, Object, Pod, Protocol};
use crate::ports::PortSet;
use crate::tables::{ClassId, PeerEntry, Tables};

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Shown as `external/NAME`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports it listens on.
    pub ports: Vec<(u16, Protocol)>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// `namespace/pod` or `external/NAME`
    pub from: String,
    /// `namespace/pod`, `external/NAME`, or a Service: `service:namespace/name` (its cluster addresses; those of the
    /// backends for a headless one), `service:namespace/name@NODE` (its node port on that node's addresses),
    /// `service:namespace/name@external` (external and load balancers' addresses).
    pub to: String,
    /// A port that the destination declares; the node port for `service:namespace/name@NODE`.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of both addresses.
    pub ip_family: IpFamily,
    /// Whether the connection is allowed; where an end has several addresses of the family, from and to all of them.
    /// Mixed: it depends on which of a Service's backends is chosen.
    pub allowed: Reach,
}

/// Every source to every destination on each of the destination's declared ports, sorted.
///
/// Sources and destinations are the pods that have an address and are not finished, and `externals`; each also to
/// itself. Pods on the host's network are their node: no policy isolates them, and pods of the same node and they
/// always reach each other. Connections between externals are none of policy's business and always allowed.
///
/// Services are destinations too, and what counts for them is each backend that a proxy may choose for the source
/// (see the `services` module below). Nodes have node ports where their Node objects give their addresses.
///
/// `objects` are taken for the whole cluster: a namespace that is not among them has no labels but its name.
#[must_use]
pub fn matrix(objects: &[Object], externals: &[External]) -> Vec<Cell> {
    let mut engine = Engine::new(Scope::All, ClassId::default());
    for object in implied_namespaces(objects).into_iter().chain(objects.iter().cloned()) {
        engine.apply(object);
    }
    let tables = engine.tables();
    let nodes = node_addresses(objects);
    let ends = ends(objects, externals);
    // Looked up once for each address, not for each pair.
    let known: BTreeMap<IpAddr, PeerEntry> =
        ends.iter().flat_map(|end| &end.addresses).map(|address| (*address, tables.peer(*address))).collect();
    let judge = Judge { tables: &tables, known, nodes };
    let mut cells = Vec::new();
    for from in &ends {
        for to in &ends {
            for ip_family in [IpFamily::V4, IpFamily::V6] {
                let pairs: Vec<_> = from
                    .of_family(ip_family)
                    .flat_map(|source| to.of_family(ip_family).map(move |destination| (source, destination)))
                    .collect();
                if pairs.is_empty() {
                    continue;
                }
                let allows: Vec<_> = pairs
                    .into_iter()
                    .flat_map(|(source, destination)| {
                        [
                            judge.allows(from, Direction::Egress, destination),
                            judge.allows(to, Direction::Ingress, source),
                        ]
                    })
                    .collect();
                for (port, protocol) in &to.ports {
                    let all = allows.iter().all(|ports| ports.allows(*protocol, *port));
                    let allowed = Reach::from(from.name == to.name || all);
                    cells.push(Cell {
                        from: from.name.clone(),
                        to: to.name.clone(),
                        port: *port,
                        protocol: *protocol,
                        ip_family,
                        allowed,
                    });
                }
            }
        }
    }
    cells.extend(services::cells(objects, &ends, &judge));
    cells.sort();
    cells
}

/// A source or destination.
struct End<'a> {
    name: String,
    /// `None` for externals.
    pod: Option<&'a Pod>,
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(u16, Protocol)>,
}

impl End<'_> {
    fn of_family(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |address| IpFamily::of(*address) == family)
    }
}

/// What all cells are judged by.
struct Judge<'a> {
    tables: &'a Tables,
    known: BTreeMap<IpAddr, PeerEntry>,
    nodes: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}

impl Judge<'_> {
    /// What an end allows a remote address.
    fn allows(&self, end: &End, direction: Direction, remote: IpAddr) -> PortSet {
        let Some(pod) = end.pod.filter(|pod| !pod.host_network) else { return PortSet::Everything };
        let node = pod.node.as_ref().and_then(|node| self.nodes.get(node));
        if node.is_some_and(|addresses| addresses.contains(&remote)) {
            return PortSet::Everything;
        }
        self.judges(pod, direction, remote)
    }

    /// The same by policy alone, without regard to the own node: for what a node forwards under its own address.
    fn judges(&self, pod: &Pod, direction: Direction, remote: IpAddr) -> PortSet {
        let peer = self.known.get(&remote).copied().unwrap_or_else(|| self.tables.peer(remote));
        self.tables.ports_of(&pod.id, direction, remote, peer)
    }
}

fn ends<'a>(objects: &'a [Object], externals: &[External]) -> Vec<End<'a>> {
    // The last of several objects with one name counts, as it does in the engine.
    let pods: BTreeMap<&NamespacedName, &Pod> = pods(objects).map(|pod| (&pod.id, pod)).collect();
    let pods = pods.into_values().filter(|pod| !pod.finished && !pod.addresses.is_empty()).map(|pod| End {
        name: pod.id.to_string(),
        pod: Some(pod),
        addresses: pod.addresses.iter().copied().collect(),
        ports: pod.ports.iter().map(|port| (port.number, port.protocol)).collect(),
    });
    let externals = externals.iter().map(|external| End {
        name: format!("external/{}", external.name),
        pod: None,
        addresses: external.addresses.iter().copied().collect(),
        ports: external.ports.iter().copied().collect(),
    });
    pods.chain(externals).collect()
}

fn pods(objects: &[Object]) -> impl Iterator<Item = &Pod> {
    objects.iter().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    })
}

/// Each node's own addresses, as its object and the pods on its network tell them.
fn node_addresses(objects: &[Object]) -> BTreeMap<Arc<str>, BTreeSet<IpAddr>> {
    let mut nodes: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
    for object in objects {
        let (node, addresses) = match object {
            Object::Node(node) => (&node.name, &node.addresses),
            Object::Pod(Pod { node: Some(node), host_network: true, finished: false, addresses, .. }) => {
                (node, addresses)
            }
            _ => continue,
        };
        nodes.entry(node.clone()).or_default().extend(addresses);
    }
    nodes
}

fn implied_namespaces(objects: &[Object]) -> Vec<Object> {
    let names: BTreeSet<_> = pods(objects).map(|pod| pod.id.namespace.clone()).collect();
    let labels = |name: &Arc<str>| Labels::from([("kubernetes.io/metadata.name".into(), name.clone())]);
    names.into_iter().map(|name| Object::Namespace(Namespace { labels: labels(&name), name })).collect()
}

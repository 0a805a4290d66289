//! Services: which frontends there are, and which backends each leads to.
//!
//! What is here is what kube-proxy does with a packet, not what policy says of it. Policy is asked about the backend
//! alone, and on the backend's port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    ContainerPort, EndpointSlice, NamespacedName, Node, Pod, Protocol, Service, ServicePort, TargetPort,
};

/// An address and port that lead to a Service's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// A cluster, external, load balancer's or node's address.
    pub address: IpAddr,
    /// The Service port's protocol.
    pub protocol: Protocol,
    /// The Service's port, or its node port.
    pub port: u16,
}

/// What a packet may end at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The first of the endpoint's addresses, which is the one that proxies use.
    pub address: IpAddr,
    /// The backend's own port.
    pub port: u16,
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// Whether it is ready; else it terminates, and still serves (`EndpointConditions.serving`).
    pub ready: bool,
}

/// The candidates for a Service's port, in the family of `like`: ready ones, and those that serve while they terminate.
///
/// Endpoint slices where there are any; else, for manifests without slices, the pods that the selector selects.
#[must_use]
pub fn candidates<'a>(
    service: &Service,
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    pods: impl IntoIterator<Item = &'a Pod>,
    like: IpAddr,
) -> Vec<Backend> {
    let mut slices = slices.into_iter().filter(|slice| slice.serves(&service.id)).peekable();
    let mut backends = Vec::new();
    if slices.peek().is_some() {
        for slice in slices {
            let mut ports =
                slice.ports.iter().filter(|it| it.name == port.name && it.protocol == port.protocol);
            let Some(number) = ports.find_map(|it| it.port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|it| it.ready || it.serving && it.terminating) {
                let Some(address) = endpoint.addresses.first() else { continue };
                let node = endpoint.node.clone();
                backends.push(Backend { address: *address, port: number, node, ready: endpoint.ready });
            }
        }
    } else if let Some(selector) = &service.selector {
        let selected = pods.into_iter().filter(|pod| {
            pod.id.namespace == service.id.namespace && !pod.finished && selector.matches(&pod.labels)
        });
        for pod in selected {
            let Some(number) = port.target.on(pod, port.protocol) else { continue };
            // The endpoint slice controller lists a pod's first address of a family.
            let address = pod.addresses.iter().find(|address| address.is_ipv4() == like.is_ipv4());
            let Some(address) = address else { continue };
            backends.push(Backend { address: *address, port: number, node: pod.node.clone(), ready: true });
        }
    }
    backends.retain(|backend| backend.address.is_ipv4() == like.is_ipv4());
    // Two slices may list one endpoint while it moves between them: it is ready when one of them says so.
    backends.sort_unstable_by(|a, b| {
        (a.address, a.port, !a.ready, &a.node).cmp(&(b.address, b.port, !b.ready, &b.node))
    });
    backends.dedup_by(|later, first| (later.address, later.port) == (first.address, first.port));
    backends
}

/// Those of the candidates that packets go to: of one node where the traffic policy is `Local`, the ready ones; where
/// none is ready, those that still serve while they terminate (kube-proxy's `CategorizeEndpoints`).
#[must_use]
pub fn eligible<'a>(candidates: &'a [Backend], within: Option<&str>) -> Vec<&'a Backend> {
    let there = || candidates.iter().filter(|it| within.is_none_or(|node| it.node.as_deref() == Some(node)));
    let ready: Vec<_> = there().filter(|backend| backend.ready).collect();
    if ready.is_empty() { there().collect() } else { ready }
}

/// How a frontend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// `spec.clusterIPs`
    Cluster,
    /// `spec.externalIPs`, or a load balancer's address.
    External,
    /// `spec.ports[].nodePort`, on a node's address.
    NodePort,
}

impl Service {
    /// The frontends on addresses of the Service's own, with the port that each is of. External addresses are frontends
    /// in the families alone in which the Service has a cluster address: proxies skip a headless Service altogether.
    pub fn frontends(&self) -> impl Iterator<Item = (Frontend, Via, &ServicePort)> {
        let cluster = self.cluster_ips.iter().map(|address| (*address, Via::Cluster));
        let external = self.external_ips.iter().filter(|address| self.has_family_of(**address));
        let external = external.map(|address| (*address, Via::External));
        cluster.chain(external).flat_map(|(address, via)| {
            let at = move |port: &ServicePort| Frontend { address, protocol: port.protocol, port: port.port };
            self.ports.iter().map(move |port| (at(port), via, port))
        })
    }

    /// The Service's node ports on a node's addresses, in the families that the Service has.
    pub fn node_ports<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (Frontend, &'a ServicePort)> {
        node.addresses.iter().filter(|address| self.has_family_of(**address)).flat_map(|address| {
            self.ports.iter().filter_map(|port| {
                let frontend = Frontend { address: *address, protocol: port.protocol, port: port.node_port? };
                Some((frontend, port))
            })
        })
    }

    fn has_family_of(&self, address: IpAddr) -> bool {
        self.cluster_ips.iter().any(|it| it.is_ipv4() == address.is_ipv4())
    }
}

/// The node that hosts outside reach a Service's external addresses through, where nothing tells them another: the first
/// by name; with `externalTrafficPolicy: Local` the first that has a backend, as load balancers choose by health checks.
///
/// `candidates` are those of all the Service's ports, in the family of `like`.
#[must_use]
pub fn entry<'a>(
    service: &Service,
    candidates: &[Backend],
    nodes: impl IntoIterator<Item = &'a Node>,
    like: IpAddr,
) -> Option<&'a Node> {
    let has_backend = |node: &&Node| !eligible(candidates, Some(&node.name)).is_empty();
    let reachable = nodes.into_iter().filter(|node| node.address_like(like).is_some());
    let nodes: BTreeMap<_, _> = reachable.map(|node| (&node.name, node)).collect();
    let mut in_order = nodes.into_values();
    if service.external_local { in_order.find(has_backend) } else { in_order.next() }
}

impl Node {
    /// The first of its addresses in the family of `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

impl EndpointSlice {
    /// Whether the slice lists backends of a Service.
    #[must_use]
    pub fn serves(&self, service: &NamespacedName) -> bool {
        self.id.namespace == service.namespace && self.service.as_ref() == Some(&service.name)
    }
}

impl TargetPort {
    /// The number of the port on a pod; none where the pod does not declare the name for the protocol.
    #[must_use]
    pub fn on(&self, pod: &Pod, protocol: Protocol) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Named(name) => {
                let is_it = |it: &&ContainerPort| it.protocol == protocol && it.name.as_ref() == Some(name);
                pod.ports.iter().find(is_it).map(|port| port.number)
            }
        }
    }
}

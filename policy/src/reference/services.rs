//! What becomes of connections to a Service, from the words of its fields' documentation.
//!
//! A source and a frontend in; one answer for each backend that the connection may end at out. Nothing here is shared
//! with [`services`](crate::services), which the compiler's side asks.

use std::net::IpAddr;

use super::{Endpoint, Traffic, allowed_by, live_pod, ruled};
use crate::model::{
    Direction, EndpointSlice, NamespacedName, Object, Pod, Protocol, Service, ServicePort, TargetPort,
};

/// How a Service is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// At its cluster addresses; where it has none, at the addresses that DNS gives for it.
    Cluster,
    /// At its node port, on a node.
    NodePort(String),
    /// At an external or a load balancer's address.
    External,
}

/// A place that serves a Service's port.
#[derive(Clone, Debug)]
struct Serving {
    address: IpAddr,
    port: u16,
    node: Option<String>,
    ready: bool,
}

/// One answer for each backend; empty where there is none. `None` where the source cannot ask, or nothing is there.
///
/// `port` is the frontend's: the Service's port, a node port, or a backend's port for a headless Service.
#[must_use]
pub fn connections(
    objects: &[Object],
    source: &Endpoint,
    service: &NamespacedName,
    frontend: &Frontend,
    protocol: Protocol,
    port: u16,
) -> Option<Vec<bool>> {
    let v4 = source.address.is_ipv4();
    let service = objects.iter().find_map(|object| match object {
        Object::Service(it) if it.id == *service => Some(it),
        _ => None,
    })?;
    let pod = source.pod.as_ref().and_then(|id| live_pod(objects, id));
    let headless = service.cluster_ips.is_empty();
    if headless {
        let found = pod.filter(|_| *frontend == Frontend::Cluster).map(|_| {
            let all = serving(objects, service, v4, |of| of.protocol == protocol);
            all.into_iter().filter(|it| it.port == port && it.ready).collect::<Vec<_>>()
        })?;
        let answers: Vec<bool> = found.iter().map(|it| kept(objects, source, it, protocol)).collect();
        return Some(answers).filter(|answers| !answers.is_empty());
    }
    if !service.cluster_ips.iter().any(|address| address.is_ipv4() == v4) {
        return None;
    }
    let is_asked = |of: &ServicePort| {
        of.protocol == protocol
            && match frontend {
                Frontend::NodePort(_) => of.node_port == Some(port),
                _ => of.port == port,
            }
    };
    let exists = match frontend {
        Frontend::Cluster => true,
        Frontend::NodePort(node) => node_address(objects, node, v4).is_some(),
        Frontend::External => service.external_ips.iter().any(|address| address.is_ipv4() == v4),
    };
    if !exists || !service.ports.iter().any(is_asked) {
        return None;
    }
    let all = serving(objects, service, v4, is_asked);
    // Where is the packet translated?
    let here = pod.and_then(|pod| pod.node.as_deref());
    let there = match frontend {
        Frontend::Cluster => {
            let node = service.internal_local.then_some(here.unwrap_or("(none)"));
            let usable = usable(&all, node);
            return pod.map(|_| usable.iter().map(|it| kept(objects, source, it, protocol)).collect());
        }
        Frontend::NodePort(node) => node.clone(),
        Frontend::External if pod.is_some() => here?.to_owned(),
        Frontend::External => outside_door(objects, service, v4)?,
    };
    let at_home = here == Some(&*there);
    let of_node = pod.is_some_and(|pod| pod.host_network);
    // "Local" preserves the client's address, and drops what finds no endpoint on the node. What starts on the node is
    // as if it had not left the cluster.
    if service.external_local || (at_home && of_node) {
        let backends = usable(&all, (!at_home).then_some(&*there));
        // The pod's own node does not see which is chosen: all that could be are to be allowed.
        let leaves_to_all = leaves_to_all(objects, source, &all, protocol)
            && backends.iter().all(|it| leaves(objects, source, it, protocol));
        let may_leave = pod.is_none() || at_home || leaves_to_all;
        return Some(backends.iter().map(|it| may_leave && kept(objects, source, it, protocol)).collect());
    }
    let there_address = node_address(objects, &there, v4)?;
    let blind = pod.is_some() && !at_home;
    let may_leave = leaves_to_all(objects, source, &all, protocol);
    let answers = usable(&all, None).into_iter().map(|it| {
        let leaves = if blind { may_leave } else { leaves(objects, source, &it, protocol) };
        let itself = at_home && is_own(pod, it.address);
        leaves && (itself || arrives(objects, there_address, &it, protocol))
    });
    Some(answers.collect())
}

fn is_own(pod: Option<&Pod>, address: IpAddr) -> bool {
    pod.is_some_and(|pod| pod.addresses.contains(&address))
}

/// A connection whose source keeps its address.
fn kept(objects: &[Object], source: &Endpoint, to: &Serving, protocol: Protocol) -> bool {
    let destination = owner(objects, to.address);
    let traffic = Traffic::Port(protocol, to.port);
    [Direction::Egress, Direction::Ingress]
        .into_iter()
        .all(|direction| allowed_by(objects, direction, source, &destination, traffic))
}

fn leaves(objects: &[Object], source: &Endpoint, to: &Serving, protocol: Protocol) -> bool {
    let traffic = Traffic::Port(protocol, to.port);
    allowed_by(objects, Direction::Egress, source, &owner(objects, to.address), traffic)
}

fn leaves_to_all(objects: &[Object], source: &Endpoint, all: &[Serving], protocol: Protocol) -> bool {
    usable(all, None).iter().all(|it| leaves(objects, source, it, protocol))
}

/// What a node forwards under its own address: not its own, so that nothing is exempt.
fn arrives(objects: &[Object], shown: IpAddr, to: &Serving, protocol: Protocol) -> bool {
    let destination = owner(objects, to.address);
    let Some(subject) = destination.pod.as_ref().and_then(|id| live_pod(objects, id)) else { return true };
    let node = Endpoint { pod: None, address: shown };
    ruled(objects, Direction::Ingress, subject, &node, Traffic::Port(protocol, to.port))
}

/// The pod that has an address to itself.
fn owner(objects: &[Object], address: IpAddr) -> Endpoint {
    let pod = objects.iter().find_map(|object| match object {
        Object::Pod(pod) if !pod.finished && !pod.host_network && pod.addresses.contains(&address) => {
            Some(pod.id.clone())
        }
        _ => None,
    });
    Endpoint { pod, address }
}

fn node_address(objects: &[Object], name: &str, v4: bool) -> Option<IpAddr> {
    objects.iter().find_map(|object| match object {
        Object::Node(node) if &*node.name == name => {
            node.addresses.iter().copied().find(|address| address.is_ipv4() == v4)
        }
        _ => None,
    })
}

/// The node that the world outside sends external addresses to: by name, and with "Local" one that has a backend.
fn outside_door(objects: &[Object], service: &Service, v4: bool) -> Option<String> {
    let mut names: Vec<String> = objects
        .iter()
        .filter_map(|object| match object {
            Object::Node(node) => Some(node.name.to_string()),
            _ => None,
        })
        .filter(|name| node_address(objects, name, v4).is_some())
        .collect();
    names.sort();
    names.into_iter().find(|name| {
        !service.external_local
            || serving(objects, service, v4, |_| true).iter().any(|it| it.node.as_deref() == Some(name))
    })
}

/// "serving": those of a node where there is one to keep to; terminating ones only where none is ready.
fn usable(all: &[Serving], node: Option<&str>) -> Vec<Serving> {
    let mut chosen: Vec<Serving> = all.to_vec();
    if let Some(node) = node {
        chosen.retain(|it| it.node.as_deref() == Some(node));
    }
    if chosen.iter().any(|it| it.ready) {
        chosen.retain(|it| it.ready);
    }
    chosen
}

/// Everything behind the ports that are asked for.
fn serving(
    objects: &[Object],
    service: &Service,
    v4: bool,
    of: impl Fn(&ServicePort) -> bool,
) -> Vec<Serving> {
    let slices: Vec<&EndpointSlice> = objects
        .iter()
        .filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
        .filter(|slice| {
            slice.id.namespace == service.id.namespace && slice.service.as_deref() == Some(&service.id.name)
        })
        .collect();
    let mut found: Vec<Serving> = Vec::new();
    for port in service.ports.iter().filter(|port| of(port)) {
        for slice in &slices {
            let number = slice
                .ports
                .iter()
                .find(|it| it.name == port.name && it.protocol == port.protocol && it.port.is_some());
            let Some(number) = number.and_then(|it| it.port) else { continue };
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first().filter(|it| it.is_ipv4() == v4) else {
                    continue;
                };
                if endpoint.ready || (endpoint.serving && endpoint.terminating) {
                    let node = endpoint.node.as_ref().map(ToString::to_string);
                    found.push(Serving { address: *address, port: number, node, ready: endpoint.ready });
                }
            }
        }
        let selector = service.selector.as_ref().filter(|_| slices.is_empty());
        for pod in objects.iter().filter_map(|object| match object {
            Object::Pod(pod) if !pod.finished => Some(pod),
            _ => None,
        }) {
            let selected = selector.is_some_and(|selector| super::selects(selector, &pod.labels));
            let address = pod.addresses.iter().find(|address| address.is_ipv4() == v4);
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Named(name) => pod
                    .ports
                    .iter()
                    .find(|it| it.name.as_ref() == Some(name) && it.protocol == port.protocol)
                    .map(|it| it.number),
            };
            if let (true, Some(address), Some(port)) =
                (selected && pod.id.namespace == service.id.namespace, address, number)
            {
                let node = pod.node.as_ref().map(ToString::to_string);
                found.push(Serving { address: *address, port, node, ready: true });
            }
        }
    }
    // The same endpoint in two slices is one backend, ready if either says so.
    let mut one_each: Vec<Serving> = Vec::new();
    for it in found {
        match one_each.iter_mut().find(|known| (known.address, known.port) == (it.address, it.port)) {
            Some(known) => known.ready |= it.ready,
            None => one_each.push(it),
        }
    }
    one_each
}

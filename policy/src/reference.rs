//! The naive evaluator, straight from the API's words, for tests to compare the compiler with.
//!
//! A picture of the cluster and one packet flow in, yes or no flows out. It goes through every object for every
//! question, knows no classes and no tables, and shares nothing with the compiler but the model: even labels are
//! matched here once more.

pub mod services;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Direction, Labels, NamespaceScope, NamespacedName, NetworkPolicy, Object, Peer, Pod, Port, PortMatch,
    Protocol, Requirement, Rule, Selector,
};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod that it is; `None` outside the cluster, and for what a node itself sends or gets.
    pub pod: Option<NamespacedName>,
    /// The address that the packet carries.
    pub address: IpAddr,
}

/// What a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A protocol with ports, and the destination port.
    Port(Protocol, u16),
    /// ICMP, or another protocol without ports.
    Portless,
}

/// Whether a connection is allowed: by the source's egress and by the destination's ingress.
#[must_use]
pub fn allowed(objects: &[Object], source: &Endpoint, destination: &Endpoint, traffic: Traffic) -> bool {
    allowed_by(objects, Direction::Egress, source, destination, traffic)
        && allowed_by(objects, Direction::Ingress, source, destination, traffic)
}

/// Whether one side allows it: the source for egress, the destination for ingress.
#[must_use]
pub fn allowed_by(
    objects: &[Object],
    direction: Direction,
    source: &Endpoint,
    destination: &Endpoint,
    traffic: Traffic,
) -> bool {
    let (this, other) = match direction {
        Direction::Egress => (source, destination),
        Direction::Ingress => (destination, source),
    };
    // A host outside, or a node: never a subject.
    let Some(subject) = this.pod.as_ref().and_then(|id| live_pod(objects, id)) else { return true };
    if subject.host_network {
        return true;
    }
    // A pod to itself, by its own address.
    if subject.addresses.contains(&other.address) {
        return true;
    }
    // The pod's own node, in both directions.
    if let Some(node) = &subject.node
        && is_node_address(objects, node, other.address)
    {
        return true;
    }
    ruled(objects, direction, subject, other, traffic)
}

/// What the policies that select a pod say, whoever the other end is.
fn ruled(
    objects: &[Object],
    direction: Direction,
    subject: &Pod,
    other: &Endpoint,
    traffic: Traffic,
) -> bool {
    let policies: Vec<&NetworkPolicy> = objects
        .iter()
        .filter_map(|object| match object {
            Object::NetworkPolicy(policy) => Some(policy),
            _ => None,
        })
        .filter(|policy| policy.id.namespace == subject.id.namespace)
        .filter(|policy| selects(&policy.pod_selector, &subject.labels))
        .filter(|policy| rules(policy, direction).is_some())
        .collect();
    if policies.is_empty() {
        return true;
    }
    // The pod at the other end, when the address is a pod's own.
    let peer = other.pod.as_ref().and_then(|id| live_pod(objects, id)).filter(|pod| !pod.host_network);
    let named = match direction {
        Direction::Ingress => Some(subject),
        Direction::Egress => peer,
    };
    policies.iter().flat_map(|policy| rules(policy, direction).unwrap_or_default()).any(|rule| {
        let from = rule.peers.is_empty()
            || rule.peers.iter().any(|wanted| is_peer(objects, wanted, peer, other.address));
        let on = rule.ports.is_empty() || rule.ports.iter().any(|port| is_port(port, named, traffic));
        from && on
    })
}

fn live_pod<'a>(objects: &'a [Object], id: &NamespacedName) -> Option<&'a Pod> {
    objects.iter().find_map(|object| match object {
        Object::Pod(pod) if pod.id == *id && !pod.finished => Some(pod),
        _ => None,
    })
}

fn is_node_address(objects: &[Object], name: &str, address: IpAddr) -> bool {
    objects.iter().any(|object| match object {
        Object::Node(node) => &*node.name == name && node.addresses.contains(&address),
        Object::Pod(pod) => {
            pod.host_network
                && !pod.finished
                && pod.node.as_deref() == Some(name)
                && pod.addresses.contains(&address)
        }
        _ => false,
    })
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

fn is_peer(objects: &[Object], wanted: &Peer, pod: Option<&Pod>, address: IpAddr) -> bool {
    match wanted {
        Peer::Nothing => false,
        Peer::Block { cidr, except } => {
            holds(*cidr, address) && !except.iter().any(|except| holds(*except, address))
        }
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = pod else { return false };
            selects(pods, &pod.labels)
                && match namespaces {
                    NamespaceScope::Named(name) => pod.id.namespace == *name,
                    NamespaceScope::Matching(selector) => {
                        selects_namespace(objects, selector, &pod.id.namespace)
                    }
                }
        }
    }
}

/// Counts the leading bits that two addresses share.
fn holds(net: IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => {
            (u32::from(net.addr()) ^ u32::from(address)).leading_zeros() >= u32::from(net.prefix_len())
        }
        (IpNet::V6(net), IpAddr::V6(address)) => {
            (u128::from(net.addr()) ^ u128::from(address)).leading_zeros() >= u32::from(net.prefix_len())
        }
        _ => false,
    }
}

fn selects_namespace(objects: &[Object], selector: &Selector, name: &str) -> bool {
    let known = objects.iter().find_map(|object| match object {
        Object::Namespace(namespace) if &*namespace.name == name => Some(&namespace.labels),
        _ => None,
    });
    match known {
        Some(labels) => selects(selector, labels),
        // Not known (yet): only its name is certain, and nothing may be concluded from labels that it seems to lack.
        None => selector.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => is_name(key) && values.iter().any(|value| &**value == name),
            Requirement::NotIn(key, values) => is_name(key) && values.iter().all(|value| &**value != name),
            Requirement::Exists(key) => is_name(key),
            Requirement::DoesNotExist(_) => false,
        }),
    }
}

fn is_name(key: &str) -> bool {
    key == "kubernetes.io/metadata.name"
}

fn selects(selector: &Selector, labels: &Labels) -> bool {
    for requirement in &selector.0 {
        let holds = match requirement {
            Requirement::In(key, values) => match labels.get(key) {
                Some(value) => values.iter().any(|wanted| wanted == value),
                None => false,
            },
            Requirement::NotIn(key, values) => match labels.get(key) {
                Some(value) => values.iter().all(|unwanted| unwanted != value),
                None => true,
            },
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// `named` is the destination pod, which alone gives names to ports.
fn is_port(port: &Port, named: Option<&Pod>, traffic: Traffic) -> bool {
    let Traffic::Port(protocol, number) = traffic else { return false };
    port.protocol == protocol
        && match &port.ports {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => *first <= number && number <= *last,
            PortMatch::Named(name) => named.into_iter().flat_map(|pod| &pod.ports).any(|declared| {
                declared.name.as_ref() == Some(name)
                    && declared.protocol == protocol
                    && declared.number == number
            }),
            PortMatch::Nothing => false,
        }
}

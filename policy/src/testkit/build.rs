//! Builders: small values that read like the manifests they stand for.
//!
//! Values that do not parse (addresses, CIDRs) are left out or read as something that matches nothing: a test that
//! misspells one fails.

mod services;

use std::net::IpAddr;

use ipnet::IpNet;

pub use self::services::{endpoint, service, slice};
use crate::model::{
    ContainerPort, Labels, Namespace, NamespaceScope, NamespacedName, NetworkPolicy, Node, Object, Peer, Pod,
    Port, PortMatch, Protocol, Requirement, Rule, Selector,
};

/// Labels from pairs.
#[must_use]
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// `matchLabels`
#[must_use]
pub fn select(pairs: &[(&str, &str)]) -> Selector {
    selector(pairs.iter().map(|(key, value)| Requirement::In((*key).into(), vec![(*value).into()])))
}

/// A selector of these requirements, sorted.
#[must_use]
pub fn selector(requirements: impl IntoIterator<Item = Requirement>) -> Selector {
    let mut requirements: Vec<_> = requirements.into_iter().collect();
    requirements.sort();
    requirements.dedup();
    Selector(requirements)
}

/// A namespace with these labels and its name's.
#[must_use]
pub fn namespace(name: &str, pairs: &[(&str, &str)]) -> Object {
    let mut labels = labels(pairs);
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Object::Namespace(Namespace { name: name.into(), labels })
}

/// A node.
#[must_use]
pub fn node(name: &str, addresses: &[&str]) -> Object {
    Object::Node(Node { name: name.into(), addresses: parse(addresses) })
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

/// A running pod on `node-a` with an address.
#[must_use]
pub fn pod(namespace: &str, name: &str, address: &str) -> Pod {
    Pod {
        id: NamespacedName::new(namespace, name),
        labels: Labels::new(),
        addresses: parse(&[address]),
        node: Some("node-a".into()),
        host_network: false,
        finished: false,
        ports: Vec::new(),
        unguarded: false,
        uid: 0,
        created: None,
    }
}

impl Pod {
    /// With these labels.
    #[must_use]
    pub fn labelled(mut self, pairs: &[(&str, &str)]) -> Self {
        self.labels = labels(pairs);
        self
    }

    /// With one more address.
    #[must_use]
    pub fn and_address(mut self, address: &str) -> Self {
        self.addresses.extend(parse(&[address]));
        self
    }

    /// On another node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    /// On its node's network.
    #[must_use]
    pub fn on_host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// In phase `Succeeded` or `Failed`.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.finished = true;
        self
    }

    /// Opted out of anti-spoofing.
    #[must_use]
    pub fn unguarded(mut self) -> Self {
        self.unguarded = true;
        self
    }

    /// Declares a port; no name when it is empty.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16, protocol: Protocol) -> Self {
        let name = (!name.is_empty()).then(|| name.into());
        self.ports.push(ContainerPort { name, number, protocol });
        self
    }
}

/// A policy that selects every pod of its namespace, for neither direction yet.
#[must_use]
pub fn policy(namespace: &str, name: &str) -> NetworkPolicy {
    NetworkPolicy {
        id: NamespacedName::new(namespace, name),
        pod_selector: Selector::default(),
        ingress: None,
        egress: None,
    }
}

impl NetworkPolicy {
    /// `podSelector.matchLabels`
    #[must_use]
    pub fn selecting(mut self, pairs: &[(&str, &str)]) -> Self {
        self.pod_selector = select(pairs);
        self
    }

    /// Isolates ingress but for these rules.
    #[must_use]
    pub fn ingress(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.ingress = Some(rules.into_iter().collect());
        self
    }

    /// Isolates egress but for these rules.
    #[must_use]
    pub fn egress(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.egress = Some(rules.into_iter().collect());
        self
    }
}

/// A rule.
#[must_use]
pub fn rule(peers: impl IntoIterator<Item = Peer>, ports: impl IntoIterator<Item = Port>) -> Rule {
    Rule { peers: peers.into_iter().collect(), ports: ports.into_iter().collect() }
}

/// `podSelector` alone, in a policy of this namespace.
#[must_use]
pub fn pods(namespace: &str, pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods { namespaces: NamespaceScope::Named(namespace.into()), pods: select(pairs) }
}

/// `namespaceSelector`, and `podSelector`.
#[must_use]
pub fn pods_of(namespaces: &[(&str, &str)], pairs: &[(&str, &str)]) -> Peer {
    Peer::Pods { namespaces: NamespaceScope::Matching(select(namespaces)), pods: select(pairs) }
}

/// `ipBlock`
#[must_use]
pub fn block(cidr: &str, except: &[&str]) -> Peer {
    let parse = |cidr: &str| cidr.parse().map(|net: IpNet| net.trunc()).ok();
    match parse(cidr) {
        Some(cidr) => {
            Peer::Block { cidr, except: except.iter().filter_map(|except| parse(except)).collect() }
        }
        None => Peer::Nothing,
    }
}

/// `port`
#[must_use]
pub fn tcp(port: u16) -> Port {
    range(Protocol::Tcp, port, port)
}

/// `port`, `endPort`
#[must_use]
pub fn range(protocol: Protocol, first: u16, last: u16) -> Port {
    Port { protocol, ports: PortMatch::Range(first, last) }
}

/// `port` by name
#[must_use]
pub fn named(protocol: Protocol, name: &str) -> Port {
    Port { protocol, ports: PortMatch::Named(name.into()) }
}

/// `port` unset
#[must_use]
pub fn any(protocol: Protocol) -> Port {
    Port { protocol, ports: PortMatch::Any }
}

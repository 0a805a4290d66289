//! Strategies: few names, labels, ports and addresses, so that everything collides.

mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::Cluster;
use super::build;
use crate::matrix::External;
use crate::model::{
    ContainerPort, Labels, NamespaceScope, NamespacedName, NetworkPolicy, Node, Object, ObjectRef, Peer, Pod,
    Port, PortMatch, Protocol, Requirement, Rule, Selector,
};

const NAMESPACES: [&str; 3] = ["alpha", "beta", "gamma"];
const NODES: [&str; 2] = ["node-a", "node-b"];
const KEYS: [&str; 3] = ["app", "tier", "env"];
const VALUES: [&str; 3] = ["", "one", "two"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const PORTS: [u16; 6] = [1, 53, 80, 81, 8080, 65535];
/// Each with what may be excepted from it: nested blocks, single pods, everything.
const BLOCKS: [(&str, &[&str]); 12] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "10.0.0.0/24", "10.0.0.2/32", "192.0.2.0/25", "0.0.0.0/0"]),
    ("10.0.0.0/8", &["10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/30"]),
    ("10.0.0.0/24", &["10.0.0.0/30", "10.0.0.3/32"]),
    ("10.0.0.0/30", &["10.0.0.2/31"]),
    ("10.0.0.2/32", &[]),
    ("172.16.0.0/16", &["172.16.0.1/32"]),
    ("192.0.2.0/24", &["192.0.2.128/25", "192.0.2.1/32"]),
    ("192.0.2.1/32", &[]),
    ("::/0", &["fd00::/64", "fd00::2/128", "2001:db8::/32"]),
    ("fd00::/64", &["fd00::2/127", "fd00::/126"]),
    ("fd00::2/128", &[]),
    ("2001:db8::/32", &["2001:db8::1/128"]),
];

fn text(from: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(from).prop_map(Arc::from)
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(text(&KEYS), text(&VALUES), 0..=2)
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = || vec(text(&VALUES), 1..=2);
    prop_oneof![
        5 => (text(&KEYS), text(&VALUES)).prop_map(|(key, value)| Requirement::In(key, vec![value])),
        1 => (text(&KEYS), values()).prop_map(|(key, values)| Requirement::In(key, values)),
        1 => (text(&KEYS), values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        1 => text(&KEYS).prop_map(Requirement::Exists),
        1 => text(&KEYS).prop_map(Requirement::DoesNotExist),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![2 => vec(requirement(), 0..=0), 4 => vec(requirement(), 1..=1), 1 => vec(requirement(), 2..=2)]
        .prop_map(build::selector)
}

fn namespace_selector() -> impl Strategy<Value = Selector> {
    let by_name = text(&NAMESPACES)
        .prop_map(|name| Selector(vec![Requirement::In("kubernetes.io/metadata.name".into(), vec![name])]));
    prop_oneof![4 => selector(), 1 => by_name]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn peer(namespace: Arc<str>) -> impl Strategy<Value = Peer> {
    let block = (select(&BLOCKS[..]), any::<u8>()).prop_map(|((cidr, excepts), chosen)| {
        let chosen = excepts.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1);
        build::block(cidr, &chosen.map(|(_, except)| *except).collect::<Vec<_>>())
    });
    prop_oneof![
        4 => selector().prop_map(move |pods| {
            Peer::Pods { namespaces: NamespaceScope::Named(namespace.clone()), pods }
        }),
        4 => (namespace_selector(), selector()).prop_map(|(namespaces, pods)| {
            Peer::Pods { namespaces: NamespaceScope::Matching(namespaces), pods }
        }),
        5 => block,
        1 => Just(Peer::Nothing),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    let ports = prop_oneof![
        1 => Just(PortMatch::Any),
        4 => select(&PORTS[..]).prop_map(|port| PortMatch::Range(port, port)),
        2 => (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(one, two)| PortMatch::Range(one.min(two), one.max(two))),
        3 => text(&PORT_NAMES).prop_map(PortMatch::Named),
        1 => Just(PortMatch::Nothing),
    ];
    (protocol(), ports).prop_map(|(protocol, ports)| Port { protocol, ports })
}

fn rules(namespace: &Arc<str>) -> impl Strategy<Value = Option<Vec<Rule>>> + use<> {
    let peers = vec(peer(namespace.clone()), 0..=3);
    let ports = prop_oneof![1 => vec(port(), 0..=0), 2 => vec(port(), 1..=3)];
    let rule = (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports });
    option::weighted(0.75, vec(rule, 0..=2))
}

fn policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    let policy = text(&NAMESPACES).prop_flat_map(|namespace| {
        (Just(namespace.clone()), selector(), rules(&namespace), rules(&namespace))
    });
    vec(policy, 0..=4).prop_map(|policies| {
        let policies = policies.into_iter().enumerate();
        policies
            .map(|(index, (namespace, pod_selector, ingress, egress))| NetworkPolicy {
                id: NamespacedName::new(namespace, format!("policy-{index}")),
                pod_selector,
                ingress,
                egress,
            })
            .collect()
    })
}

/// What becomes of a pod's addresses.
#[derive(Clone, Copy, Debug)]
enum Kind {
    V4,
    V6,
    Dual,
    /// Two addresses of one family.
    Several,
    Pending,
    HostNetwork,
    Finished,
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let kind = prop_oneof![
        4 => Just(Kind::V4),
        2 => Just(Kind::V6),
        4 => Just(Kind::Dual),
        1 => Just(Kind::Several),
        1 => Just(Kind::Pending),
        1 => Just(Kind::HostNetwork),
        1 => Just(Kind::Finished),
    ];
    let port = (option::weighted(0.7, text(&PORT_NAMES)), select(&PORTS[..]), protocol())
        .prop_map(|(name, number, protocol)| ContainerPort { name, number, protocol });
    let node = option::weighted(0.95, select(&NODES[..]));
    vec((text(&NAMESPACES), labels(), kind, node, vec(port, 0..=3)), 1..=7).prop_map(|pods| {
        let pods = pods.into_iter().zip(1_u8..);
        pods.map(|((namespace, labels, kind, node, ports), number)| Pod {
            id: NamespacedName::new(namespace, format!("pod-{number}")),
            labels,
            addresses: pod_addresses(kind, number, node),
            node: node.map(Arc::from),
            host_network: matches!(kind, Kind::HostNetwork),
            finished: matches!(kind, Kind::Finished),
            ports,
            unguarded: false,
            uid: 0,
            created: None,
        })
        .collect()
    })
}

fn pod_addresses(kind: Kind, number: u8, node: Option<&str>) -> Vec<IpAddr> {
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 0, number % 2, number));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()));
    match kind {
        Kind::V4 => vec![v4],
        Kind::V6 => vec![v6],
        Kind::Dual => vec![v4, v6],
        Kind::Several => vec![v4, IpAddr::V4(Ipv4Addr::new(10, 0, 2, number)), v6],
        Kind::Pending => Vec::new(),
        Kind::HostNetwork => node.map(node_addresses).unwrap_or_default(),
        // What an earlier pod may have by now.
        Kind::Finished => {
            vec![IpAddr::V4(Ipv4Addr::new(10, 0, (number + 1) % 2, number.saturating_sub(1).max(1)))]
        }
    }
}

fn node_addresses(name: &str) -> Vec<IpAddr> {
    let number: u8 = if name == NODES[0] { 1 } else { 2 };
    vec![
        IpAddr::V4(Ipv4Addr::new(172, 16, 0, number)),
        IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into())),
    ]
}

fn externals() -> Vec<External> {
    let external = |name: &str, addresses: &[&str]| External {
        name: name.to_owned(),
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        ports: vec![(80, Protocol::Tcp), (53, Protocol::Udp)],
    };
    vec![
        external("near", &["192.0.2.1", "2001:db8::1"]),
        external("far", &["198.51.100.7"]),
        // In the pods' range, but nobody's.
        external("stray", &["10.0.0.200", "fd00::200"]),
    ]
}

/// A cluster: up to seven pods on two nodes in three namespaces, up to four policies.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let namespaces = vec(option::weighted(0.9, labels()), NAMESPACES.len());
    (namespaces, pods(), policies()).prop_map(|(namespaces, pods, policies)| {
        let mut objects = Vec::new();
        for (name, labels) in NAMESPACES.into_iter().zip(namespaces) {
            // Now and then a namespace is not known.
            if let Some(labels) = labels {
                let pairs: Vec<_> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
                objects.push(build::namespace(name, &pairs));
            }
        }
        for name in NODES {
            objects.push(Object::Node(Node { name: name.into(), addresses: node_addresses(name) }));
        }
        objects.extend(pods.into_iter().map(Object::Pod));
        objects.extend(policies.into_iter().map(Object::NetworkPolicy));
        Cluster { objects, externals: externals() }
    })
}

/// The same with up to three Services more.
pub fn cluster_with_services() -> impl Strategy<Value = Cluster> {
    (cluster(), services::objects()).prop_map(|(mut cluster, services)| {
        cluster.objects.extend(services);
        cluster
    })
}

/// How a cluster came to be: events in groups (each group is one transition), and what is there in the end.
#[derive(Clone, Debug)]
pub struct History {
    /// An object that appeared or changed, or one that vanished.
    pub groups: Vec<Vec<Result<Object, ObjectRef>>>,
    /// The cluster at the end.
    pub last: Cluster,
}

/// Random histories: objects of two clusters appear, change into one another, vanish and come back, in any order.
pub fn history() -> impl Strategy<Value = History> {
    let event = (any::<Index>(), any::<bool>(), prop::bool::weighted(0.2));
    (cluster(), cluster(), vec(vec(event, 1..=4), 0..=12)).prop_map(|(one, two, groups)| {
        let all = [&one.objects[..], &two.objects[..]];
        let mut last = BTreeMap::new();
        let mut play = |(index, which, vanishes): (Index, bool, bool)| {
            let object = index.get(all[usize::from(which)]).clone();
            if vanishes {
                last.remove(&object.reference());
                Err(object.reference())
            } else {
                last.insert(object.reference(), object.clone());
                Ok(object)
            }
        };
        let groups = groups.into_iter().map(|group| group.into_iter().map(&mut play).collect()).collect();
        let last = Cluster { objects: last.into_values().collect(), externals: externals() };
        History { groups, last }
    })
}

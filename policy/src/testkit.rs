//! Random clusters, dense in corner cases, and builders: for the tests here and in the agent.
//!
//! The same clusters go to the [reference](crate::reference), the [engine](crate::engine) and the loaded programs.

pub mod build;
mod generate;
mod yaml;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use self::generate::{History, cluster, cluster_with_services, history};
pub use self::yaml::yaml;
use crate::matrix::External;
use crate::model::{NamespacedName, Object, Pod, Protocol};
use crate::reference::{Endpoint, Traffic};

/// A picture of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Namespaces, nodes, pods, policies; each name once.
    pub objects: Vec<Object>,
    /// Hosts outside.
    pub externals: Vec<External>,
}

/// Ports that tell rules of generated clusters apart: their bounds, and the neighbours of these.
pub const PORTS: [u16; 12] = [0, 1, 53, 79, 80, 81, 82, 443, 8079, 8080, 8081, 65535];

/// Proptest cases: `ordinary`, or what the environment variable `POSTERN_CASES` asks for.
#[must_use]
pub fn cases(ordinary: u32) -> u32 {
    std::env::var("POSTERN_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(ordinary)
}

/// Every kind of traffic that tells rules of generated clusters apart.
pub fn traffic() -> impl Iterator<Item = Traffic> {
    let ports =
        PORTS.into_iter().flat_map(|port| Protocol::ALL.map(|protocol| Traffic::Port(protocol, port)));
    ports.chain([Traffic::Portless])
}

impl Cluster {
    /// The pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.objects.iter().filter_map(|object| match object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    /// A node's own addresses: its object's, and those of the pods on its network.
    #[must_use]
    pub fn node_addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for object in &self.objects {
            match object {
                Object::Node(node) if &*node.name == name => addresses.extend(&node.addresses),
                Object::Pod(pod)
                    if pod.host_network && !pod.finished && pod.node.as_deref() == Some(name) =>
                {
                    addresses.extend(&pod.addresses);
                }
                _ => {}
            }
        }
        addresses
    }

    /// The names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<Arc<str>> {
        let objects = self.objects.iter();
        objects
            .filter_map(|object| match object {
                Object::Node(node) => Some(node.name.clone()),
                _ => None,
            })
            .collect()
    }

    /// The end of a connection that has this address: the pod that owns it, if one does.
    #[must_use]
    pub fn endpoint(&self, address: IpAddr) -> Endpoint {
        let owns = |pod: &&Pod| !pod.finished && !pod.host_network && pod.addresses.contains(&address);
        Endpoint {
            pod: self.pods().find(owns).map(|pod: &Pod| -> NamespacedName { pod.id.clone() }),
            address,
        }
    }

    /// Addresses that tell rules apart: those of every pod, live or not, of nodes and externals, and the bounds of
    /// every block with the neighbours of these.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let mut addresses: BTreeSet<IpAddr> = self.pods().flat_map(|pod| &pod.addresses).copied().collect();
        addresses.extend(self.externals.iter().flat_map(|external| &external.addresses));
        for object in &self.objects {
            match object {
                Object::Node(node) => addresses.extend(&node.addresses),
                Object::NetworkPolicy(policy) => {
                    let rules = [&policy.ingress, &policy.egress].into_iter().flatten().flatten();
                    for peer in rules.flat_map(|rule| &rule.peers) {
                        addresses.extend(bounds(peer));
                    }
                }
                _ => {}
            }
        }
        addresses
    }
}

fn bounds(peer: &crate::model::Peer) -> Vec<IpAddr> {
    let crate::model::Peer::Block { cidr, except } = peer else { return Vec::new() };
    std::iter::once(cidr)
        .chain(except)
        .flat_map(|net| {
            let (first, last) = (net.network(), net.broadcast());
            [Some(first), Some(last), step(first, false), step(last, true)]
        })
        .flatten()
        .collect()
}

fn step(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let number = u32::from(address);
            let next = if up { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|next| IpAddr::V4(next.into()))
        }
        IpAddr::V6(address) => {
            let number = u128::from(address);
            let next = if up { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|next| IpAddr::V6(next.into()))
        }
    }
}

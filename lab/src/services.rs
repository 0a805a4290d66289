//! Services as the lab has them: rules for the nodes' nftables, made from the same objects as the agents read, and the
//! questions that parties ask.
//!
//! What a node does with a packet is what kube-proxy does (its modes iptables and nftables), without its bookkeeping.
//! Pods of other nodes count as hosts outside, as kube-proxy has it where it tells local traffic by the node's own pod
//! range (`detectLocalMode: NodeCIDR`).

mod nftables;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern_policy::model::{EndpointSlice, Node, Object, Pod, Service, ServicePort};
use postern_policy::services::{self, Backend, Via};

pub use self::nftables::{Table, nftables};
pub use self::rows::{Audience, Row, rows};
use crate::feed::{self, feed};
use crate::netns::Netns;

/// The objects that Services are made of.
struct Objects<'a> {
    services: Vec<&'a Service>,
    slices: Vec<&'a EndpointSlice>,
    pods: Vec<&'a Pod>,
    nodes: Vec<&'a Node>,
}

impl<'a> Objects<'a> {
    fn of(objects: &'a [Object]) -> Self {
        let (mut services, mut slices, mut pods, mut nodes) = (vec![], vec![], vec![], vec![]);
        for object in objects {
            match object {
                Object::Service(service) => services.push(service),
                Object::EndpointSlice(slice) => slices.push(slice),
                Object::Pod(pod) => pods.push(pod),
                Object::Node(node) => nodes.push(node),
                Object::Namespace(_) | Object::NetworkPolicy(_) => {}
            }
        }
        Self { services, slices, pods, nodes }
    }

    fn candidates(&self, service: &Service, port: &ServicePort, like: IpAddr) -> Vec<Backend> {
        services::candidates(service, port, self.slices.iter().copied(), self.pods.iter().copied(), like)
    }

    /// The node that takes a Service's external address.
    fn entry(&self, service: &Service, address: IpAddr) -> Option<&'a Node> {
        let all: Vec<Backend> =
            service.ports.iter().flat_map(|port| self.candidates(service, port, address)).collect();
        services::entry(service, &all, self.nodes.iter().copied(), address)
    }
}

/// Cluster addresses; and external ones, each with the node address that hosts outside reach it through.
#[must_use]
pub fn addresses(objects: &[Object]) -> (BTreeSet<IpAddr>, BTreeMap<IpAddr, Option<IpAddr>>) {
    let objects = Objects::of(objects);
    let (mut cluster, mut external) = (BTreeSet::new(), BTreeMap::new());
    for service in &objects.services {
        for (frontend, via, _) in service.frontends() {
            let address = frontend.address;
            if via == Via::Cluster {
                cluster.insert(address);
            } else {
                let entry = objects.entry(service, address).and_then(|node| node.address_like(address));
                external.insert(address, entry);
            }
        }
    }
    (cluster, external)
}

/// Has a node translate by this table, instead of the one that it had.
///
/// # Errors
/// nft refuses.
pub fn load(node: &Netns, table: &Table, before: &Table) -> Result<(), feed::Error> {
    feed(node, "nft", &["--file", "-"], &table.instead_of(before))
}

/// Has a node forget which backends its clients keep.
///
/// # Errors
/// nft refuses.
pub fn forget(node: &Netns, table: &Table) -> Result<(), feed::Error> {
    let flush = table.forgetting();
    if flush.is_empty() { Ok(()) } else { feed(node, "nft", &["--file", "-"], &flush) }
}

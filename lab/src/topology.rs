//! The cluster's wires: namespaces, links, addresses and routes.
//!
//! ```text
//!   external/x   external/y            one namespace each, eth0 on the fabric
//!        \         /
//!         [ fabric ]                   a namespace with a bridge
//!        /         \
//!    node-a       node-b               one namespace each, eth0 on the fabric, routing for its pods
//!    cni0          | |                 bridge style: a bridge; ptp style: a routed veth per pod
//!    /  \          | |
//!  pod  pod      pod pod               one namespace each, eth0
//! ```
//!
//! All routes are host routes, so a scenario may use any addresses. In: a plan and pods that come and go. Out: wires.
//! Dropping the topology removes all of it.

mod node;
mod plan;
mod pod;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use postern_policy::model::{NamespacedName, Pod};

use crate::netlink::{self, End, Mac, Netlink, Route};
use crate::netns::{self, Netns};
use crate::scenario::{External, Scenario};
use crate::sysctl;
use node::Node;
use plan::host;
use pod::PodLink;

/// Interface index of `eth0` in every namespace but the fabric's. High enough for the fallback tunnel devices that some
/// kernels put into every new namespace.
pub(crate) const ETH0: u32 = 100;
/// Interface index of the fabric's bridge.
const FABRIC_BRIDGE: u32 = 100;
/// Interface indexes of the fabric's ports start here.
const FABRIC_PORTS: u32 = 1000;

/// What went wrong with the wires.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// A link, address or route.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// A pod on a node that the scenario does not have.
    #[error("Pod {pod}: no node {node} in this lab")]
    NoSuchNode {
        /// The pod.
        pod: NamespacedName,
        /// What its spec says.
        node: String,
    },
    /// A pod's family that its node lacks.
    #[error("Pod {pod}: node {node} has no gateway for {address}")]
    NoGateway {
        /// The pod.
        pod: NamespacedName,
        /// Its node.
        node: String,
        /// The pod's address.
        address: IpAddr,
    },
}

/// A host on the fabric that is not a node.
#[derive(Debug)]
struct Host {
    spec: External,
    netns: Netns,
    netlink: Netlink,
}

/// All wires of one lab.
#[derive(Debug)]
pub struct Topology {
    /// Every namespace of this lab has a name that starts with it.
    prefix: String,
    nodes: Vec<Node>,
    externals: Vec<Host>,
    pods: BTreeMap<NamespacedName, PodLink>,
    /// Ways to addresses of Services.
    services: BTreeSet<services::Way>,
    /// Held open for its bridge.
    _fabric: Netns,
    /// Pods ever attached, for names.
    attached: u32,
}

/// Removes every namespace whose name starts with the prefix, whatever state building was in.
#[derive(Debug)]
struct Sweep<'a>(&'a str);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        remove_namespaces(self.0);
    }
}

/// Removes every namespace whose name starts with `prefix`; links go with them.
pub(crate) fn remove_namespaces(prefix: &str) {
    for name in netns::names_with_prefix(prefix) {
        if let Err(error) = netns::delete(&name) {
            eprintln!("postern-lab: {error}");
        }
    }
}

impl Topology {
    /// Builds the fabric, the nodes and the hosts outside the cluster. Pods come with [`Self::add_pod`].
    ///
    /// # Errors
    /// The kernel refuses; what was built so far is removed.
    pub fn build(prefix: &str, scenario: &Scenario) -> Result<Self, Error> {
        let sweep = Sweep(prefix);
        let fabric = Netns::create(&format!("{prefix}fabric"))?;
        let mut switch = Netlink::open_in(&fabric)?;
        switch.add_bridge(FABRIC_BRIDGE, "fabric", mac(0xfa, 0))?;
        let mut port = FABRIC_PORTS;
        let mut plug = |netns: &Netns| {
            port += 1;
            plug_into_fabric(&mut switch, port, netns)
        };
        let mut nodes = Vec::new();
        for plan in plan::plan(scenario) {
            let netns = Netns::create(&format!("{prefix}node-{}", plan.name))?;
            sysctl::apply(&netns, sysctl::HOST)?;
            sysctl::apply(&netns, sysctl::NODE)?;
            plug(&netns)?;
            nodes.push(Node::set_up(plan, netns)?);
        }
        let mut externals = Vec::new();
        for spec in &scenario.externals {
            let netns = Netns::create(&format!("{prefix}external-{}", spec.name))?;
            sysctl::apply(&netns, sysctl::HOST)?;
            plug(&netns)?;
            let netlink = set_up_host(&netns, &spec.ips)?;
            externals.push(Host { spec: spec.clone(), netns, netlink });
        }
        let mut topology = Self {
            prefix: prefix.to_owned(),
            nodes,
            externals,
            pods: BTreeMap::new(),
            services: BTreeSet::new(),
            _fabric: fabric,
            attached: 0,
        };
        topology.connect_hosts()?;
        std::mem::forget(sweep);
        Ok(topology)
    }

    /// Nodes and externals reach each other directly over the fabric.
    fn connect_hosts(&mut self) -> Result<(), Error> {
        let of_nodes = self.nodes.iter().map(|node| node.plan.addresses.clone());
        let of_externals = self.externals.iter().map(|external| external.spec.ips.clone());
        let all: Vec<Vec<IpAddr>> = of_nodes.chain(of_externals).collect();
        let nodes = self.nodes.iter_mut().map(|node| &mut node.netlink);
        let sockets = nodes.chain(self.externals.iter_mut().map(|external| &mut external.netlink));
        for (own, netlink) in sockets.enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != own);
            for address in others.flat_map(|(_, addresses)| addresses) {
                netlink.set_route(&Route { destination: host(*address), via: None, index: ETH0 })?;
            }
        }
        Ok(())
    }

    /// Attaches a pod to its node and lets everyone know the way. A pod on the host's network needs no wires.
    ///
    /// # Errors
    /// The kernel refuses, or the pod's node is not part of this lab.
    pub fn add_pod(&mut self, pod: &Pod) -> Result<(), Error> {
        let name = pod.node.as_deref().unwrap_or_default();
        let no_such_node = || Error::NoSuchNode { pod: pod.id.clone(), node: name.to_owned() };
        let index = self.nodes.iter().position(|node| node.plan.name == name).ok_or_else(no_such_node)?;
        self.attached += 1;
        let link = if pod.host_network {
            PodLink::of_host(index)
        } else {
            let netns = pod::netns_name(&self.prefix, &pod.id, self.attached);
            PodLink::attach(&mut self.nodes[index], index, pod, &netns)?
        };
        for (address, via) in self.ways(&link) {
            for netlink in self.remote_sockets(index) {
                netlink.set_route(&Route { destination: host(address), via: Some(via), index: ETH0 })?;
            }
        }
        self.pods.insert(pod.id.clone(), link);
        Ok(())
    }

    /// Takes a pod away as a container runtime does: link, routes, namespace. An unknown pod is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_pod(&mut self, id: &NamespacedName) -> Result<(), Error> {
        let Some(link) = self.pods.remove(id) else { return Ok(()) };
        for (address, via) in self.ways(&link) {
            for netlink in self.remote_sockets(link.node) {
                netlink.delete_route(&Route { destination: host(address), via: Some(via), index: ETH0 })?;
            }
        }
        link.detach(&mut self.nodes[link.node])
    }

    /// A pod's addresses, each with the node address that leads to it.
    fn ways(&self, link: &PodLink) -> Vec<(IpAddr, IpAddr)> {
        let plan = &self.nodes[link.node].plan;
        let ways = link.addresses.iter().filter_map(|address| Some((*address, plan.address_like(*address)?)));
        ways.collect()
    }

    /// Everyone on the fabric but one node.
    fn remote_sockets(&mut self, node: usize) -> impl Iterator<Item = &mut Netlink> {
        let nodes = self.nodes.iter_mut().enumerate().filter(move |(index, _)| *index != node);
        nodes
            .map(|(_, node)| &mut node.netlink)
            .chain(self.externals.iter_mut().map(|host| &mut host.netlink))
    }

    /// The namespace that a pod lives in: its own, or its node's.
    #[must_use]
    pub fn pod_netns(&self, id: &NamespacedName) -> Option<&Netns> {
        let link = self.pods.get(id)?;
        Some(link.netns.as_ref().unwrap_or(&self.nodes[link.node].netns))
    }

    /// The namespace of a host outside the cluster.
    #[must_use]
    pub fn external_netns(&self, name: &str) -> Option<&Netns> {
        self.externals.iter().find(|external| external.spec.name == name).map(|external| &external.netns)
    }

    /// Names and namespaces of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Netns)> {
        self.nodes.iter().map(|node| (&*node.plan.name, &node.netns))
    }

    /// Addresses of a node.
    #[must_use]
    pub fn node_addresses(&self, name: &str) -> &[IpAddr] {
        self.nodes.iter().find(|node| node.plan.name == name).map_or(&[], |node| &node.plan.addresses)
    }

    /// Pods now attached.
    pub fn pods(&self) -> impl Iterator<Item = &NamespacedName> {
        self.pods.keys()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        remove_namespaces(&self.prefix);
    }
}

fn plug_into_fabric(switch: &mut Netlink, port: u32, netns: &Netns) -> Result<(), Error> {
    let near = End { index: port, name: &format!("port{}", port - FABRIC_PORTS), mac: mac(0xfb, port) };
    let far = End { index: ETH0, name: "eth0", mac: mac(0xfc, port) };
    switch.add_veth(&near, &far, netns)?;
    switch.enslave(port, FABRIC_BRIDGE)?;
    Ok(())
}

/// Loopback and `eth0` up, with addresses.
fn set_up_host(netns: &Netns, addresses: &[IpAddr]) -> Result<Netlink, Error> {
    let mut netlink = Netlink::open_in(netns)?;
    netlink.set_up(1)?;
    netlink.set_up(ETH0)?;
    for address in addresses {
        // As a host has it on its network; the routes are the lab's own, address by address.
        let length = if address.is_ipv4() { 24 } else { 64 };
        netlink.add_address(ETH0, IpNet::new_assert(*address, length))?;
    }
    Ok(netlink)
}

/// A locally administered hardware address.
fn mac(kind: u8, number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [0x0a, kind, a, b, c, d]
}

//! Which address goes where: pure arithmetic over a [`Scenario`], no I/O.
//!
//! Pod addresses come from the manifests and may be anything. From them follow, per node, the networks that its pods
//! share on the link (bridge style), and a gateway address that nobody else uses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::scenario::{NodeSpec, Scenario, Style};

/// Ranges for node addresses, tried in order until one is free of addresses that the scenario uses.
const NODE_RANGES_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 168, 224, 0),
    Ipv4Addr::new(172, 29, 224, 0),
    Ipv4Addr::new(10, 213, 224, 0),
    Ipv4Addr::new(198, 18, 224, 0),
];
const NODE_RANGES_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd70, 0x7374, 0x6e, 0, 0, 0, 0, 0), Ipv6Addr::new(0xfd70, 0x7374, 0x6e, 1, 0, 0, 0, 0)];
/// Candidates for the gateway, within its network.
const GATEWAY_NUMBERS: [u128; 5] = [1, 254, 253, 252, 251];
/// Gateways where the node's pods share no network that could hold one.
const FALLBACK_GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const FALLBACK_GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A node with everything decided.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// How it attaches its pods.
    pub style: Style,
    /// Its own addresses, one or more per family in use.
    pub addresses: Vec<IpAddr>,
    /// The pods' way out, one per family in use.
    pub gateways: Vec<IpAddr>,
    /// Networks that its pods share on the link, in bridge style.
    pub on_link: Vec<IpNet>,
}

impl NodePlan {
    /// The node's address of the same family as `other`.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        like(&self.addresses, other)
    }

    /// The gateway of the same family as `other`.
    #[must_use]
    pub fn gateway_like(&self, other: IpAddr) -> Option<IpAddr> {
        like(&self.gateways, other)
    }
}

/// Decides all nodes of a scenario.
#[must_use]
pub fn plan(scenario: &Scenario) -> Vec<NodePlan> {
    let taken = taken_addresses(scenario);
    let with_v6 = taken.iter().any(IpAddr::is_ipv6);
    let claims = claims(scenario);
    let mut nodes: Vec<NodePlan> = scenario
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| NodePlan {
            name: node.name.clone(),
            style: node.style,
            addresses: node_addresses(node, index, &taken, with_v6),
            gateways: Vec::new(),
            on_link: Vec::new(),
        })
        .collect();
    for node in &mut nodes {
        node.on_link = on_link(&node.name, &claims);
        node.gateways.push(gateway(&node.on_link, &taken, FALLBACK_GATEWAY_V4));
        if with_v6 {
            node.gateways.push(gateway(&node.on_link, &taken, FALLBACK_GATEWAY_V6));
        }
    }
    nodes
}

/// One address as a network of its own.
#[must_use]
pub fn host(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::new_assert(address, 32),
        IpAddr::V6(_) => IpNet::new_assert(address, 128),
    }
}

fn like(addresses: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
}

fn taken_addresses(scenario: &Scenario) -> BTreeSet<IpAddr> {
    let pods = scenario.pods.iter().flat_map(|pod| &pod.addresses);
    let externals = scenario.externals.iter().flat_map(|external| &external.ips);
    let nodes = scenario.nodes.iter().flat_map(|node| &node.addresses);
    pods.chain(externals).chain(nodes).copied().collect()
}

/// Who uses each address in some step of the run: the names of nodes for pods, `None` for everything off the pod links.
fn claims(scenario: &Scenario) -> BTreeMap<IpAddr, BTreeSet<Option<&str>>> {
    let mut claims: BTreeMap<IpAddr, BTreeSet<Option<&str>>> = BTreeMap::new();
    for pod in &scenario.pods {
        let owner = if pod.host_network { None } else { pod.node.as_deref() };
        for address in &pod.addresses {
            claims.entry(*address).or_default().insert(owner);
        }
    }
    let externals = scenario.externals.iter().flat_map(|external| &external.ips);
    for address in externals.chain(scenario.nodes.iter().flat_map(|node| &node.addresses)) {
        claims.entry(*address).or_default().insert(None);
    }
    claims
}

fn node_addresses(node: &NodeSpec, index: usize, taken: &BTreeSet<IpAddr>, with_v6: bool) -> Vec<IpAddr> {
    let mut addresses = node.addresses.clone();
    let number = index as u128 + 1;
    if !addresses.iter().any(IpAddr::is_ipv4) {
        let ranges = NODE_RANGES_V4.map(|base| IpNet::new_assert(base.into(), 24));
        addresses.extend(nth_of_free_range(&ranges, number, taken));
    }
    if with_v6 && !addresses.iter().any(IpAddr::is_ipv6) {
        let ranges = NODE_RANGES_V6.map(|base| IpNet::new_assert(base.into(), 64));
        addresses.extend(nth_of_free_range(&ranges, number, taken));
    }
    addresses
}

fn nth_of_free_range(ranges: &[IpNet], number: u128, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let free = ranges.iter().find(|range| !taken.iter().any(|address| range.contains(address)));
    free.or(ranges.first()).map(|range| offset(range.network(), number))
}

/// The shared networks of a node's pods: the /24 or /64 around each pod where nobody else is in it; else the pod alone,
/// unless its address moves to another node during the run, which must then be reached through the gateway.
fn on_link(node: &str, claims: &BTreeMap<IpAddr, BTreeSet<Option<&str>>>) -> Vec<IpNet> {
    let ours = |owners: &BTreeSet<Option<&str>>| owners.len() == 1 && owners.contains(&Some(node));
    let mut networks = BTreeSet::new();
    for (address, _) in claims.iter().filter(|(_, owners)| ours(owners)) {
        let around = match address {
            IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(*address, 24).trunc()),
            IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(*address, 64).trunc()),
        };
        let clean = claims.iter().all(|(other, owners)| !around.contains(other) || ours(owners));
        networks.insert(if clean { around } else { host(*address) });
    }
    networks.into_iter().collect()
}

/// A free address of the first shared network of the fallback's family: the first one, as CNI plugins do; else one from
/// the end, where pods that the scenario adds later hardly sit.
fn gateway(on_link: &[IpNet], taken: &BTreeSet<IpAddr>, fallback: IpAddr) -> IpAddr {
    let shared = on_link.iter().filter(|network| {
        network.addr().is_ipv4() == fallback.is_ipv4() && network.prefix_len() < network.max_prefix_len()
    });
    let candidates =
        shared.flat_map(|network| GATEWAY_NUMBERS.map(|number| offset(network.network(), number)));
    candidates.into_iter().find(|address| !taken.contains(address)).unwrap_or(fallback)
}

fn offset(base: IpAddr, number: u128) -> IpAddr {
    match base {
        IpAddr::V4(base) => {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(number)))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(number))),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! A pod's wires: its namespace, its veth pair, and the routes at both ends, as the bridge and ptp CNI plugins lay them.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_policy::model::{NamespacedName, Pod};

use super::node::{CNI0, Node};
use super::plan::host;
use super::{ETH0, Error, mac};
use crate::netlink::{End, Mac, Netlink, Route};
use crate::netns::{self, Netns};
use crate::scenario::Style;
use crate::sysctl;

/// Namespace names longer than this are cut: they are file names.
const NAME_LIMIT: usize = 200;

/// An attached pod.
#[derive(Debug)]
pub(super) struct PodLink {
    /// Position of its node.
    pub(super) node: usize,
    /// Its own namespace; `None` for a pod on the host's network.
    pub(super) netns: Option<Netns>,
    /// Addresses that are reached through its node.
    pub(super) addresses: Vec<IpAddr>,
    /// Interface index of the host-side veth.
    veth: u32,
}

impl PodLink {
    /// A pod on its node's network.
    pub(super) fn of_host(node: usize) -> Self {
        Self { node, netns: None, addresses: Vec::new(), veth: 0 }
    }

    /// Makes the namespace and wires it to the node. A half-made pod is taken down again.
    pub(super) fn attach(node: &mut Node, position: usize, pod: &Pod, name: &str) -> Result<Self, Error> {
        let netns = Netns::create(name)?;
        let link = Self {
            node: position,
            netns: Some(netns),
            addresses: pod.addresses.clone(),
            veth: node.next_veth(),
        };
        match link.wire(node, pod) {
            Ok(()) => Ok(link),
            Err(error) => {
                // The first failure is the one to report.
                let _ = link.detach(node);
                Err(error)
            }
        }
    }

    fn wire(&self, node: &mut Node, pod: &Pod) -> Result<(), Error> {
        let Some(netns) = &self.netns else { return Ok(()) };
        sysctl::apply(netns, sysctl::HOST)?;
        let veth = format!("veth{:08x}", self.veth);
        let near = End { index: self.veth, name: &veth, mac: mac(0xee, self.veth) };
        let far = End { index: ETH0, name: "eth0", mac: pod_mac(&pod.addresses) };
        node.netlink.add_veth(&near, &far, netns)?;
        let out = match node.plan.style {
            Style::Bridge => {
                node.netlink.enslave(self.veth, CNI0)?;
                CNI0
            }
            Style::Ptp => {
                for gateway in &node.plan.gateways {
                    node.netlink.add_address(self.veth, host(*gateway))?;
                }
                self.veth
            }
        };
        let mut inside = Netlink::open_in(netns)?;
        inside.set_up(1)?;
        inside.set_up(ETH0)?;
        for address in &pod.addresses {
            inside.add_address(ETH0, host(*address))?;
            node.netlink.set_route(&Route { destination: host(*address), via: None, index: out })?;
            let gateway = node.plan.gateway_like(*address).ok_or_else(|| Error::NoGateway {
                pod: pod.id.clone(),
                node: node.plan.name.clone(),
                address: *address,
            })?;
            inside.set_route(&Route { destination: host(gateway), via: None, index: ETH0 })?;
            inside.set_route(&Route {
                destination: everything(*address),
                via: Some(gateway),
                index: ETH0,
            })?;
        }
        if node.plan.style == Style::Bridge {
            let reachable = |network: &&IpNet| {
                pod.addresses.iter().any(|address| address.is_ipv4() == network.addr().is_ipv4())
            };
            for network in node.plan.on_link.iter().filter(reachable) {
                inside.set_route(&Route { destination: *network, via: None, index: ETH0 })?;
            }
        }
        Ok(())
    }

    /// Lets the pod reach itself over its node's bridge, once what it sends is translated (CNI plugin `bridge`,
    /// `hairpinMode`).
    pub(super) fn set_hairpin(&self, node: &mut Node) -> Result<(), Error> {
        if self.netns.is_some() && node.plan.style == Style::Bridge {
            node.netlink.set_hairpin(self.veth)?;
        }
        Ok(())
    }

    /// Takes everything back.
    pub(super) fn detach(&self, node: &mut Node) -> Result<(), Error> {
        let Some(netns) = &self.netns else { return Ok(()) };
        if node.plan.style == Style::Bridge {
            for address in &self.addresses {
                node.netlink.delete_route(&Route { destination: host(*address), via: None, index: CNI0 })?;
            }
        }
        node.netlink.delete_link(self.veth)?;
        Ok(netns::delete(netns.name())?)
    }
}

/// `PREFIX` + `NAMESPACE.POD`, cut and numbered where that is too long for a file name.
pub(super) fn netns_name(prefix: &str, id: &NamespacedName, number: u32) -> String {
    let name = format!("{prefix}{}.{}", id.namespace, id.name);
    if name.len() <= NAME_LIMIT { name } else { format!("{}~{number}", &name[..NAME_LIMIT]) }
}

/// From the address, as CNI plugins do, so that the neighbours' caches stay true when an address is reused.
fn pod_mac(addresses: &[IpAddr]) -> Mac {
    let tail = match addresses.first() {
        Some(IpAddr::V4(address)) => address.octets(),
        Some(IpAddr::V6(address)) => {
            let fold = |bits: u128| bits ^ (bits >> 32) ^ (bits >> 64) ^ (bits >> 96);
            let [.., a, b, c, d] = fold(address.to_bits()).to_be_bytes();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    let [a, b, c, d] = tail;
    [0x0a, 0x58, a, b, c, d]
}

fn everything(like: IpAddr) -> IpNet {
    if like.is_ipv4() {
        IpNet::new_assert(std::net::Ipv4Addr::UNSPECIFIED.into(), 0)
    } else {
        IpNet::new_assert(std::net::Ipv6Addr::UNSPECIFIED.into(), 0)
    }
}

//! Which address goes where, and the wires: a namespace for the control plane with a bridge, one for each node.
//!
//! ```text
//! control  192.168.240.1     bridge `fabric`
//! node 1   192.168.240.11    pods 10.244.1.0/24
//! node 2   192.168.240.12    pods 10.244.2.0/24
//! services 10.96.0.0/16
//! ```
//!
//! Each node routes the others' pods to them, and everything else to the control plane's namespace, which knows no way
//! out: what pods send to the world ends there. The same addresses serve every run: namespaces keep them apart.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use postern_lab::netlink::{self, End, Netlink, Route};
use postern_lab::netns::{self, Netns};
use postern_lab::sysctl;

/// The control plane's address, where the API server listens.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(192, 168, 240, 1);
/// The API server's port.
pub const APISERVER_PORT: u16 = 6443;
/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// The Service `kubernetes`: the first address of the range.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service `kube-dns`: where kubeadm puts it in this range.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Addresses of pods, all nodes' ranges together.
pub const PODS: &str = "10.244.0.0/16";
/// As many nodes as there are addresses for.
pub const MAX_NODES: u8 = 100;

/// Interface indices inside the namespaces.
const LOOPBACK: u32 = 1;
const BRIDGE: u32 = 10;
const UPLINK: u32 = 10;
const FIRST_PORT: u32 = 100;

/// A wire could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// A link, address or route.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A kernel setting of a namespace.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

/// The address of the node with this number, from 1.
#[must_use]
pub fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 240, 10 + number)
}

/// The range of the pods of the node with this number, from 1.
#[must_use]
pub fn pod_range(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24)
}

/// The control plane's namespace, and the nodes' that hang on its bridge.
#[derive(Debug)]
pub struct Fabric {
    prefix: String,
    control: Netns,
    switch: Netlink,
    nodes: Vec<Netns>,
}

impl Fabric {
    /// Makes the control plane's namespace. Names of all namespaces start with `prefix`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(prefix: &str) -> Result<Self, Error> {
        let control = Netns::create(&format!("{prefix}control"))?;
        sysctl::apply(&control, sysctl::HOST)?;
        sysctl::apply(&control, sysctl::NODE)?;
        let mut switch = Netlink::open_in(&control)?;
        switch.set_up(LOOPBACK)?;
        switch.add_bridge(BRIDGE, "fabric", mac(0))?;
        switch.add_address(BRIDGE, on_fabric(CONTROL))?;
        // An address brings no route along here.
        switch.set_route(&Route { destination: on_fabric(CONTROL).trunc(), via: None, index: BRIDGE })?;
        Ok(Self { prefix: prefix.to_owned(), control, switch, nodes: Vec::new() })
    }

    /// Adds a node's namespace, with routes to all that is there, and from there to it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_node(&mut self, name: &str) -> Result<&Netns, Error> {
        let number = u8::try_from(self.nodes.len() + 1).unwrap_or(u8::MAX);
        let node = Netns::create(&format!("{}{name}", self.prefix))?;
        sysctl::apply(&node, sysctl::HOST)?;
        sysctl::apply(&node, sysctl::NODE)?;
        let port = FIRST_PORT + u32::from(number);
        let (near_name, far_name) = (format!("port{number}"), "eth0");
        let near = End { index: port, name: &near_name, mac: mac(100 + number) };
        let far = End { index: UPLINK, name: far_name, mac: mac(number) };
        self.switch.add_veth(&near, &far, &node)?;
        self.switch.enslave(port, BRIDGE)?;
        let mut netlink = Netlink::open_in(&node)?;
        netlink.set_up(LOOPBACK)?;
        netlink.set_up(UPLINK)?;
        let address = on_fabric(node_address(number));
        netlink.add_address(UPLINK, address)?;
        netlink.set_route(&Route { destination: address.trunc(), via: None, index: UPLINK })?;
        let default = IpNet::V4(Ipv4Net::default());
        netlink.set_route(&Route { destination: default, via: Some(CONTROL.into()), index: UPLINK })?;
        let to_pods = |number: u8, index| Route {
            destination: pod_range(number).into(),
            via: Some(node_address(number).into()),
            index,
        };
        self.switch.set_route(&to_pods(number, BRIDGE))?;
        for (other, netns) in (1..).zip(&self.nodes) {
            netlink.set_route(&to_pods(other, UPLINK))?;
            Netlink::open_in(netns)?.set_route(&to_pods(number, UPLINK))?;
        }
        self.nodes.push(node);
        Ok(&self.nodes[usize::from(number) - 1])
    }

    /// The control plane's namespace.
    #[must_use]
    pub fn control(&self) -> &Netns {
        &self.control
    }
}

fn on_fabric(address: Ipv4Addr) -> IpNet {
    Ipv4Net::new_assert(address, 24).into()
}

/// Locally administered, told apart by the last byte.
fn mac(last: u8) -> netlink::Mac {
    [0x02, 0x70, 0x73, 0x74, 0x6e, last]
}

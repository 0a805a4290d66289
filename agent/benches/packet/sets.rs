//! Policy sets: each grows in one dimension.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use postern_policy::model::{NetworkPolicy, Object, Peer, Pod, Port, Protocol, Rule};
use postern_policy::testkit::build::{
    block, endpoint, namespace, node, pod, pods_of, policy, range, rule, service, slice, tcp,
};
use serde::Serialize;

/// The pod's IPv4 address; its IPv6 address ends in the same 32 bits, as everyone's here.
pub(super) const POD: u32 = 0x0a00_0002;
/// First address of the pods that policy allows.
const PEERS: u32 = 0x0a40_0001;
/// First address within the blocks that policy allows, which are a /24 each with a gap of the same size behind.
const BLOCKS: u32 = 0x1400_0001;
/// From one block to the next.
const BLOCK_STRIDE: u32 = 512;
/// First address of Services.
const SERVICES: u32 = 0x0a60_0001;
/// Endpoints of a Service.
const ENDPOINTS: u32 = 5;
/// First address that nobody has.
const STRANGERS: u32 = 0xac10_0001;
/// Addresses of senders that are denied at random.
const MANY_STRANGERS: u32 = 1 << 20;
/// The port that policy allows, where it allows one.
const PORT: u16 = 8080;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dimension {
    /// Pods that one policy allows.
    Peers,
    /// Policies that select the pod, each with a peer and ports of its own.
    Policies,
    /// Ports that one policy allows, no two of them neighbours.
    Ports,
    /// CIDRs that one policy allows.
    Cidrs,
    /// Services with five endpoints each, of which policy allows the first.
    Services,
}

/// One policy set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) dimension: Dimension,
    pub(super) size: u32,
}

/// Addresses at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) first: u32,
    pub(super) stride: u32,
    pub(super) count: u32,
}

impl Addresses {
    /// The first one alone.
    pub(super) fn one(self) -> Self {
        Self { count: 1, ..self }
    }
}

impl Dimension {
    /// The sizes that are measured, from small to large.
    pub(super) const fn sizes(self, quick: bool) -> &'static [u32] {
        match (self, quick) {
            (Self::Peers, true) => &[1, 10],
            (_, true) => &[10],
            (Self::Peers, false) => &[1, 100, 10_000, 100_000],
            (Self::Policies | Self::Cidrs, false) => &[1, 100, 1_000, 10_000],
            (Self::Ports, false) => &[1, 10, 100, 1_000],
            (Self::Services, false) => &[1, 10_000],
        }
    }

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Policies => "policies",
            Self::Ports => "ports",
            Self::Cidrs => "CIDRs",
            Self::Services => "Services",
        }
    }
}

impl Set {
    /// One policy for one peer.
    pub(super) const fn smallest() -> Self {
        Self { dimension: Dimension::Peers, size: 1 }
    }

    /// Who may reach the pod.
    pub(super) fn allowed(self) -> Addresses {
        match self.dimension {
            Dimension::Peers | Dimension::Policies => Addresses { first: PEERS, stride: 1, count: self.size },
            Dimension::Ports | Dimension::Services => Addresses { first: PEERS, stride: 1, count: 1 },
            Dimension::Cidrs => Addresses { first: BLOCKS, stride: BLOCK_STRIDE, count: self.size },
        }
    }

    /// Who may not.
    pub(super) fn denied(self) -> Addresses {
        if self.dimension == Dimension::Cidrs {
            // In the gaps behind the blocks, as far as there are any.
            let first = BLOCKS + BLOCK_STRIDE / 2;
            return Addresses { first, stride: BLOCK_STRIDE, count: 10_000 };
        }
        Addresses { first: STRANGERS, stride: 1, count: MANY_STRANGERS }
    }

    /// Where the Services are.
    pub(super) fn services(self) -> Addresses {
        Addresses { first: SERVICES, stride: 1, count: self.size }
    }

    /// A port that may be reached.
    pub(super) fn port(self) -> Result<u16> {
        if self.dimension == Dimension::Ports { one_port(self.size - 1) } else { Ok(PORT) }
    }

    /// Everything that the agent would know, the pod last: it is compiled once, not for each policy.
    pub(super) fn objects(self) -> Result<Vec<Object>> {
        let mut objects =
            vec![namespace("here", &[]), namespace("peers", &[]), node("node-a", &["192.0.2.1"])];
        objects.extend(self.policies()?.into_iter().map(Object::NetworkPolicy));
        objects.extend((0..self.pods()).map(|number| Object::Pod(peer(number))));
        if self.dimension == Dimension::Services {
            objects.extend((0..self.size).flat_map(numbered_service));
        }
        let pod = pod("here", "pod", &ipv4(POD).to_string()).and_address(&ipv6(POD).to_string());
        objects.push(Object::Pod(pod));
        Ok(objects)
    }

    fn pods(self) -> u32 {
        match self.dimension {
            Dimension::Peers | Dimension::Policies => self.size,
            Dimension::Ports | Dimension::Services => 1,
            Dimension::Cidrs => 0,
        }
    }

    fn policies(self) -> Result<Vec<NetworkPolicy>> {
        let clients = || vec![pods_of(&[("kubernetes.io/metadata.name", "peers")], &[("role", "client")])];
        let one = |peers, ports| vec![both_ways("policy", rule(peers, ports))];
        Ok(match self.dimension {
            Dimension::Peers | Dimension::Services => {
                one(clients(), vec![tcp(PORT), range(Protocol::Udp, PORT, PORT)])
            }
            Dimension::Policies => (0..self.size).map(numbered).collect::<Result<_>>()?,
            Dimension::Ports => one(
                clients(),
                (0..self.size).map(|number| Ok(tcp(one_port(number)?))).collect::<Result<_>>()?,
            ),
            Dimension::Cidrs => {
                let cidr = |number| block(&format!("{}/24", ipv4(BLOCKS + number * BLOCK_STRIDE)), &[]);
                one((0..self.size).map(cidr).collect(), vec![tcp(PORT)])
            }
        })
    }
}

fn both_ways(name: &str, rule: Rule) -> NetworkPolicy {
    policy("here", name).ingress([rule.clone()]).egress([rule])
}

/// A policy that allows one peer, and ports that no other policy allows all of.
fn numbered(number: u32) -> Result<NetworkPolicy> {
    let last = PORT + u16::try_from(number)?;
    let peers: [Peer; 1] =
        [pods_of(&[("kubernetes.io/metadata.name", "peers")], &[("number", &number.to_string())])];
    let ports: [Port; 1] = [range(Protocol::Tcp, PORT, last)];
    Ok(both_ways(&format!("policy-{number}"), rule(peers, ports)))
}

/// Ports on all pages, none of them the neighbour of another.
fn one_port(number: u32) -> Result<u16> {
    let port = 1_000 + number * 64;
    ensure!(port < u32::from(u16::MAX), "there is no port for number {number}");
    Ok(u16::try_from(port)?)
}

fn peer(number: u32) -> Pod {
    let address = PEERS + number;
    pod("peers", &format!("peer-{number}"), &ipv4(address).to_string())
        .and_address(&ipv6(address).to_string())
        .labelled(&[("role", "client"), ("number", &number.to_string())])
        .on("node-b")
}

/// A Service and its endpoints. The first one's may be sent to.
fn numbered_service(number: u32) -> [Object; 2] {
    let name = format!("service-{number}");
    let service = service("peers", &name, &[&ipv4(SERVICES + number).to_string()]);
    let endpoints = (0..ENDPOINTS).map(|index| ipv4(PEERS + number * ENDPOINTS + index).to_string());
    let slice = endpoints
        .fold(slice("peers", &name, &name).port("", Protocol::Tcp, PORT), |slice, address| {
            slice.with(endpoint(&address).on("node-b"))
        });
    [Object::Service(service.port("", Protocol::Tcp, PORT, &PORT.to_string())), Object::EndpointSlice(slice)]
}

/// An IPv4 address.
pub(super) fn ipv4(address: u32) -> Ipv4Addr {
    address.into()
}

/// The IPv6 address that ends in the same bits.
pub(super) fn ipv6(address: u32) -> Ipv6Addr {
    (0xfd00_u128 << 112 | u128::from(address)).into()
}

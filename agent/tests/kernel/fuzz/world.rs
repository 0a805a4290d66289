//! The small world that all frames are about: one pod, a few peers, and a handful of ways to isolate the pod.
//!
//! The policies are here twice: as objects, which go through the engine into the maps, and as [`Policy::allows`],
//! written by hand, which the model asks. A test holds the two against the policy crate's reference.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_policy::model::{Direction, Object, Protocol, Rule};
use postern_policy::testkit::build::{any, block, namespace, pod, pods, policy, range, rule, tcp};

/// How the pod is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Policy {
    /// Both ways, with some rules.
    Narrow,
    /// Both ways, with others: more ports than a verdict holds, and more peers.
    Wide,
    /// Both ways, without rules.
    Nothing,
    /// What it gets alone, with the rules of [`Self::Narrow`].
    Ingress,
    /// What it sends alone, with the rules of [`Self::Narrow`].
    Egress,
    /// Not at all.
    Open,
    /// Not at all, and its veth carries nothing but the program that checks sources.
    Bare,
    /// The pod is not known.
    Quarantine,
    /// The veth has no endpoint.
    Missing,
}

/// What a packet asks policy for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A port of a protocol that has them.
    Port(Protocol, u16),
    /// Anything else.
    Portless,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Database,
    /// In the block that rules name, and not in its exception.
    Block,
    Stranger,
}

/// The pod's addresses.
pub(super) const POD4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The node's own addresses.
pub(super) const NODE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub(super) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const DATABASE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const DATABASE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

/// Addresses of a Service.
pub(super) const FRONTEND4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(super) const FRONTEND6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);
/// The Service's ports.
pub(super) const SERVICE_PORTS: [u16; 2] = [80, 5432];
/// Where tunnels of the node end: UDP.
pub(super) const TUNNEL_PORTS: [u16; 2] = [5000, 40_001];

/// MAC addresses: of the node's end of the veth, of the bridge that it may be a port of.
pub(super) const VETH_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// What is known of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Services {
    /// There is none.
    #[default]
    None,
    /// Its backend is chosen on this node.
    BehindNat,
    /// Its backend is chosen elsewhere: all of them together are as the database is.
    Together,
}

/// Other sides of connections, IPv4: client, database, in the block, in its exception, a stranger, the node.
pub(super) const PEERS4: [Ipv4Addr; 6] = [
    CLIENT4,
    DATABASE4,
    Ipv4Addr::new(10, 8, 1, 1),
    Ipv4Addr::new(10, 8, 255, 1),
    Ipv4Addr::new(203, 0, 113, 9),
    NODE4,
];
/// The same, IPv6.
pub(super) const PEERS6: [Ipv6Addr; 6] = [
    CLIENT6,
    DATABASE6,
    Ipv6Addr::new(0xfd08, 0, 1, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd08, 0, 0xffff, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
    NODE6,
];
/// Ports that rules tell apart: their bounds, the neighbours of these, and some that stand for the rest.
pub(super) const PORTS: [u16; 17] =
    [0, 22, 53, 79, 80, 81, 443, 3868, 5000, 5010, 5011, 5432, 7999, 8000, 8010, 8011, 65535];

/// The first of many single ports, and how far they are apart.
const MANY: (u16, u16, u16) = (20_000, 100, 8);

impl Policy {
    /// All of them.
    pub(super) const ALL: [Self; 9] = [
        Self::Narrow,
        Self::Wide,
        Self::Nothing,
        Self::Ingress,
        Self::Egress,
        Self::Open,
        Self::Bare,
        Self::Quarantine,
        Self::Missing,
    ];

    /// Whether a direction is isolated.
    pub(super) fn isolates(self, direction: Direction) -> bool {
        match self {
            Self::Narrow | Self::Wide | Self::Nothing | Self::Quarantine => true,
            Self::Ingress => direction == Direction::Ingress,
            Self::Egress => direction == Direction::Egress,
            Self::Open | Self::Bare | Self::Missing => false,
        }
    }

    /// Whether rules of an isolated direction allow a packet that starts something.
    pub(super) fn allows(self, direction: Direction, peer: IpAddr, wanted: Wanted) -> bool {
        use Protocol::{Sctp, Tcp, Udp};
        use Wanted::Port;
        let who = who(peer);
        match (self, direction) {
            (Self::Narrow | Self::Ingress, Direction::Ingress) => match (who, wanted) {
                (Who::Block, _) | (_, Port(Tcp, 8000..=8010)) => true,
                (Who::Client, wanted) => {
                    matches!(wanted, Port(Tcp, 80) | Port(Udp, 53) | Port(Sctp, 3868))
                }
                _ => false,
            },
            (Self::Narrow | Self::Egress, Direction::Egress) => match (who, wanted) {
                (Who::Block, _) | (Who::Client, Port(Tcp, _)) | (_, Port(Udp, 53)) => true,
                (Who::Database, wanted) => {
                    matches!(wanted, Port(Tcp, 5432) | Port(Udp, 5000..=5010) | Port(Sctp, _))
                }
                _ => false,
            },
            (Self::Wide, Direction::Ingress) => match (who, wanted) {
                (Who::Database, _) => true,
                (Who::Client, Port(Tcp, port)) => port == 80 || port == 443 || is_of_many(port),
                (Who::Client, Port(Udp, port)) => is_of_many(port),
                _ => false,
            },
            (Self::Wide, Direction::Egress) => matches!(
                (who, wanted),
                (_, Port(Tcp, _)) | (Who::Client, _) | (Who::Database, Port(Sctp, 3868))
            ),
            _ => false,
        }
    }

    /// The pod that stands for it in [`objects`]: its classes are what a veth's endpoint holds.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Narrow => Some("narrow"),
            Self::Wide => Some("wide"),
            Self::Nothing => Some("nothing"),
            Self::Ingress => Some("ingress"),
            Self::Egress => Some("egress"),
            Self::Open | Self::Bare | Self::Quarantine | Self::Missing => None,
        }
    }
}

fn who(address: IpAddr) -> Who {
    match address {
        IpAddr::V4(CLIENT4) | IpAddr::V6(CLIENT6) => Who::Client,
        IpAddr::V4(DATABASE4) | IpAddr::V6(DATABASE6) => Who::Database,
        IpAddr::V4(address) => match address.octets() {
            [10, 8, 255, _] => Who::Stranger,
            [10, 8, ..] => Who::Block,
            _ => Who::Stranger,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd08, 0, 0xffff, ..] => Who::Stranger,
            [0xfd08, 0, ..] => Who::Block,
            _ => Who::Stranger,
        },
    }
}

fn is_of_many(port: u16) -> bool {
    let (first, step, count) = MANY;
    port >= first && (port - first).is_multiple_of(step) && (port - first) / step < count
}

/// Whether an address is the node's own.
pub(super) fn is_node(address: IpAddr) -> bool {
    address == IpAddr::V4(NODE4) || address == IpAddr::V6(NODE6)
}

/// Whether a Service has this address and port, when there is one.
pub(super) fn is_frontend(address: IpAddr, wanted: Wanted) -> bool {
    (address == IpAddr::V4(FRONTEND4) || address == IpAddr::V6(FRONTEND6))
        && matches!(wanted, Wanted::Port(_, port) if SERVICE_PORTS.contains(&port))
}

/// Somebody who is as all backends together are.
pub(super) const TOGETHER: IpAddr = IpAddr::V4(DATABASE4);

/// Whether what goes to an address, by this protocol and to this port if it has any, is taken apart by the node as a tunnel's.
pub(super) fn is_tunnel(peer: IpAddr, protocol: u8, port: u16) -> bool {
    let is_many = match peer {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    let is_of_tunnels = match protocol {
        4 | 41 | 47 | 115 | 137 => true,
        17 => TUNNEL_PORTS.contains(&port),
        _ => false,
    };
    (is_node(peer) || is_many) && is_of_tunnels
}

/// Whether an address is the pod's, as Kubernetes knows it.
pub(super) fn is_pod(address: IpAddr) -> bool {
    address == IpAddr::V4(POD4) || address == IpAddr::V6(POD6)
}

/// The same policies in the API's words, a pod for each.
pub(super) fn objects() -> Vec<Object> {
    let client = || pods("shop", &[("app", "client")]);
    let database = || pods("shop", &[("app", "database")]);
    let blocks = || [block("10.8.0.0/16", &["10.8.255.0/24"]), block("fd08::/32", &["fd08:0:ffff::/48"])];
    let many = |protocol| {
        let (first, step, count) = MANY;
        (0..count).map(move |number| range(protocol, first + step * number, first + step * number))
    };
    let narrow_ingress = || -> Vec<Rule> {
        vec![
            rule([client()], [tcp(80), range(Protocol::Udp, 53, 53), range(Protocol::Sctp, 3868, 3868)]),
            rule(blocks(), []),
            rule([], [range(Protocol::Tcp, 8000, 8010)]),
        ]
    };
    let narrow_egress = || -> Vec<Rule> {
        vec![
            rule([database()], [tcp(5432), range(Protocol::Udp, 5000, 5010), any(Protocol::Sctp)]),
            rule(blocks(), []),
            rule([client()], [any(Protocol::Tcp)]),
            rule([], [range(Protocol::Udp, 53, 53)]),
        ]
    };
    let wide_ingress = [
        rule([database()], []),
        rule(
            [client()],
            [tcp(80), tcp(443)].into_iter().chain(many(Protocol::Tcp)).chain(many(Protocol::Udp)),
        ),
    ];
    let wide_egress = [
        rule([client()], []),
        rule([database()], [range(Protocol::Sctp, 3868, 3868)]),
        rule([], [any(Protocol::Tcp)]),
    ];
    let named = |name: &'static str| policy("shop", name).selecting(&[("policy", name)]);
    let policies = [
        named("narrow").ingress(narrow_ingress()).egress(narrow_egress()),
        named("wide").ingress(wide_ingress).egress(wide_egress),
        named("nothing").ingress([]).egress([]),
        named("ingress").ingress(narrow_ingress()),
        named("egress").egress(narrow_egress()),
    ];
    let subjects = Policy::ALL.into_iter().filter_map(Policy::name).zip(1..).map(|(name, number)| {
        Object::Pod(pod("shop", name, &format!("10.0.9.{number}")).labelled(&[("policy", name)]))
    });
    let peers = [("client", CLIENT4, CLIENT6), ("database", DATABASE4, DATABASE6)].map(|(name, v4, v6)| {
        let pod = pod("shop", name, &v4.to_string()).and_address(&v6.to_string()).on("node-b");
        Object::Pod(pod.labelled(&[("app", name)]))
    });
    std::iter::once(namespace("shop", &[]))
        .chain(subjects)
        .chain(peers)
        .chain(policies.map(Object::NetworkPolicy))
        .collect()
}

#[cfg(test)]
mod tests {
    use postern_policy::model::NamespacedName;
    use postern_policy::reference::{Endpoint, Traffic, allowed_by};

    use super::*;

    #[test]
    fn the_policies_are_what_their_objects_say() {
        let objects = objects();
        let mut asked = 0;
        let peers = PEERS4.map(IpAddr::V4).into_iter().chain(PEERS6.map(IpAddr::V6));
        // The reference would let the node pass before it looks at rules.
        for peer in peers.filter(|peer| !is_node(*peer)) {
            for policy in Policy::ALL {
                let Some(name) = policy.name() else { continue };
                let address = if peer.is_ipv4() { IpAddr::V4(POD4) } else { IpAddr::V6(POD6) };
                let this = Endpoint { pod: Some(NamespacedName::new("shop", name)), address };
                let who = match who(peer) {
                    Who::Client => Some("client"),
                    Who::Database => Some("database"),
                    Who::Block | Who::Stranger => None,
                };
                let other =
                    Endpoint { pod: who.map(|name| NamespacedName::new("shop", name)), address: peer };
                let ports = PORTS.into_iter().chain([19_900, 20_000, 20_001, 20_100, 20_700, 20_800]);
                let traffic = ports
                    .flat_map(|port| Protocol::ALL.map(|protocol| Traffic::Port(protocol, port)))
                    .chain([Traffic::Portless]);
                for traffic in traffic {
                    let wanted = match traffic {
                        Traffic::Port(protocol, port) => Wanted::Port(protocol, port),
                        Traffic::Portless => Wanted::Portless,
                    };
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let (source, destination) = match direction {
                            Direction::Ingress => (&other, &this),
                            Direction::Egress => (&this, &other),
                        };
                        let expected = allowed_by(&objects, direction, source, destination, traffic);
                        let passes = !policy.isolates(direction) || policy.allows(direction, peer, wanted);
                        assert_eq!(passes, expected, "{policy:?} {direction:?} {peer} {traffic:?}");
                        asked += 1;
                    }
                }
            }
        }
        assert!(asked > 5000, "{asked}");
    }
}

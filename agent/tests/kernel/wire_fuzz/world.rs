//! A node with a bridge, three pods on it, a fourth behind a veth that is no bridge's, and a link to everything outside.
//!
//! ```text
//! subject ────┐
//! accomplice ─┤ bridge ── node ── outside
//! backend ────┘            │
//!                       routed
//! ```
//!
//! No stack of a pod's says anything by itself: their interfaces have no addresses, and whatever goes there finds its way by static
//! entries. So what arrives anywhere is what was sent, and nothing answers but what the fuzzer does. The bridge learns nothing: who
//! claims another's MAC address gets nothing by it, and it floods what it does not know.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use postern::links::{Scanner, Veth};

use super::tag;
use super::taps::{Tap, Taps};
use crate::pod_netns::{self, PodNetns, enter_node};

/// How a node is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// What crosses the bridge goes through netfilter (`br_netfilter`).
    pub(super) filtered: bool,
    /// Programs are filters of the clsact qdisc, not TCX links.
    pub(super) clsact: bool,
    /// What is established stays so, whatever policy says then (`--established=keep`).
    pub(super) keep: bool,
}

/// Where frames come from, and where they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// A pod on the bridge, under changing policy.
    Subject,
    /// A pod on the bridge that no policy isolates.
    Accomplice,
    /// Another one, which a Service may lead to.
    Backend,
    /// A pod behind a veth of its own, under changing policy.
    Routed,
    /// All that is not on the node: another node's pod, a frontend that is none, a block.
    Outside,
    /// The node's own sockets.
    Node,
}

/// All that have an interface of their own.
pub(super) const PODS: [Place; 5] =
    [Place::Subject, Place::Accomplice, Place::Backend, Place::Routed, Place::Outside];
/// Those on the bridge.
pub(super) const BRIDGED: [Place; 3] = [Place::Subject, Place::Accomplice, Place::Backend];

/// Whose MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mac {
    /// A pod's own interface.
    Of(Place),
    /// The node's end of its veth.
    NodeEnd(Place),
    Bridge,
    Tunnel,
    Broadcast,
    /// All nodes of IPv6.
    AllNodes,
    /// Nobody's: a bridge floods it.
    Nobody,
}

/// Whose IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A pod's; the node's on its bridge; the outside peer's.
    Of(Place),
    /// The node's on its link to the outside.
    Uplink,
    /// A pod of another node.
    Remote,
    /// A Service's cluster address.
    Frontend,
    /// In the block that policies name.
    Block,
    /// Nobody that anything knows.
    Stranger,
    Unspecified,
    /// A link-local address, of IPv6; an IPv4 one is of nobody.
    LinkLocal,
    /// All nodes, of IPv6; an IPv4 group.
    AllNodes,
    /// The solicited-node group of a pod's address, of IPv6; an IPv4 group.
    Group(Place),
}

/// Port of the Service's cluster addresses, of its node port, and of its backends.
pub(super) const SERVICE_PORT: u16 = 80;
pub(super) const NODE_PORT: u16 = 30080;
pub(super) const BACKEND_PORT: u16 = 8080;
/// Where the node takes VXLAN apart, and the only network that it knows there.
pub(super) const VXLAN_PORT: u16 = 4789;
pub(super) const VNI: u32 = 42;

impl Place {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Subject => 2,
            Self::Accomplice => 3,
            Self::Backend => 4,
            Self::Routed => 5,
            Self::Outside => 6,
            Self::Node => 1,
        }
    }

    /// Name of the node's end of its veth.
    const fn interface(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Accomplice => "accomplice",
            Self::Backend => "backend",
            Self::Routed => "routed",
            Self::Outside => "outside",
            Self::Node => "bridge",
        }
    }

    pub(super) fn is_bridged(self) -> bool {
        BRIDGED.contains(&self)
    }
}

impl Mac {
    pub(super) fn octets(self) -> [u8; 6] {
        match self {
            Self::Of(place) => [2, 0, 0, 0, 1, place.number()],
            Self::NodeEnd(place) => [2, 0, 0, 0, 2, place.number()],
            Self::Bridge => [2, 0, 0, 0, 3, 1],
            Self::Tunnel => [2, 0, 0, 0, 3, 2],
            Self::Broadcast => [255; 6],
            Self::AllNodes => [0x33, 0x33, 0, 0, 0, 1],
            Self::Nobody => [2, 0, 0, 0, 9, 9],
        }
    }
}

impl Who {
    pub(super) fn v4(self) -> Ipv4Addr {
        match self {
            Self::Of(Place::Routed) => Ipv4Addr::new(10, 2, 0, 5),
            Self::Of(Place::Outside) => Ipv4Addr::new(192, 0, 2, 6),
            Self::Of(place) => Ipv4Addr::new(10, 1, 0, place.number()),
            Self::Uplink => Ipv4Addr::new(192, 0, 2, 1),
            Self::Remote => Ipv4Addr::new(10, 3, 0, 7),
            Self::Frontend => Ipv4Addr::new(10, 96, 0, 10),
            Self::Block => Ipv4Addr::new(198, 51, 100, 9),
            Self::Stranger => Ipv4Addr::new(203, 0, 113, 9),
            Self::Unspecified => Ipv4Addr::UNSPECIFIED,
            Self::LinkLocal => Ipv4Addr::new(169, 254, 7, 7),
            Self::AllNodes | Self::Group(_) => Ipv4Addr::new(224, 0, 0, 1),
        }
    }

    pub(super) fn v6(self) -> Ipv6Addr {
        let of = |first, last: u8| Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last.into());
        match self {
            Self::Of(Place::Routed) => of(0xfd02, 5),
            Self::Of(Place::Outside) => of(0xfd05, 6),
            Self::Of(place) => of(0xfd01, place.number()),
            Self::Uplink => of(0xfd05, 1),
            Self::Remote => of(0xfd03, 7),
            Self::Frontend => of(0xfd96, 0x10),
            Self::Block => of(0xfd99, 9),
            Self::Stranger => of(0xfd88, 9),
            Self::Unspecified => Ipv6Addr::UNSPECIFIED,
            Self::LinkLocal => of(0xfe80, 7),
            Self::AllNodes => of(0xff02, 1),
            Self::Group(place) => {
                let [.., high, low] = Self::Of(place).v6().segments();
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
            }
        }
    }

    pub(super) fn address(self, v6: bool) -> IpAddr {
        if v6 { self.v6().into() } else { self.v4().into() }
    }
}

/// The node's own addresses.
pub(super) fn node_addresses() -> [IpAddr; 4] {
    let [bridge, uplink] = [Who::Of(Place::Node), Who::Uplink];
    [bridge.v4().into(), bridge.v6().into(), uplink.v4().into(), uplink.v6().into()]
}

/// Namespaces, links, and a tap wherever something may arrive. All of it goes away with the thread.
pub(super) struct World {
    pub(super) taps: Taps,
    /// The node's ends of the veths of pods that may be isolated.
    pub(super) subject: Veth,
    pub(super) routed: Veth,
    /// And of one that may be guarded.
    pub(super) accomplice: Veth,
    /// Where the node's tunnels end, as the agent sees it.
    pub(super) tunnel_ports: BTreeSet<u16>,
    /// Whether there is a device that takes VXLAN apart.
    pub(super) tunnel: bool,
    _pods: Vec<PodNetns>,
}

impl World {
    /// Moves the calling thread there.
    pub(super) fn enter(options: Options) -> Self {
        enter_node();
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            sysctl(name, value);
        }
        let filtered = if options.filtered { "1" } else { "0" };
        for name in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            if std::path::Path::new("/proc/sys/net").join(name).exists() {
                sysctl(name, filtered);
            }
        }
        let pods = PODS.map(|place| {
            let netns = PodNetns::create(place.interface(), &[], &[]);
            netns.within(|| {
                sysctl("ipv6/conf/all/disable_ipv6", "1");
                let mac = text(Mac::Of(place));
                ip(&format!("link set eth0 address {mac}\nlink set eth0 arp off\n"));
                tag::attach("eth0");
            });
            netns
        });
        ip(&links());
        for place in BRIDGED {
            let (port, mac) = (place.interface(), text(Mac::Of(place)));
            // As CNI plugins have it: a Service may lead to who asks.
            run("bridge", &["link", "set", "dev", port, "learning", "off", "hairpin", "on"]);
            run("bridge", &["fdb", "replace", &mac, "dev", port, "master", "static"]);
        }
        let tunnel = {
            let add = format!(
                "link add vxlan type vxlan id {VNI} dstport {VXLAN_PORT} nolearning\nlink set vxlan address {} up\n",
                text(Mac::Tunnel)
            );
            fed("ip", &["-batch", "-"], &add)
        };
        let taps = Taps::open(PODS.iter().zip(&pods).map(|(place, pod)| pod.within(|| Tap::open(*place))));
        let view = pod_netns::run(async |_| Scanner::open().unwrap().scan().await.unwrap());
        let veth = |place: Place| {
            let veth = view.veths.iter().find(|veth| veth.interface == place.interface()).unwrap();
            // Its addresses are in the API alone.
            let of = Who::Of(place);
            Veth { addresses: vec![of.v4().into(), of.v6().into()], ..veth.clone() }
        };
        let (subject, routed) = (veth(Place::Subject), veth(Place::Routed));
        let accomplice = veth(Place::Accomplice);
        Self {
            taps,
            subject,
            routed,
            accomplice,
            tunnel_ports: view.tunnel_ports,
            tunnel,
            _pods: pods.into(),
        }
    }
}

/// The node's links, addresses, routes and neighbours.
fn links() -> String {
    let mut lines = String::from("link set lo up\nlink add bridge type bridge mcast_snooping 0\n");
    let mut add = |line: &str| {
        lines.push_str(line);
        lines.push('\n');
    };
    for place in PODS {
        let name = place.interface();
        add(&format!("link set {name} address {}", text(Mac::NodeEnd(place))));
        if place.is_bridged() {
            add(&format!("link set {name} master bridge"));
        }
    }
    add(&format!("link set bridge address {} up", text(Mac::Bridge)));
    let node = Who::Of(Place::Node);
    add(&format!("address add {}/24 dev bridge", node.v4()));
    add(&format!("address add {}/64 dev bridge nodad", node.v6()));
    add(&format!("address add {}/24 dev outside", Who::Uplink.v4()));
    add(&format!("address add {}/64 dev outside nodad", Who::Uplink.v6()));
    let routed = Who::Of(Place::Routed);
    add(&format!("route add {} dev routed src {}", routed.v4(), node.v4()));
    add(&format!("route add {}/128 dev routed", routed.v6()));
    for place in PODS {
        let device = if place.is_bridged() { "bridge" } else { place.interface() };
        for address in [Who::Of(place).address(false), Who::Of(place).address(true)] {
            add(&format!(
                "neigh replace {address} lladdr {} dev {device} nud permanent",
                text(Mac::Of(place))
            ));
        }
    }
    let outside = Who::Of(Place::Outside);
    add(&format!("route add default via {}", outside.v4()));
    add(&format!("route add ::/0 via {}", outside.v6()));
    lines
}

fn text(mac: Mac) -> String {
    mac.octets().map(|octet| format!("{octet:02x}")).join(":")
}

fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn ip(batch: &str) {
    assert!(fed("ip", &["-batch", "-"], batch), "{batch}");
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

/// Runs a program with this to read, in the calling thread's namespaces. Whether it succeeded.
pub(super) fn fed(program: &str, arguments: &[&str], input: &str) -> bool {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; cargo xtask setup installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

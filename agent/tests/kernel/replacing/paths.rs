//! Paths that every state allows, and paths that every state denies.

use std::net::IpAddr;

use postern_policy::Tables;
use postern_policy::model::{Direction, NamespacedName, Protocol};

use crate::traffic::{Place, with_ports, without_ports};

/// What goes between `web` and somebody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) direction: Direction,
    pub(super) own: IpAddr,
    pub(super) remote: IpAddr,
    /// Protocol and destination port; `None`: a protocol without ports.
    pub(super) port: Option<(Protocol, u16)>,
    pub(super) allowed: bool,
}

const WEB: [&str; 2] = ["10.0.0.1", "fd00::1"];
const FRIEND: [&str; 2] = ["10.0.0.2", "fd00::2"];
const FOE: [&str; 2] = ["10.0.0.3", "fd00::3"];
const BUDDY: [&str; 2] = ["10.0.0.4", "fd00::4"];
const INSIDE: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const OUTSIDE: [&str; 2] = ["192.0.2.200", "2001:db8:8000::1"];
const STRANGER: [&str; 2] = ["203.0.113.9", "2001:dba::9"];

/// All of them.
pub(super) fn all() -> Vec<Path> {
    use Direction::{Egress, Ingress};
    use Protocol::{Sctp, Tcp, Udp};
    let table = [
        (Ingress, FRIEND, Some((Tcp, 80)), true),
        (Egress, FRIEND, Some((Tcp, 5432)), true),
        (Ingress, INSIDE, Some((Tcp, 443)), true),
        (Egress, INSIDE, Some((Udp, 53)), true),
        (Ingress, BUDDY, None, true),
        (Egress, BUDDY, None, true),
        (Ingress, BUDDY, Some((Sctp, 9)), true),
        (Egress, BUDDY, Some((Udp, 514)), true),
        (Ingress, FRIEND, Some((Tcp, 22)), false),
        (Ingress, FRIEND, Some((Udp, 80)), false),
        (Ingress, FRIEND, None, false),
        (Egress, FRIEND, Some((Tcp, 22)), false),
        (Ingress, INSIDE, Some((Tcp, 22)), false),
        (Ingress, FOE, Some((Tcp, 80)), false),
        (Egress, FOE, Some((Tcp, 5432)), false),
        (Ingress, OUTSIDE, Some((Tcp, 443)), false),
        (Egress, OUTSIDE, Some((Udp, 53)), false),
        (Ingress, STRANGER, Some((Tcp, 443)), false),
        (Egress, STRANGER, Some((Udp, 53)), false),
    ];
    let families =
        |(direction, remote, port, allowed): (Direction, [&str; 2], Option<(Protocol, u16)>, bool)| {
            [0, 1].map(|family| {
                let own = WEB[family].parse().unwrap();
                Path { direction, own, remote: remote[family].parse().unwrap(), port, allowed }
            })
        };
    table.into_iter().flat_map(families).collect()
}

impl Path {
    /// Whether tables say of this path what every state is to say.
    pub(super) fn holds(&self, tables: &Tables) -> bool {
        let ports = tables.ports(&NamespacedName::new("shop", "web"), self.direction, self.remote);
        let allowed = match self.port {
            Some((protocol, port)) => ports.allows(protocol, port),
            None => ports.allows_portless(),
        };
        allowed == self.allowed
    }

    /// A frame from the side that starts, or its reply, with the direction in which the pod sees it.
    pub(super) fn frame(&self, place: Place, reply: bool, source_port: u16) -> (Direction, Vec<u8>) {
        let towards_pod = (self.direction == Direction::Ingress) != reply;
        let direction = if towards_pod { Direction::Ingress } else { Direction::Egress };
        let (source, destination) =
            if towards_pod { (self.remote, self.own) } else { (self.own, self.remote) };
        let frame = match self.port {
            Some((protocol, port)) => {
                let (from, to) = if reply { (port, source_port) } else { (source_port, port) };
                with_ports(protocol, (source, from), (destination, to), place)
            }
            None => without_ports(source, destination),
        };
        (direction, frame)
    }
}

//! Conversations between the pod and its peers: the next packet of each, in or out of turn.

use std::net::IpAddr;

use postern_policy::model::Direction;

use super::super::dice::Dice;
use super::super::world::{
    FRONTEND4, FRONTEND6, NODE4, NODE6, PEERS4, PEERS6, POD4, POD6, PORTS, SERVICE_PORTS, TUNNEL_PORTS,
};
use super::draft::{self, Draft, ICMP, ICMPV6, SCTP, TCP, UDP};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Ports of clients. One is a port that servers have too, so that either side may be the server.
const CLIENTS: [u16; 4] = [40_000, 40_001, 53, 8000];

/// Two ends that talk.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    protocol: u8,
    pod: (IpAddr, u16),
    peer: (IpAddr, u16),
    initiator: Direction,
    /// Whether nobody answers.
    one_sided: bool,
    /// Packets so far.
    packets: usize,
}

impl Talk {
    pub(super) fn random(dice: &mut Dice) -> Self {
        let v6 = dice.percent(45);
        let icmp = if v6 { ICMPV6 } else { ICMP };
        let protocol = dice.weighted(&[(45, TCP), (30, UDP), (10, SCTP), (15, icmp)]);
        let (server, client) = if protocol == icmp {
            let identifier = dice.one_of(&[7, 8, 80]);
            (identifier, identifier)
        } else if dice.percent(10) {
            (
                20_000 + 100 * dice.one_of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]) + u16::from(dice.percent(20)),
                dice.one_of(&CLIENTS),
            )
        } else {
            (dice.one_of(&PORTS), dice.one_of(&CLIENTS))
        };
        let initiator = dice.one_of(&[Direction::Ingress, Direction::Egress]);
        let peer = peer(dice, v6);
        let is_frontend = peer == IpAddr::V4(FRONTEND4) || peer == IpAddr::V6(FRONTEND6);
        let (server, client) = match protocol {
            TCP | UDP | SCTP if is_frontend && dice.percent(85) => (dice.one_of(&SERVICE_PORTS), client),
            UDP if dice.percent(8) => (dice.one_of(&TUNNEL_PORTS), client),
            UDP if dice.percent(4) => (server, dice.one_of(&TUNNEL_PORTS)),
            _ => (server, client),
        };
        let (pod_port, peer_port) = match initiator {
            Direction::Ingress => (server, client),
            Direction::Egress => (client, server),
        };
        let pod = if v6 { IpAddr::V6(POD6) } else { IpAddr::V4(POD4) };
        Self {
            protocol,
            pod: (pod, pod_port),
            peer: (peer, peer_port),
            initiator,
            one_sided: dice.percent(15),
            packets: 0,
        }
    }

    /// The next packet, and who sends it.
    pub(super) fn next(&mut self, dice: &mut Dice) -> (Direction, Draft) {
        let other = match self.initiator {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        };
        let in_turn = match self.packets % 3 {
            1 if !self.one_sided => other,
            _ => self.initiator,
        };
        let out_of_turn = if self.one_sided { 4 } else { 20 };
        let direction =
            if dice.percent(out_of_turn) { dice.one_of(&[self.initiator, other]) } else { in_turn };
        let flags = if dice.percent(85) {
            match self.packets {
                0 => SYN,
                1 => SYN | ACK,
                2..=6 => ACK,
                _ => dice.one_of(&[ACK, ACK | FIN, RST, RST | ACK, ACK]),
            }
        } else {
            dice.one_of(&[
                SYN,
                SYN | ACK,
                ACK,
                FIN,
                RST,
                SYN | FIN,
                SYN | RST,
                0,
                0x3f,
                ACK | FIN,
                0x08 | ACK,
            ])
        };
        let request = if dice.percent(85) { direction == self.initiator } else { dice.percent(50) };
        self.packets += 1;
        // Once it has ended it may begin again, the other way round too.
        if self.packets > 8 && dice.percent(30) {
            self.packets = 0;
            self.initiator = dice.one_of(&[self.initiator, other]);
        }
        (direction, self.packet(direction, flags, request))
    }

    /// A first fragment, or the whole, of a datagram of this conversation.
    pub(super) fn packet(&self, direction: Direction, flags: u8, request: bool) -> Draft {
        let (source, destination) = match direction {
            Direction::Ingress => (self.peer, self.pod),
            Direction::Egress => (self.pod, self.peer),
        };
        let body = match self.protocol {
            TCP => draft::tcp(source.1, destination.1, flags),
            UDP => draft::udp(source.1, destination.1),
            SCTP => draft::sctp(source.1, destination.1),
            _ => draft::echo(self.protocol == ICMPV6, request, source.1),
        };
        Draft::new(source.0, destination.0, self.protocol, body)
    }
}

/// The other side of something: mostly one that rules tell from others.
pub(super) fn peer(dice: &mut Dice, v6: bool) -> IpAddr {
    if dice.percent(12) {
        return if v6 { IpAddr::V6(FRONTEND6) } else { IpAddr::V4(FRONTEND4) };
    }
    if dice.percent(92) {
        return if v6 { IpAddr::V6(dice.one_of(&PEERS6)) } else { IpAddr::V4(dice.one_of(&PEERS4)) };
    }
    let rare = if v6 {
        ["fe80::2", "ff02::1", "ff02::16", "::", "::1", "fd00::1", "fd08::7", "::ffff:10.0.0.2"]
    } else {
        [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.22",
            "127.0.0.1",
            "10.0.0.1",
            "169.254.1.1",
            "10.8.0.0",
            "10.9.0.0",
        ]
    };
    dice.one_of(&rare).parse().unwrap()
}

/// A source or destination that is probably not the pod's.
pub(super) fn stranger(dice: &mut Dice, v6: bool) -> IpAddr {
    match dice.below(4) {
        0 => {
            if v6 {
                IpAddr::V6(NODE6)
            } else {
                IpAddr::V4(NODE4)
            }
        }
        1 if v6 => "fe80::1".parse().unwrap(),
        1 => "0.0.0.0".parse().unwrap(),
        2 if v6 => "fd00::4:1".parse().unwrap(),
        2 => "10.0.0.11".parse().unwrap(),
        _ => peer(dice, v6),
    }
}

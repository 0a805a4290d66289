//! What is measured: kinds of packets, and what must become of them.

use std::fmt;

use anyhow::Result;
use postern_common::bench::{AT_RANDOM, NOTHING, ONE_BY_ONE, Vary};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;

use super::frames::{Family, Transport};
use super::sets::{Addresses, Dimension, Set};

/// The pod's port of the established flows.
pub(super) const FLOW_PORT: u16 = 8080;
/// The first client port of any flow.
pub(super) const FIRST_CLIENT_PORT: u16 = 1_024;
/// Peers of the established flows.
const FLOW_PEERS: Addresses = Addresses { first: 0x6440_0001, stride: 1, count: 1_000 };
/// New flows, before the first comes again: many more than there is room for.
const NEW_FLOWS: u32 = 60_000;

/// How full the table of half-open flows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// The rows that the agent sets aside hold all new flows.
    Room,
    /// Those are full, and there are overflow rows, with room.
    Overflow,
    /// Those are full, and overflow rows are made on the way: for the first few thousand flows of a flood.
    Growing,
    /// Each new flow takes the place of an older one.
    Full,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Room => "room",
            Self::Overflow => "overflow",
            Self::Growing => "growing",
            Self::Full => "full",
        })
    }
}

/// How many peers the packets are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// One: its entry is in the processor's caches.
    One,
    /// All there are.
    Many,
}

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Of a pod that no policy selects.
    NotIsolated,
    /// Of one of so many established flows, at random.
    Established(u32),
    /// The first of a flow that policy allows; no flow comes twice.
    New(Transport, Table, Sources),
    /// The first of a flow to a Service, which its backend is to decide.
    NewToService,
    /// Of one established flow to a Service, which is noted for its backend each time.
    EstablishedToService,
    /// The first of a flow from a source that policy does not allow, to a pod that opens no connections itself.
    DeniedSource(Transport, Sources),
    /// The same, of a connection, to a pod that has just opened others: it may be the other half of one.
    DeniedSynToClient,
    /// The first of a flow to a port that policy does not allow, from a source that it allows other ports.
    DeniedPort,
    /// One in the middle of a TCP connection that nobody knows, and whichever side started it, policy would not allow it.
    DeniedAck,
    /// The same, where policy would allow it if the pod started it: only the pod's sockets know.
    DeniedAckOfPods,
}

/// A kind of packet, one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) packet: Packet,
    pub(super) family: Family,
    pub(super) direction: u8,
}

/// Packets of a cell for one policy set.
#[derive(Clone, Debug)]
pub(super) struct Packets {
    pub(super) frame: Vec<u8>,
    pub(super) vary: Vary,
    /// What each of them must end under.
    pub(super) reason: Reason,
}

/// What is measured with a policy set.
pub(super) fn cells(set: Set, flows: &[u32]) -> Vec<Cell> {
    use Packet::{
        DeniedAck, DeniedAckOfPods, DeniedPort, DeniedSource, DeniedSynToClient, Established,
        EstablishedToService, New, NewToService, NotIsolated,
    };
    use Sources::{Many, One};
    use Table::{Full, Growing, Overflow, Room};
    use Transport::{Datagram, Syn};

    let received = |family, packet| Cell { packet, family, direction: INGRESS };
    let outgoing = |packet| Cell { packet, family: Family::V4, direction: EGRESS };
    let v4 = |packet| received(Family::V4, packet);
    let v6 = |packet| received(Family::V6, packet);
    let established = |family| flows.iter().map(move |flows| received(family, Established(*flows)));

    let mut cells = vec![v4(NotIsolated)];
    cells.extend([Family::V4, Family::V6].into_iter().flat_map(established));
    cells.extend([Room, Overflow, Growing, Full].map(|table| v4(New(Syn, table, One))));
    if set.dimension != Dimension::Ports {
        cells.extend([Room, Full].map(|table| v4(New(Syn, table, Many))));
    }
    cells.extend([DeniedSource(Syn, One), DeniedSource(Syn, Many)].map(v4));
    cells.extend([DeniedPort, DeniedSynToClient, DeniedSource(Datagram, One)].map(v4));
    cells.extend([DeniedAck, DeniedAckOfPods].map(v4));
    if set.dimension == Dimension::Services {
        cells.extend([Established(1), EstablishedToService, New(Syn, Room, One), NewToService].map(outgoing));
    }
    if set.dimension == Dimension::Peers {
        cells.push(v4(New(Datagram, Room, One)));
        cells.extend([New(Syn, Room, One), DeniedSource(Syn, One), DeniedSource(Syn, Many)].map(v6));
        cells.extend([DeniedAck, DeniedAckOfPods].map(v6));
        cells.extend([Established(1), New(Syn, Room, One), DeniedSource(Syn, One)].map(outgoing));
    }
    cells
}

impl Cell {
    /// Its packets.
    pub(super) fn packets(self, set: Set) -> Result<Packets> {
        let port = set.port()?;
        let allowed = set.allowed();
        let (transport, peers, port, mode, count, reason) = match self.packet {
            Packet::NotIsolated => (Transport::Ack, allowed.one(), port, NOTHING, 1, Reason::NotIsolated),
            Packet::Established(flows) => return self.established(flows),
            Packet::New(transport, _, Sources::One) => {
                (transport, allowed.one(), port, ONE_BY_ONE, NEW_FLOWS, Reason::AllowedByPolicy)
            }
            Packet::New(transport, _, Sources::Many) => {
                let count = NEW_FLOWS.max(allowed.count);
                (transport, allowed, port, ONE_BY_ONE, count, Reason::AllowedByPolicy)
            }
            Packet::NewToService => {
                (Transport::Syn, set.services().one(), port, ONE_BY_ONE, NEW_FLOWS, Reason::Service)
            }
            Packet::EstablishedToService => {
                (Transport::Ack, set.services().one(), port, NOTHING, 1, Reason::Established)
            }
            Packet::DeniedSource(transport, Sources::One) => {
                (transport, set.denied().one(), port, NOTHING, 1, Reason::DeniedByPolicy)
            }
            Packet::DeniedSynToClient => {
                (Transport::Syn, set.denied().one(), port, NOTHING, 1, Reason::DeniedByPolicy)
            }
            Packet::DeniedSource(transport, Sources::Many) => {
                let denied = set.denied();
                (transport, denied, port, AT_RANDOM, denied.count, Reason::DeniedByPolicy)
            }
            Packet::DeniedPort => {
                (Transport::Syn, allowed.one(), port - 1, NOTHING, 1, Reason::DeniedByPolicy)
            }
            Packet::DeniedAck => {
                (Transport::Ack, set.denied().one(), port, NOTHING, 1, Reason::DeniedByPolicy)
            }
            Packet::DeniedAckOfPods => return self.of_pods(set),
        };
        // The client's port comes first in its packets.
        let frame = self.family.frame(self.direction, peers.first, [FIRST_CLIENT_PORT, port], transport)?;
        let vary = Vary { ports: u32::from(port), port_shift: 16, ..self.vary(mode, peers, count) };
        Ok(Packets { frame, vary, reason })
    }

    /// From a port that the pod may send to, to one that it may not be reached on.
    fn of_pods(self, set: Set) -> Result<Packets> {
        let (peers, port) = (set.allowed().one(), set.port()?);
        let ports = [port, FIRST_CLIENT_PORT];
        let frame = self.family.frame(self.direction, peers.first, ports, Transport::Ack)?;
        let vary =
            Vary { ports: u32::from(FIRST_CLIENT_PORT), port_shift: 16, ..self.vary(NOTHING, peers, 1) };
        Ok(Packets { frame, vary, reason: Reason::DeniedByPolicy })
    }

    /// The flows were started by the peers, so that what the pod sends is answers.
    fn established(self, flows: u32) -> Result<Packets> {
        let is_answer = self.direction == EGRESS;
        let ports = if is_answer { [FLOW_PORT, FIRST_CLIENT_PORT] } else { [FIRST_CLIENT_PORT, FLOW_PORT] };
        let frame = self.family.frame(self.direction, FLOW_PEERS.first, ports, Transport::Ack)?;
        let (ports, port_shift) =
            if is_answer { (u32::from(FLOW_PORT) << 16, 0) } else { (u32::from(FLOW_PORT), 16) };
        let mode = if flows == 1 { NOTHING } else { AT_RANDOM };
        let vary = Vary { ports, port_shift, ..self.vary(mode, FLOW_PEERS, flows) };
        Ok(Packets { frame, vary, reason: Reason::Established })
    }

    fn vary(self, mode: u32, peers: Addresses, count: u32) -> Vary {
        Vary {
            state: 1,
            mode,
            count,
            addresses: peers.count,
            first_address: peers.first,
            stride: peers.stride,
            first_port: u32::from(FIRST_CLIENT_PORT),
            address_offset: self.family.peer_offset(self.direction),
            ports_offset: self.family.ports_offset(),
            ..Vary::default()
        }
    }

    /// Whether it reads as many entries as the policy set has, or senders do: more than processors' caches hold.
    pub(super) fn is_scattered(self) -> bool {
        matches!(self.packet, Packet::New(_, _, Sources::Many) | Packet::DeniedSource(_, Sources::Many))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |from| if from == Sources::One { "one source" } else { "many sources" };
        let udp = |transport| if transport == Transport::Datagram { ", UDP" } else { "" };
        match self.packet {
            Packet::NotIsolated => write!(f, "not isolated"),
            Packet::Established(1) => write!(f, "established, one flow"),
            Packet::Established(flows) => write!(f, "established, {flows} flows"),
            Packet::New(transport, table, sources) => {
                write!(f, "new allowed, {table}, {}{}", from(sources), udp(transport))
            }
            Packet::NewToService => write!(f, "new to a Service, room"),
            Packet::EstablishedToService => write!(f, "established to a Service, one flow"),
            Packet::DeniedSource(transport, sources) => {
                write!(f, "denied, {}{}", from(sources), udp(transport))
            }
            Packet::DeniedSynToClient => write!(f, "denied, one source, to a client"),
            Packet::DeniedPort => write!(f, "denied port, one source"),
            Packet::DeniedAck => write!(f, "denied ACK, one source"),
            Packet::DeniedAckOfPods => write!(f, "denied ACK of what the pod may start"),
        }?;
        if self.family == Family::V6 {
            write!(f, ", IPv6")?;
        }
        if self.direction == EGRESS { write!(f, ", sent") } else { Ok(()) }
    }
}

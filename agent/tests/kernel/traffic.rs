//! Frames of every kind of traffic between any two addresses.

use std::net::IpAddr;

use crate::frames::NODE_MAC;
use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use postern_policy::model::Protocol;
use postern_policy::reference::Traffic;

/// A protocol that has no ports and whose packets belong to no flow.
const ESP: IpNumber = IpNumber::ENCAPSULATING_SECURITY_PAYLOAD;

/// Whether a packet starts a connection or goes on with one. Only TCP tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Later,
}

fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], NODE_MAC);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("two families in one packet"),
    }
}

/// A packet of a protocol with ports.
pub(crate) fn with_ports(
    protocol: Protocol,
    (source, source_port): (IpAddr, u16),
    (destination, destination_port): (IpAddr, u16),
    place: Place,
) -> Vec<u8> {
    let ip = ip(source, destination);
    let mut frame = Vec::with_capacity(128);
    match protocol {
        Protocol::Tcp => {
            let segment = ip.tcp(source_port, destination_port, 1000, 4096);
            let segment = if place == Place::First { segment.syn() } else { segment.ack(2000) };
            segment.write(&mut frame, &[]).unwrap();
        }
        Protocol::Udp => ip.udp(source_port, destination_port).write(&mut frame, b"hello").unwrap(),
        Protocol::Sctp => {
            // The common header, and no chunk (RFC 9260 3.1).
            let mut header = [0; 12];
            header[..2].copy_from_slice(&source_port.to_be_bytes());
            header[2..4].copy_from_slice(&destination_port.to_be_bytes());
            ip.write(&mut frame, IpNumber::SCTP, &header).unwrap();
        }
    }
    frame
}

/// A packet of a protocol without ports that leaves no flow behind.
pub(crate) fn without_ports(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    ip(source, destination).write(&mut frame, ESP, &[0; 16]).unwrap();
    frame
}

fn echo(source: IpAddr, destination: IpAddr, identifier: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    let ip = ip(source, destination);
    if source.is_ipv4() {
        ip.icmpv4_echo_request(identifier, 1).write(&mut frame, b"ping").unwrap();
    } else {
        ip.icmpv6_echo_request(identifier, 1).write(&mut frame, b"ping").unwrap();
    }
    frame
}

/// Frames of this traffic. `identity` is the source port, or the echo's identifier: what tells flows apart that are
/// otherwise the same.
pub(crate) fn frames(
    source: IpAddr,
    destination: IpAddr,
    traffic: Traffic,
    identity: u16,
    place: Place,
) -> Vec<Vec<u8>> {
    match traffic {
        Traffic::Port(protocol, port) => {
            vec![with_ports(protocol, (source, identity), (destination, port), place)]
        }
        Traffic::Portless => {
            vec![echo(source, destination, identity), without_ports(source, destination)]
        }
    }
}

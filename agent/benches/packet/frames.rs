//! The packets, and where in them the peer stands.

use anyhow::Result;
use etherparse::PacketBuilder;
use postern_common::direction::EGRESS;
use serde::Serialize;

use super::sets::{POD, ipv6};

/// Length of an Ethernet header.
const ETHERNET: u32 = 14;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP, SYN.
    Syn,
    /// TCP, ACK.
    Ack,
    /// UDP.
    Datagram,
}

impl Family {
    /// Where the last 32 bits of the peer's address stand in a frame.
    pub(super) const fn peer_offset(self, direction: u8) -> u32 {
        let is_destination = direction == EGRESS;
        match (self, is_destination) {
            (Self::V4, false) => ETHERNET + 12,
            (Self::V4, true) => ETHERNET + 16,
            (Self::V6, false) => ETHERNET + 8 + 12,
            (Self::V6, true) => ETHERNET + 24 + 12,
        }
    }

    /// Where the ports stand in a frame.
    pub(super) const fn ports_offset(self) -> u32 {
        match self {
            Self::V4 => ETHERNET + 20,
            Self::V6 => ETHERNET + 40,
        }
    }

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// A packet between the pod and a peer; the source's port first.
    pub(super) fn frame(
        self,
        direction: u8,
        peer: u32,
        [source_port, destination_port]: [u16; 2],
        transport: Transport,
    ) -> Result<Vec<u8>> {
        let (source, destination) = if direction == EGRESS { (POD, peer) } else { (peer, POD) };
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = match self {
            Self::V4 => ethernet.ipv4(source.to_be_bytes(), destination.to_be_bytes(), 64),
            Self::V6 => ethernet.ipv6(ipv6(source).octets(), ipv6(destination).octets(), 64),
        };
        let mut frame = Vec::new();
        if transport == Transport::Datagram {
            packet.udp(source_port, destination_port).write(&mut frame, &[])?;
            return Ok(frame);
        }
        let segment = packet.tcp(source_port, destination_port, 1_000, 4_096);
        let segment = if transport == Transport::Syn { segment.syn() } else { segment.ack(2_000) };
        segment.write(&mut frame, &[])?;
        Ok(frame)
    }
}

//! Datagrams in fragments: which of them had a first fragment that was allowed.

use std::net::IpAddr;

use postern_common::reason::Reason;

use super::Expected;
use super::packet::{Fragment, Packet, Part};

/// Datagrams of a veth and direction whose first fragment was allowed, and how many bytes that one held; the last noted
/// last. Nothing for one whose leave was taken away: it may have displaced others all the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagrams(Vec<(Datagram, Option<First>)>);

/// A first fragment that was allowed.
#[derive(Clone, Copy, Debug)]
struct First {
    length: usize,
    /// The pod sent it to its node.
    by_node: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
}

impl Datagram {
    fn of(packet: &Packet<'_>, fragment: Fragment) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            identification: fragment.identification,
            protocol: fragment.protocol,
        }
    }
}

impl Datagrams {
    /// A packet was judged: where it is a first fragment, this decides about the later ones.
    pub(super) fn note(&mut self, packet: &Packet<'_>, reason: Reason, by_node: bool) {
        let Some(fragment) = packet.fragment else { return };
        let Part::First(length) = fragment.part else { return };
        let datagram = Datagram::of(packet, fragment);
        if reason.drops() {
            if let Some((_, leave)) = self.0.iter_mut().find(|(noted, _)| *noted == datagram) {
                *leave = None;
            }
        } else {
            self.0.retain(|(noted, _)| *noted != datagram);
            self.0.push((datagram, Some(First { length, by_node })));
        }
    }

    /// Judges a later fragment. Another datagram may have taken the slot of any but the last.
    pub(super) fn follow(&self, packet: &Packet<'_>, is_by_node: bool) -> Expected {
        let orphan = Expected::Exactly(Reason::OrphanFragment);
        let Some(fragment) = packet.fragment else { return orphan };
        let Part::Later(offset) = fragment.part else { return orphan };
        let datagram = Datagram::of(packet, fragment);
        let Some(at) = self.0.iter().position(|(noted, _)| *noted == datagram) else { return orphan };
        let Some(First { length, by_node }) = self.0[at].1 else { return orphan };
        let reason = if offset < length {
            Reason::Malformed
        } else if by_node && !is_by_node {
            return orphan;
        } else {
            Reason::Established
        };
        if at + 1 == self.0.len() {
            Expected::Exactly(reason)
        } else {
            Expected::Either(reason, Reason::OrphanFragment)
        }
    }
}

//! What keeps the link going, and stays on it: `docs/packet-path.md`, "The link's own messages".

use std::net::{IpAddr, Ipv6Addr};

use super::read::{Content, Frame, Packet};
use super::shape::ICMPV6;
use super::world::node_addresses;

/// The longest frame that is nothing but a small packet and its padding.
const SHORT: usize = 60;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_LISTENERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Whether a frame is link control. Of one that a pod sends: whether it is addressed to the node.
pub(super) fn is_link(frame: &Frame<'_>, sent_to_node: Option<bool>) -> bool {
    let short = SHORT + 4 * frame.tags;
    match &frame.content {
        Content::Arp { operation, .. } => matches!(operation, 1 | 2) && frame.length <= short,
        Content::Ip(packet) if packet.behind == 0 || frame.length <= short => {
            let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
                return false;
            };
            packet.protocol == ICMPV6
                && (is_discovery(packet, source, destination, sent_to_node)
                    || is_listener(packet, source, destination))
        }
        _ => false,
    }
}

fn is_discovery(
    packet: &Packet<'_>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    sent_to_node: Option<bool>,
) -> bool {
    let body = packet.body;
    if !packet.is_first || packet.hops != 255 || body.get(1) != Some(&0) {
        return false;
    }
    let length = body.len();
    let is_one = !destination.is_multicast() && !destination.is_unspecified();
    let is_right = match body[0] {
        133 => (8..=24).contains(&length) && (destination == ALL_ROUTERS || is_link_local(destination)),
        134 => is_link_local(source) && length >= 16 && (destination == ALL_NODES || is_one),
        135 => {
            (24..=40).contains(&length)
                && address(body).is_some_and(|target| {
                    let to_group = destination == group(target);
                    !target.is_multicast() && (to_group || destination == target && !source.is_unspecified())
                })
        }
        136 => {
            (24..=32).contains(&length)
                && address(body).is_some_and(|target| !target.is_multicast())
                && (destination == ALL_NODES || is_one)
        }
        137 => is_link_local(source) && length >= 40 && (destination == ALL_NODES || is_one),
        _ => false,
    };
    let leaves = is_one && !is_link_local(destination) && sent_to_node == Some(true);
    is_right && (!leaves || node_addresses().contains(&destination.into()))
}

fn is_listener(packet: &Packet<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    let body = packet.body;
    if packet.hops != 1 || !(is_link_local(source) || source.is_unspecified()) || body.len() < 8 {
        return false;
    }
    let word =
        |at: usize| body.get(at..at + 2).map_or(0, |it| usize::from(u16::from_be_bytes([it[0], it[1]])));
    match body[0] {
        130 => {
            let is_long_enough = body.len() == 24 || body.len() >= 28 && body.len() == 28 + 16 * word(26);
            is_long_enough && (destination == ALL_NODES || address(body) == Some(destination))
        }
        131 => body.len() == 24 && address(body) == Some(destination),
        132 => body.len() == 24 && destination == ALL_ROUTERS,
        143 => {
            let mut at = 8;
            for _ in 0..word(6) {
                if body.get(at + 1) != Some(&0) {
                    return false;
                }
                at += 20 + 16 * word(at + 2);
            }
            at == body.len() && destination == ALL_LISTENERS
        }
        _ => false,
    }
}

/// What a message is about: a target, or a group.
pub(super) fn address(body: &[u8]) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(8..24)?).ok()?))
}

/// The solicited-node group of an address (RFC 4291 2.7.1).
fn group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

pub(super) fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

//! ICMP errors: about packets that were seen, about others, cut off, nested.

use super::super::dice::Dice;
use super::super::world::{POD4, POD6};
use super::draft::{Draft, ICMP, ICMPV6};
use super::talk;
use postern_policy::model::Direction;
use std::net::IpAddr;

/// A packet to quote: which way it went, and its bytes from the IP header on.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) direction: Direction,
    pub(super) draft: Draft,
}

/// An error about a packet, and which way it goes.
pub(super) fn about(dice: &mut Dice, seen: &Seen) -> (Direction, Draft) {
    let v6 = seen.draft.is_v6();
    let kind = if v6 { dice.one_of(&[1, 2, 3, 4, 1, 2, 5, 137]) } else { dice.one_of(&[3, 3, 11, 12, 4, 5]) };
    let mut body = vec![kind, dice.one_of(&[0, 1, 3, 4]), 0, 0, 0, 0, 5, 0];
    let mut quoted = seen.draft.clone();
    quoted.tags.clear();
    match dice.below(12) {
        0 => std::mem::swap(&mut quoted.source, &mut quoted.destination),
        1 => quoted.source = talk::stranger(dice, v6),
        2 => quoted.destination = talk::stranger(dice, v6),
        3 if !v6 => quoted.fragment = Some((1, dice.one_of(&[0, 185]), true)),
        4 => quoted.protocol = dice.one_of(&[6, 17, 132, 1, 58, 47]),
        _ => {}
    }
    let mut bytes = quoted.frame().split_off(14);
    match dice.below(10) {
        0 | 1 => bytes.truncate(dice.below(bytes.len() + 1)),
        2 => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        // The least that a router quotes.
        3 | 4 => bytes.truncate(if v6 { 48 } else { 28 }),
        _ => {}
    }
    body.extend(bytes);
    let back = match seen.direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    let direction = if dice.percent(92) { back } else { seen.direction };
    let pod = if v6 { IpAddr::V6(POD6) } else { IpAddr::V4(POD4) };
    let sender = match (direction, dice.percent(70)) {
        (Direction::Egress, true) => pod,
        (Direction::Ingress, true) => seen.draft.destination,
        (_, false) => talk::stranger(dice, v6),
    };
    let receiver = if dice.percent(92) { seen.draft.source } else { talk::stranger(dice, v6) };
    let icmp = if v6 { ICMPV6 } else { ICMP };
    (direction, Draft::new(sender, receiver, icmp, body))
}

//! What keeps the link going, right and wrong: ARP, neighbour discovery, multicast listener messages.

use std::net::IpAddr;

use super::super::dice::Dice;
use super::super::world::{POD4, POD6};
use super::draft::{Draft, ICMPV6};
use super::talk;

/// An ARP frame.
pub(super) fn arp(dice: &mut Dice) -> Vec<u8> {
    let mut frame = vec![255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2];
    if dice.percent(10) {
        frame.extend([0x81, 0, 0, 7]);
    }
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, dice.one_of(&[1, 1, 2, 2, 3, 8])]);
    let sender = if dice.percent(50) { IpAddr::V4(POD4) } else { talk::stranger(dice, false) };
    for address in [sender, talk::peer(dice, false)] {
        frame.extend([2, 0, 0, 0, 0, 2]);
        if let IpAddr::V4(address) = address {
            frame.extend(address.octets());
        }
    }
    if dice.percent(50) {
        frame.resize(60, 0);
    }
    frame
}

/// A neighbour discovery or multicast listener message, or something that looks like one.
pub(super) fn message(dice: &mut Dice) -> Draft {
    let kind = dice.one_of(&[133, 134, 135, 135, 136, 136, 136, 137, 130, 131, 132, 143, 138]);
    let listener = matches!(kind, 130..=132 | 143);
    let link_local = "fe80::1".parse().unwrap();
    let source = match dice.below(4) {
        0 => IpAddr::V6(POD6),
        1 => "::".parse().unwrap(),
        2 => link_local,
        _ => talk::stranger(dice, true),
    };
    let destination = if dice.percent(50) { "ff02::1".parse().unwrap() } else { talk::peer(dice, true) };
    let code = if dice.percent(90) { 0 } else { dice.byte() };
    let mut body = vec![kind, code, 0, 0, 0x60, 0, 0, 0];
    let target = match dice.below(4) {
        0 | 1 => IpAddr::V6(POD6),
        2 => link_local,
        _ => talk::stranger(dice, true),
    };
    if let IpAddr::V6(target) = target {
        body.extend(target.octets());
    }
    if dice.percent(10) {
        body.truncate(8 + dice.below(17));
    }
    let mut draft = Draft::new(source, destination, ICMPV6, body);
    let right = if listener { 1 } else { 255 };
    draft.hops = if dice.percent(80) { right } else { dice.one_of(&[0, 1, 2, 64, 254, 255]) };
    if listener && dice.percent(70) {
        // Router alert (RFC 2711), as these carry.
        draft.chain.push((0, vec![0, 5, 2, 0, 0, 1, 0]));
    }
    draft
}

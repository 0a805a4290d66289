//! What keeps the link going, right and wrong: ARP, neighbour discovery, multicast listener messages.

use std::net::{IpAddr, Ipv6Addr};

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
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, dice.one_of(&[1, 1, 1, 2, 2, 2, 0, 3, 8])]);
    let sender = if dice.percent(50) { IpAddr::V4(POD4) } else { talk::stranger(dice, false) };
    for address in [sender, talk::peer(dice, false)] {
        frame.extend([2, 0, 0, 0, 0, 2]);
        if let IpAddr::V4(address) = address {
            frame.extend(address.octets());
        }
    }
    if dice.percent(60) {
        // As a card pads it, and around that.
        let padded = dice.weighted(&[(60, 60), (10, 59), (10, 61), (10, 64), (5, 65), (5, 200)]);
        frame.resize(frame.len().max(padded), 0);
    }
    frame
}

/// Addresses a frame to somebody else, now and then.
pub(super) fn readdress(dice: &mut Dice, frame: &mut [u8]) {
    if dice.percent(90) {
        return;
    }
    // Another pod, the node but for a bit, everybody, a group.
    let other = dice.one_of(&[
        [2, 0, 0, 0, 0, 3],
        [2, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 1, 1],
        [3, 0, 0, 0, 0, 1],
        [255; 6],
        [0x33, 0x33, 0, 0, 0, 1],
        [0; 6],
    ]);
    if let Some(destination) = frame.get_mut(..6) {
        destination.copy_from_slice(&other);
    }
}

/// A neighbour discovery or multicast listener message, or something that looks like one.
pub(super) fn message(dice: &mut Dice) -> Draft {
    let kind = dice.one_of(&[133, 134, 135, 135, 136, 136, 136, 137, 130, 131, 132, 143, 143, 138]);
    let listener = matches!(kind, 130..=132 | 143);
    let link_local: IpAddr = "fe80::1".parse().unwrap();
    let source = match dice.below(6) {
        0 => IpAddr::V6(POD6),
        1 => "::".parse().unwrap(),
        2..=4 => link_local,
        _ => talk::stranger(dice, true),
    };
    let target = match dice.below(8) {
        0..=2 => IpAddr::V6(POD6),
        3 => link_local,
        4 | 5 => talk::peer(dice, true),
        6 => "ff02::1:3".parse().unwrap(),
        _ => talk::stranger(dice, true),
    };
    let IpAddr::V6(about) = target else { unreachable!("all of these are IPv6") };
    let destination = match dice.below(10) {
        0..=6 => proper(dice, kind, about),
        7 => "ff02::1".parse().unwrap(),
        8 => target,
        _ => talk::peer(dice, true),
    };
    let code = if dice.percent(92) { 0 } else { dice.byte() };
    let mut body = vec![kind, code, 0, 0, 0x60, 0, 0, 0];
    match kind {
        143 => report(dice, &mut body),
        133 | 134 => body.resize(8 + dice.one_of(&[0, 7, 8, 8, 16, 17]), 0),
        137 => body.resize(8 + dice.one_of(&[31, 32, 32, 40]), 0),
        130 if dice.percent(50) => query(dice, &mut body, about),
        _ => {
            body.extend(about.octets());
            // Options, up to where there is room for no more, and beyond.
            body.resize(body.len() + dice.one_of(&[0, 0, 0, 8, 8, 16, 1, 7, 9, 15, 17]), 0);
        }
    }
    if dice.percent(10) {
        body.truncate(8 + dice.below(17));
    }
    let mut draft = Draft::new(source, destination, ICMPV6, body);
    let right = if listener { 1 } else { 255 };
    draft.hops = if dice.percent(85) { right } else { dice.one_of(&[0, 1, 2, 64, 254, 255]) };
    if listener && dice.percent(70) {
        // Router alert (RFC 2711), as these carry; or two words of it.
        let more = dice.percent(8);
        draft
            .chain
            .push((0, [&[u8::from(more), 5, 2, 0, 0, 1, 0][..], &vec![0; 8 * usize::from(more)]].concat()));
    }
    draft
}

/// To whom a message of this type goes.
fn proper(dice: &mut Dice, kind: u8, about: Ipv6Addr) -> IpAddr {
    let [.., a, b, c] = about.octets();
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let group = |number| IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, number));
    match kind {
        132 | 133 => group(2),
        135 => IpAddr::V6(if dice.percent(60) { solicited } else { about }),
        131 => IpAddr::V6(about),
        130 if dice.percent(50) => IpAddr::V6(about),
        143 => group(0x16),
        134 | 136 | 137 if dice.percent(50) => talk::peer(dice, true),
        _ => group(1),
    }
}

/// A report's records (RFC 3810 5.2), or a few bytes more or less.
fn report(dice: &mut Dice, body: &mut Vec<u8>) {
    let records = dice.weighted(&[(20, 0_u16), (40, 1), (20, 2), (5, 5), (5, 71), (5, 72), (5, 73)]);
    let said = if dice.percent(92) { records } else { dice.one_of(&[0, 1, 2, 3, 65535]) };
    body[4..6].fill(0);
    body[6..8].copy_from_slice(&said.to_be_bytes());
    for _ in 0..records {
        let sources = if records > 5 { 0 } else { dice.weighted(&[(80, 0), (15, 1), (5, 3)]) };
        let auxiliary = u8::from(dice.percent(1));
        body.extend([dice.one_of(&[1, 2, 3, 4]), auxiliary, 0, sources]);
        body.resize(body.len() + 16 * (1 + usize::from(sources)) + 4 * usize::from(auxiliary), 0x42);
    }
    around(dice, body);
}

/// A query of the second version (RFC 3810 5.1), or a few bytes more or less.
fn query(dice: &mut Dice, body: &mut Vec<u8>, group: Ipv6Addr) {
    let sources = dice.weighted(&[(70, 0_u8), (20, 1), (10, 4)]);
    body.extend(group.octets());
    body.extend([2, 125, 0, sources]);
    body.resize(body.len() + 16 * usize::from(sources), 0x42);
    around(dice, body);
}

fn around(dice: &mut Dice, body: &mut Vec<u8>) {
    if dice.percent(10) {
        let length = (body.len() + dice.one_of(&[0, 3, 5, 20])).saturating_sub(4);
        body.resize(length.max(8), 0);
    }
}

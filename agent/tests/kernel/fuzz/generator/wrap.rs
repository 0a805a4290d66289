//! What may stand around and between: VLAN tags, options, extension headers, padding, lies about the length.

use super::super::dice::Dice;
use super::draft::{Draft, FRAGMENT, field};

const ETHERTYPES: [u16; 2] = [0x8100, 0x88a8];

/// Dresses a packet up, legally for the most part.
pub(super) fn wrap(dice: &mut Dice, draft: &mut Draft) {
    if dice.percent(10) {
        let tags = dice.weighted(&[(60, 1), (30, 2), (10, 3)]);
        draft.tags = (0..tags).map(|_| dice.one_of(&ETHERTYPES)).collect();
    }
    if dice.percent(15) {
        if draft.is_v6() { extend(dice, draft) } else { draft.options = options(dice) }
    }
    if dice.percent(10) {
        draft.padding = dice.one_of(&[1, 4, 6, 18, 40]);
    }
    if dice.percent(3) {
        let rare = [0, 1, 8, 19, 20, 27, 28, 40, 0xffff];
        let header = if draft.is_v6() { 0 } else { 20 + draft.options.len() };
        let truth = field(header + draft.body.len());
        draft.length = Some(if dice.percent(50) {
            dice.one_of(&rare)
        } else {
            truth.wrapping_add(dice.one_of(&[1, 4, 0xffff, 0xfffc, 8]))
        });
    }
}

/// IPv4 options, padded to words.
fn options(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..dice.below(4) {
        match dice.below(12) {
            // Router alert, time stamp, record route.
            0 => bytes.extend([148, 4, 0, 0]),
            1 => bytes.extend([68, 8, 5, 0, 0, 0, 0, 0]),
            2 => bytes.extend([7, 7, 4, 0, 0, 0, 0]),
            // Loose and strict source route.
            3 => bytes.extend([131, 7, 4, 10, 0, 0, 9]),
            4 => bytes.extend([137, 7, 4, 10, 0, 0, 9]),
            // Of a length that cannot be.
            5 => bytes.extend([dice.byte(), dice.byte()]),
            6 => bytes.extend([130, dice.one_of(&[0, 1, 2, 39, 40, 255])]),
            // End, with a route behind it.
            7 => bytes.extend([0, 131, 7, 4]),
            _ => bytes.push(1),
        }
    }
    bytes.truncate(40);
    bytes.resize(bytes.len().next_multiple_of(4), dice.one_of(&[0, 1]));
    bytes
}

/// IPv6 extension headers.
fn extend(dice: &mut Dice, draft: &mut Draft) {
    let headers = dice.weighted(&[(50, 1), (20, 2), (10, 3), (5, 5), (8, 6), (5, 7), (2, 20)]);
    for place in 0..headers {
        let header = match dice.below(40) {
            0..=4 => (0, padded(dice)),
            5..=20 => (60, padded(dice)),
            // Routing, all segments passed, or some left.
            21..=25 => (43, vec![0, dice.one_of(&[0, 2, 4]), 0, 0, 0, 0, 0]),
            26 => (43, vec![2, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            27..=32 => (51, [&[4][..], &[0; 22]].concat()),
            // Not one of the chain's headers: mobility, HIP, ESP, none.
            33 => (dice.one_of(&[135, 139, 50, 59]), padded(dice)),
            // A packet in one piece that says it is a fragment.
            34..=35 => (FRAGMENT, vec![0, 0, 0, 0, 0, 0, dice.byte()]),
            36 => (60, long(dice)),
            _ => (if place == 0 { 0 } else { 60 }, padded(dice)),
        };
        draft.chain.push(header);
    }
    // Hop-by-hop options stand first, or nowhere.
    if dice.percent(85) {
        let first = draft.chain.iter().position(|(number, _)| *number == 0);
        let header = first.map(|at| draft.chain.remove(at));
        draft.chain.retain(|(number, _)| *number != 0);
        if let Some(header) = header {
            draft.chain.insert(0, header);
        }
    }
}

/// The length, and a `PadN` option that fills a header of options.
fn padded(dice: &mut Dice) -> Vec<u8> {
    let words = dice.weighted(&[(80, 0), (10, 1), (10, 3)]);
    options_of(words)
}

/// Options so long that what follows begins near the 1,024th byte of the frame, or beyond.
fn long(dice: &mut Dice) -> Vec<u8> {
    options_of(dice.one_of(&[60, 110, 119, 120, 121, 122, 123, 200, 255]))
}

fn options_of(words: u8) -> Vec<u8> {
    let mut bytes = vec![0; 7 + 8 * usize::from(words)];
    bytes[0] = words;
    // One PadN holds 255 bytes at most; what is behind it is Pad1.
    bytes[1] = 1;
    bytes[2] = u8::try_from(bytes.len() - 3).unwrap_or(255);
    bytes
}

//! Fragments of a few datagrams: in order, out of order, twice, overlapping.

use super::super::dice::Dice;
use super::draft::{Draft, FRAGMENT};

/// Turns a packet into a fragment of a datagram; later ones hold bytes that look like anything.
pub(super) fn cut(dice: &mut Dice, draft: &mut Draft) {
    let identification: u16 = dice.one_of(&[1, 2]);
    let (offset, more) = match dice.below(20) {
        0..=7 => (0, true),
        8..=14 => (dice.one_of(&[3, 4, 185, 0x1fff]), dice.percent(50)),
        15..=16 => (1, dice.percent(50)),
        17 => (2, true),
        _ => (0, false),
    };
    if draft.is_v6() {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let [identification, rest] = identification.to_be_bytes();
        let header = (FRAGMENT, vec![0, high, low, 0, 0, identification, rest]);
        // Headers before it are in every fragment, those behind it in the first.
        let at = dice.below(draft.chain.len() + 1);
        draft.chain.insert(at, header);
        if offset != 0 && dice.percent(80) {
            draft.chain.truncate(at + 1);
        }
    } else {
        draft.fragment = Some((identification, offset, more));
    }
    if offset != 0 && dice.percent(50) {
        let length = dice.below(48);
        draft.body = dice.bytes(length);
    }
}

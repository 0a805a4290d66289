//! What happens to frames on their way here: damage anywhere, and damage that aims at a field.

use super::super::dice::Dice;

/// Damages a frame once or a few times.
pub(super) fn mutate(dice: &mut Dice, frame: &mut Vec<u8>) {
    for _ in 0..dice.weighted(&[(75, 1), (20, 2), (5, 4)]) {
        match dice.below(10) {
            0 => flip(dice, frame),
            1 | 2 => frame.truncate(dice.below(frame.len() + 1)),
            3 => {
                let more = dice.below(40);
                frame.extend(dice.bytes(more));
            }
            4 => {
                let (from, length) = (dice.below(frame.len().max(1)), dice.below(24));
                let slice: Vec<u8> = frame.iter().skip(from).take(length).copied().collect();
                let at = dice.below(frame.len() + 1);
                frame.splice(at..at, slice);
            }
            5 => {
                let from = dice.below(frame.len() + 1);
                let to = (from + dice.below(9)).min(frame.len());
                frame.drain(from..to);
            }
            _ => aim(dice, frame),
        }
    }
}

fn flip(dice: &mut Dice, frame: &mut [u8]) {
    if !frame.is_empty() {
        let at = dice.below(frame.len());
        frame[at] ^= 1 << dice.below(8);
    }
}

/// Writes something into a field of the IP header, or of what follows it.
fn aim(dice: &mut Dice, frame: &mut [u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let ip = at + 2;
    let Some(version) = frame.get(ip).map(|byte| byte >> 4) else { return };
    // Version and length, type of service, lengths, fragmentation, time to live, protocol; what follows.
    let field = if version == 6 {
        dice.one_of(&[0, 4, 5, 5, 6, 6, 7, 40, 41, 42, 43, 48, 49, 52, 53, 24, 8])
    } else {
        dice.one_of(&[0, 0, 2, 3, 3, 4, 6, 7, 7, 8, 9, 12, 16, 19, 20, 21, 22, 32, 33])
    };
    let value = match dice.below(6) {
        0 => dice.byte(),
        1 => 0,
        2 => 255,
        // Protocols and extension headers; 4 and 5 are header lengths of IPv4 too.
        3 => dice.one_of(&[0, 1, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 136]),
        4 => dice.one_of(&[0x40, 0x44, 0x45, 0x46, 0x4f, 0x60, 0x20, 0x50, 0x5f, 1, 2]),
        _ => frame.get(ip + field).map_or(0, |old| old.wrapping_add(dice.one_of(&[1, 255, 4, 252, 8]))),
    };
    if let Some(byte) = frame.get_mut(ip + field) {
        *byte = value;
    }
}

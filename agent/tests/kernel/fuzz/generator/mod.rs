//! Sequences of frames, dense in corner cases: a number flows in, a sequence flows out, always the same one.
//!
//! Most frames are packets of a few conversations, in turn or out of turn, dressed up, cut into fragments, quoted by
//! errors, and then, some of them, damaged. Few conversations and datagrams: see the module head of the model.

mod draft;
mod errors;
mod link;
mod mutate;
mod pieces;
mod talk;
mod wrap;

use std::net::IpAddr;

use postern_policy::model::Direction;

use self::draft::Draft;
use self::errors::Seen;
use self::talk::Talk;
use super::dice::Dice;
use super::sequence::{Sequence, Shown, Step, Veth, shortest};
use super::world::{BRIDGE_MAC, POD4, POD6, Policy, Services};

/// Most conversations of a sequence.
const TALKS: usize = 4;
/// Most steps of a sequence.
const STEPS: usize = 48;
/// Longest frame that is worth its time, and safely below what `BPF_PROG_TEST_RUN` takes, which is most of a page.
const LONGEST: usize = 2000;

/// The sequence of this number.
pub(super) fn sequence(seed: u64, number: u64) -> Sequence {
    let mut dice = Dice::new(Dice::new(seed ^ number.rotate_left(32)).next());
    let talks = (0..=dice.below(TALKS)).map(|_| Talk::random(&mut dice)).collect();
    let veth = veth(&mut dice);
    let services = services(&mut dice);
    let mut generator = Generator { dice, talks, seen: Vec::new(), veth, before: veth };
    let steps = (0..8 + generator.dice.below(STEPS - 8)).map(|_| generator.step()).collect();
    Sequence { veth, services, steps }
}

fn services(dice: &mut Dice) -> Services {
    dice.one_of(&[
        Services::None,
        Services::None,
        Services::BehindNat,
        Services::BehindNat,
        Services::Together,
    ])
}

fn veth(dice: &mut Dice) -> Veth {
    let policy = dice.weighted(&[
        (40, Policy::Narrow),
        (15, Policy::Wide),
        (8, Policy::Nothing),
        (12, Policy::Ingress),
        (12, Policy::Egress),
        (3, Policy::Open),
        (3, Policy::Bare),
        (5, Policy::Quarantine),
        (4, Policy::Missing),
    ]);
    Veth { policy, guarded: dice.percent(75), bridged: dice.percent(50) }
}

struct Generator {
    dice: Dice,
    talks: Vec<Talk>,
    /// The last few packets, for errors to be about.
    seen: Vec<Seen>,
    /// What the veth is, and what it was before.
    veth: Veth,
    before: Veth,
}

#[derive(Clone, Copy)]
enum Kind {
    Talk,
    Piece,
    Error,
    Arp,
    Link,
    Spoofed,
    Portless,
    Noise,
    Again,
}

impl Generator {
    fn step(&mut self) -> Step {
        if self.dice.percent(6) {
            return self.flip();
        }
        if self.dice.percent(2) {
            return Step::Services(services(&mut self.dice));
        }
        let kind = self.dice.weighted(&[
            (52, Kind::Talk),
            (14, Kind::Piece),
            (9, Kind::Error),
            (3, Kind::Arp),
            (6, Kind::Link),
            (4, Kind::Spoofed),
            (4, Kind::Portless),
            (2, Kind::Noise),
            (6, Kind::Again),
        ]);
        let (direction, mut bytes) = self.frame(kind);
        if self.dice.percent(15) {
            bytes[..6].copy_from_slice(&BRIDGE_MAC);
        }
        link::readdress(&mut self.dice, &mut bytes);
        if self.dice.percent(12) {
            mutate::mutate(&mut self.dice, &mut bytes);
        }
        bytes.resize(bytes.len().clamp(14, LONGEST), 0);
        bytes.resize(bytes.len().max(shortest(&bytes)), 0);
        let gso = self.dice.percent(3);
        if gso && self.dice.percent(50) {
            // Too big for its length field.
            let at = if bytes[12..14] == [0x86, 0xdd] { 18 } else { 16 };
            bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = 0);
        }
        let forwarded = direction == Direction::Ingress && self.dice.percent(40);
        Step::Frame(Shown { direction, bytes, gso, forwarded })
    }

    /// To something else, or back again. The policy generation goes up where something was taken away, and so less often on the way
    /// back.
    fn flip(&mut self) -> Step {
        let back = self.dice.percent(50);
        let next = if back { self.before } else { veth(&mut self.dice) };
        self.before = std::mem::replace(&mut self.veth, next);
        Step::Flip { veth: next, advance: self.dice.percent(if back { 40 } else { 80 }) }
    }

    fn frame(&mut self, kind: Kind) -> (Direction, Vec<u8>) {
        let either = self.dice.one_of(&[Direction::Ingress, Direction::Egress]);
        let (direction, mut draft) = match kind {
            Kind::Talk | Kind::Piece => self.next_of_talk(),
            Kind::Again if self.seen.is_empty() => self.next_of_talk(),
            Kind::Again => {
                let seen = self.seen[self.dice.below(self.seen.len())].clone();
                (seen.direction, seen.draft)
            }
            Kind::Error => {
                let seen = self.quotable();
                errors::about(&mut self.dice, &seen)
            }
            Kind::Arp => return (either, link::arp(&mut self.dice)),
            Kind::Link => (either, link::message(&mut self.dice)),
            Kind::Spoofed => {
                let (direction, mut draft) = self.next_of_talk();
                let v6 = draft.is_v6();
                let address = talk::stranger(&mut self.dice, v6);
                match direction {
                    Direction::Egress => draft.source = address,
                    Direction::Ingress => draft.destination = address,
                }
                (direction, draft)
            }
            Kind::Portless => (either, self.portless(either)),
            Kind::Noise => {
                let length = self.dice.below(120);
                let mut bytes = self.dice.bytes(14 + length);
                let ethertype: [u8; 2] = self.dice.one_of(&[
                    [8, 0],
                    [8, 0],
                    [0x86, 0xdd],
                    [0x86, 0xdd],
                    [8, 6],
                    [0x81, 0],
                    [0x88, 0xb5],
                ]);
                bytes[12..14].copy_from_slice(&ethertype);
                return (either, bytes);
            }
        };
        if !matches!(kind, Kind::Again) {
            wrap::wrap(&mut self.dice, &mut draft);
        }
        if matches!(kind, Kind::Piece) || self.dice.percent(2) {
            pieces::cut(&mut self.dice, &mut draft);
        }
        let bytes = draft.frame();
        self.remember(direction, draft);
        (direction, bytes)
    }

    fn next_of_talk(&mut self) -> (Direction, Draft) {
        let at = self.dice.below(self.talks.len());
        self.talks[at].next(&mut self.dice)
    }

    fn quotable(&mut self) -> Seen {
        if self.seen.is_empty() || self.dice.percent(5) {
            let (direction, draft) = self.next_of_talk();
            return Seen { direction, draft };
        }
        self.seen[self.dice.below(self.seen.len())].clone()
    }

    fn remember(&mut self, direction: Direction, draft: Draft) {
        if self.seen.len() == 6 {
            self.seen.remove(0);
        }
        self.seen.push(Seen { direction, draft });
    }

    /// A packet of a protocol without ports, or one whose family does not have it.
    fn portless(&mut self, direction: Direction) -> Draft {
        let v6 = self.dice.percent(50);
        let pod = if v6 { IpAddr::V6(POD6) } else { IpAddr::V4(POD4) };
        let peer = talk::peer(&mut self.dice, v6);
        let (source, destination) = match direction {
            Direction::Ingress => (peer, pod),
            Direction::Egress => (pod, peer),
        };
        let protocol = self.dice.one_of(&[47, 50, 59, 1, 58, 136, 2, 4, 41, 115, 137, 3, 255]);
        let length = self.dice.one_of(&[0, 4, 8, 32]);
        let body = self.dice.bytes(length);
        Draft::new(source, destination, protocol, body)
    }
}

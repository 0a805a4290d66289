//! Batches of sequences, one on each veth, and what becomes of disagreements.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use postern::datapath::object::Established;
use postern_common::conntrack::HALF_OPEN_WAYS;
use postern_common::reason::Reason;
use postern_policy::model::Direction;

use super::kernel::{Kernel, Totals};
use super::model::{Expected, Model};
use super::sequence::{Sequence, Step};
use super::shrink::shrink;
use super::{generator, netns};

/// Different disagreements after which a run is over: what comes then is mostly more of the same.
const ENOUGH: usize = 12;
/// As many half-open flows of a direction as can be in each other's way: one more than a row has room for (its overflow row has as much again).
const CROWD: usize = HALF_OPEN_WAYS + 1;

/// A run that is under way.
pub(super) struct Run {
    seed: u64,
    /// `--established=recheck`, and `keep`.
    kernels: [Kernel; 2],
    veths: Vec<u32>,
    /// Veths used since everything was forgotten.
    used: usize,
    seen: Seen,
}

/// What a run has seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) frames: u64,
    took: Duration,
    /// As the programs counted.
    pub(super) totals: Totals,
    /// Frames for which the model accepts either of two answers, and those that got the less probable one.
    unsure: (u64, u64),
    /// Disagreements that a row without room explains.
    taken: u64,
    /// Disagreements by what was answered and what should have been.
    pub(super) findings: BTreeMap<(Direction, Reason, Reason), String>,
}

/// A frame that is judged wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disagreement {
    /// Steps up to that frame, which is the last one.
    steps: usize,
    direction: Direction,
    model: Reason,
    programs: Reason,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let veths = netns::enter();
        let kernels =
            [Established::Recheck, Established::Keep].map(|established| Kernel::load(established, &veths));
        Self { seed, kernels, veths, used: 0, seen: Seen::default() }
    }

    pub(super) fn go(mut self, time: Duration) -> Seen {
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < time && self.seen.findings.len() < ENOUGH {
            // Every fourth batch is about `keep`.
            let which = usize::from(number / self.veths.len() as u64 % 4 == 3);
            self.batch(which, number);
            number += self.veths.len() as u64;
        }
        self.seen.took = begun.elapsed();
        self.seen
    }

    fn batch(&mut self, which: usize, first: u64) {
        self.forget(which);
        let before = self.kernels[which].totals();
        let mut expected = Totals::default();
        let mut wrong = Vec::new();
        for at in 0..self.veths.len() {
            let number = first + at as u64;
            let sequence = generator::sequence(self.seed, number);
            if !self.play(which, self.veths[at], &sequence, &mut expected) {
                wrong.push(number);
            }
        }
        let counted = self.kernels[which].totals().since(&before);
        self.seen.totals.sum(&counted);
        if wrong.is_empty() && counted != expected {
            // Every verdict is right, and not every reason.
            wrong = (first..first + self.veths.len() as u64).collect();
        }
        for number in wrong {
            self.examine(which, number);
        }
    }

    /// Plays a sequence on a veth without flows; whether the programs let pass what the model does.
    fn play(&mut self, which: usize, ifindex: u32, sequence: &Sequence, expected: &mut Totals) -> bool {
        let kernel = &mut self.kernels[which];
        let mut model = Model::new(sequence, kernel.generation(), which == 0);
        let mut agrees = true;
        kernel.flip(ifindex, sequence.veth);
        kernel.serve(sequence.services);
        for step in &sequence.steps {
            let Step::Frame(shown) = step else {
                flip(kernel, &mut model, ifindex, step);
                continue;
            };
            self.seen.frames += 1;
            let passes = kernel.show(ifindex, model.policy(), shown);
            let reason = match model.judge(shown) {
                Expected::Exactly(reason) => reason,
                Expected::Either(first, second) => {
                    self.seen.unsure.0 += 1;
                    let first_it_is = passes != first.drops();
                    self.seen.unsure.1 += u64::from(!first_it_is);
                    if first_it_is { first } else { second }
                }
            };
            agrees &= passes != reason.drops();
            expected.add(shown.direction, reason);
        }
        agrees
    }

    /// Plays a sequence frame by frame, up to the first that is judged wrong.
    fn compare(&mut self, which: usize, sequence: &Sequence) -> Option<Disagreement> {
        self.replay(which, sequence).err()
    }

    /// The same; where all is right, the veth and the model as they are then.
    fn replay(&mut self, which: usize, sequence: &Sequence) -> Result<(u32, Model), Disagreement> {
        if self.used == self.veths.len() {
            self.forget(which);
        }
        let ifindex = self.veths[self.used];
        self.used += 1;
        let kernel = &mut self.kernels[which];
        let mut model = Model::new(sequence, kernel.generation(), which == 0);
        kernel.flip(ifindex, sequence.veth);
        kernel.serve(sequence.services);
        let mut before = kernel.totals();
        for (number, step) in sequence.steps.iter().enumerate() {
            let Step::Frame(shown) = step else {
                flip(kernel, &mut model, ifindex, step);
                continue;
            };
            let direction = shown.direction;
            let expected = model.judge(shown);
            let passes = kernel.show(ifindex, model.policy(), shown);
            let after = kernel.totals();
            let counted = after.since(&before);
            before = after;
            let Some(programs) = counted.only(direction) else {
                panic!("a packet is counted once, not so: {counted:?}\n{shown:?}");
            };
            assert_eq!(passes, !programs.drops(), "TC's verdict for {programs:?}\n{shown:?}");
            let model = match expected {
                Expected::Exactly(reason) if reason != programs => reason,
                Expected::Either(first, second) if programs != first && programs != second => first,
                _ => continue,
            };
            return Err(Disagreement { steps: number + 1, direction, model, programs });
        }
        Ok((ifindex, model))
    }

    /// Finds out what is wrong with a sequence, and makes it small.
    fn examine(&mut self, which: usize, number: u64) {
        self.forget(which);
        let mut sequence = generator::sequence(self.seed, number);
        let Some(found) = self.compare(which, &sequence) else { return };
        if self.seen.findings.contains_key(&found.key()) {
            return;
        }
        sequence.steps.truncate(found.steps);
        let fails = |candidate: &Sequence| {
            self.compare(which, candidate).filter(|other| other.key() == found.key()).map(|other| other.steps)
        };
        let small = shrink(sequence, fails);
        if self.lost_its_place(which, &small) {
            self.seen.taken += 1;
            return;
        }
        let report = self.report(which, number, &small, found);
        println!("{report}");
        self.seen.findings.insert(found.key(), report);
    }

    /// Whether the programs lost a half-open flow at any step before the last frame of a sequence, when there were enough
    /// of them to fill its row.
    fn lost_its_place(&mut self, which: usize, sequence: &Sequence) -> bool {
        (1..sequence.steps.len()).any(|length| {
            let mut before = sequence.clone();
            before.steps.truncate(length);
            let Ok((ifindex, model)) = self.replay(which, &before) else { return false };
            let kernel = &self.kernels[which];
            [Direction::Ingress, Direction::Egress].into_iter().any(|initiator| {
                let flows: Vec<_> = model.half_open().filter(|(_, started)| *started == initiator).collect();
                flows.len() >= CROWD
                    && flows.iter().any(|(key, _)| !kernel.remembers(ifindex, key, initiator))
            })
        })
    }

    /// A small sequence to read and to paste.
    fn report(&mut self, which: usize, number: u64, sequence: &Sequence, found: Disagreement) -> String {
        let established = ["recheck", "keep"][which];
        let mut text = format!(
            "disagreement: the model says {}, the programs say {}\n  POSTERN_FUZZ_SEED={} sequence {number}, \
             --established={established}, after {} frames\n  the veth is {:?}, the Service {:?}\n",
            found.model.name(),
            found.programs.name(),
            self.seed,
            self.seen.frames,
            sequence.veth,
            sequence.services,
        );
        let mut model = Model::new(sequence, 0, which == 0);
        for step in &sequence.steps {
            match step {
                Step::Flip { veth, advance } => {
                    model.flip(*veth);
                    if *advance {
                        model.advance();
                    }
                    let generation = if *advance { ", generation up" } else { "" };
                    writeln!(text, "  flip to {veth:?}{generation}").unwrap();
                }
                Step::Services(services) => {
                    model.serve(*services);
                    writeln!(text, "  the Service is {services:?}").unwrap();
                }
                Step::Frame(shown) => {
                    writeln!(text, "  {shown:?}\n    model: {:?}", model.judge(shown)).unwrap();
                }
            }
        }
        text
    }

    fn forget(&mut self, which: usize) {
        self.kernels[which].forget();
        self.used = 0;
    }
}

fn flip(kernel: &mut Kernel, model: &mut Model, ifindex: u32, step: &Step) {
    match step {
        Step::Flip { veth, advance } => {
            kernel.flip(ifindex, *veth);
            model.flip(*veth);
            if *advance {
                kernel.advance();
                model.advance();
            }
        }
        Step::Services(services) => {
            kernel.serve(*services);
            model.serve(*services);
        }
        Step::Frame(_) => {}
    }
}

impl Disagreement {
    fn key(&self) -> (Direction, Reason, Reason) {
        (self.direction, self.model, self.programs)
    }
}

impl Seen {
    /// Whether slots were lost to others about as often as chance has it, which is hardly ever: one later fragment of
    /// a hundred that are in question, and one half-open flow in millions of frames.
    pub(super) fn is_chance(&self) -> bool {
        let (unsure, displaced) = self.unsure;
        displaced <= 5 + unsure / 25 && self.taken <= 3 + self.frames / 1_000_000
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate to read")]
        let rate = self.frames as f64 / seconds;
        writeln!(formatter, "{} frames in {seconds:.1} s, {rate:.0} a second", self.frames)?;
        for reason in Reason::ALL {
            let [ingress, egress] =
                [Direction::Ingress, Direction::Egress].map(|direction| self.totals.get(direction, *reason));
            writeln!(formatter, "  {:20} {ingress:10} in {egress:10} out", reason.name())?;
        }
        let (unsure, displaced) = self.unsure;
        write!(
            formatter,
            "{unsure} later fragments of a datagram that another one may have displaced, {displaced} displaced; {} \
             half-open flows displaced",
            self.taken
        )
    }
}

//! Makes a sequence smaller, step by step and byte by byte, for as long as its last frame is still judged wrong in the
//! same way.

use super::sequence::{Sequence, Step, shortest};

/// Most attempts: each shows a sequence to the programs.
const ATTEMPTS: usize = 6000;

/// Shrinks. `fails` says after how many steps a sequence fails in the way in question, if it does.
pub(super) fn shrink(sequence: Sequence, fails: impl FnMut(&Sequence) -> Option<usize>) -> Sequence {
    let mut shrinker = Shrinker { best: sequence, fails, attempts: 0 };
    while shrinker.drop_steps() | shrinker.simplify_frames() {}
    shrinker.best
}

struct Shrinker<F> {
    best: Sequence,
    fails: F,
    attempts: usize,
}

impl<F: FnMut(&Sequence) -> Option<usize>> Shrinker<F> {
    /// Takes a smaller sequence if it still fails.
    fn attempt(&mut self, mut candidate: Sequence) -> bool {
        if self.attempts == ATTEMPTS {
            return false;
        }
        self.attempts += 1;
        let Some(steps) = (self.fails)(&candidate) else { return false };
        candidate.steps.truncate(steps);
        self.best = candidate;
        true
    }

    /// Drops runs of steps, long ones first.
    fn drop_steps(&mut self) -> bool {
        let mut dropped = false;
        let mut length = self.best.steps.len();
        while length > 0 {
            let mut from = 0;
            while from < self.best.steps.len() {
                let mut candidate = self.best.clone();
                candidate.steps.drain(from..(from + length).min(candidate.steps.len()));
                if self.attempt(candidate) {
                    dropped = true;
                } else {
                    from += length;
                }
            }
            length /= 2;
        }
        dropped
    }

    fn simplify_frames(&mut self) -> bool {
        let mut simpler = false;
        for number in 0..self.best.steps.len() {
            simpler |= self.simplify(number, |frame| frame.1 = false);
            simpler |= self.cut(number);
            simpler |= self.clear(number);
        }
        simpler
    }

    /// Takes bytes out of a frame, from its end first.
    fn cut(&mut self, number: usize) -> bool {
        let mut cut = false;
        // What headers are long, among others.
        let half = self.bytes(number) / 2;
        for length in [half, half / 2, 40, 20, 16, 8, 4, 2, 1].into_iter().filter(|length| *length > 0) {
            let mut from = self.bytes(number).saturating_sub(length);
            loop {
                let removes = |frame: &mut (Vec<u8>, bool)| {
                    let to = (from + length).min(frame.0.len());
                    if from < to {
                        frame.0.drain(from..to);
                    }
                };
                cut |= self.simplify(number, removes);
                let Some(before) = from.checked_sub(length) else { break };
                from = before;
            }
        }
        cut
    }

    /// Makes bytes zero.
    fn clear(&mut self, number: usize) -> bool {
        let mut cleared = false;
        for at in 0..self.bytes(number) {
            cleared |= self.simplify(number, |frame| {
                if let Some(byte) = frame.0.get_mut(at) {
                    *byte = 0;
                }
            });
        }
        cleared
    }

    fn bytes(&self, number: usize) -> usize {
        match self.best.steps.get(number) {
            Some(Step::Frame(shown)) => shown.bytes.len(),
            _ => 0,
        }
    }

    /// Tries a change of a frame's bytes, and of whether it is a GSO packet.
    fn simplify(&mut self, number: usize, change: impl FnOnce(&mut (Vec<u8>, bool))) -> bool {
        let mut candidate = self.best.clone();
        let Some(Step::Frame(shown)) = candidate.steps.get_mut(number) else { return false };
        let mut frame = (std::mem::take(&mut shown.bytes), shown.gso);
        change(&mut frame);
        if frame.0.len() < shortest(&frame.0) {
            return false;
        }
        (shown.bytes, shown.gso) = frame;
        candidate != self.best && self.attempt(candidate)
    }
}

#[cfg(test)]
mod tests {
    use postern_policy::model::Direction;

    use super::super::sequence::{Shown, Veth};
    use super::super::world::{Policy, Services};
    use super::*;

    fn frame(bytes: Vec<u8>) -> Step {
        Step::Frame(Shown { direction: Direction::Ingress, bytes, gso: true, forwarded: false })
    }

    #[test]
    fn what_matters_is_left() {
        let veth = Veth { policy: Policy::Narrow, guarded: true, bridged: false };
        let flip = Step::Flip { veth, advance: true };
        let steps: Vec<Step> = (0..40_u8)
            .flat_map(|number| [frame(vec![number; 40 + usize::from(number)]), flip.clone()])
            .collect();
        // Fails once a frame with a 7 and at least 20 bytes came after one with a 3 at its end.
        let fails = |sequence: &Sequence| {
            let mut seen = false;
            for (number, step) in sequence.steps.iter().enumerate() {
                let Step::Frame(shown) = step else { continue };
                if seen && shown.bytes.contains(&7) && shown.bytes.len() >= 20 {
                    return Some(number + 1);
                }
                seen |= shown.bytes.ends_with(&[3]);
            }
            None
        };
        let shrunk = shrink(Sequence { veth, services: Services::None, steps }, fails);
        let bytes = |step: &Step| match step {
            Step::Frame(shown) => (shown.bytes.len(), shown.gso),
            Step::Flip { .. } | Step::Services(_) => (0, false),
        };
        assert_eq!(shrunk.steps.iter().map(bytes).collect::<Vec<_>>(), [(14, false), (20, false)]);
        let Step::Frame(last) = &shrunk.steps[1] else { panic!("the last step is a frame") };
        assert_eq!(last.bytes.iter().filter(|byte| **byte != 0).count(), 1);
    }
}

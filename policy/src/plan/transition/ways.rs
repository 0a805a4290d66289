//! The classes that addresses pass through while pods move.

use std::collections::{BTreeMap, BTreeSet};

use super::{Move, Sides, Transition};
use crate::tables::{ClassId, PeerClass, PeerEntry};

impl<S: Sides> Transition<'_, S> {
    /// `t(o, n)` of every move, and the classes that stand in for subject classes until addresses have moved.
    pub(super) fn ways(
        &mut self,
        moves: &BTreeSet<Move>,
        targets: &BTreeSet<ClassId>,
    ) -> (BTreeMap<Move, PeerEntry>, BTreeMap<ClassId, ClassId>) {
        let old_subjects = self.sides.old_subjects();
        let mut ways = BTreeMap::new();
        let mut left: BTreeSet<Move> = moves.clone();
        // Own node's addresses before and after: no verdict is asked.
        left.retain(|(old, new)| {
            let stays_local = old.local && new.local;
            if stays_local {
                ways.insert((*old, *new), *new);
            }
            !stays_local
        });
        self.refine(&old_subjects, &mut left, &mut ways);
        let own: BTreeSet<Move> = self.coarsen(targets, &left, &mut ways);

        let mut stand_ins = BTreeMap::new();
        for target in targets.iter().filter(|target| self.sides.was_subject(**target)) {
            let agrees =
                |(old, new): &Move| self.answer_before(*target, *old) == self.answer_after(*target, *new);
            if !own.iter().all(agrees) {
                stand_ins.insert(*target, ClassId(self.fresh_id()));
            }
        }
        for (old, new) in own {
            let class = PeerClass(self.fresh_id());
            for subject in &old_subjects {
                self.temporary.insert((*subject, class), self.answer_before(*subject, old));
            }
            for target in targets {
                let subject = stand_ins.get(target).unwrap_or(target);
                self.temporary.insert((*subject, class), self.answer_after(*target, new));
            }
            ways.insert((old, new), PeerEntry { class, local: false });
        }
        for (target, stand_in) in &stand_ins {
            for peer in self.sides.new_peers() {
                self.temporary.insert((*stand_in, peer), self.sides.after(*target, peer));
            }
            for ((_, new), way) in &ways {
                let answer = self.answer_after(*target, *new);
                self.temporary.entry((*stand_in, way.class)).or_insert(answer);
            }
        }
        (ways, stand_ins)
    }

    /// Moves whose `n` can give the old answers too.
    fn refine(
        &mut self,
        old_subjects: &[ClassId],
        left: &mut BTreeSet<Move>,
        ways: &mut BTreeMap<Move, PeerEntry>,
    ) {
        let mut by_new: BTreeMap<PeerClass, Vec<Move>> = BTreeMap::new();
        for (old, new) in left.iter().filter(|(old, new)| !old.local && !new.local) {
            if !self.sides.was_peer(new.class) {
                by_new.entry(new.class).or_default().push((*old, *new));
            }
        }
        for (class, moves) in by_new {
            let answers = |subject: ClassId| {
                let mut answers = moves.iter().map(|(old, _)| self.sides.before(subject, old.class));
                let answer = answers.next()?;
                let agree = answers.all(|other| other == answer)
                    && (!self.sides.is_subject(subject) || self.sides.after(subject, class) == answer);
                agree.then_some((subject, answer))
            };
            let answers: Option<Vec<_>> = old_subjects.iter().map(|subject| answers(*subject)).collect();
            let Some(answers) = answers else { continue };
            for (subject, answer) in answers {
                // What both sides have is among the fresh verdicts already.
                if !self.sides.is_subject(subject) {
                    self.temporary.insert((subject, class), answer);
                }
            }
            for (old, new) in moves {
                ways.insert((old, new), new);
                left.remove(&(old, new));
            }
        }
    }

    /// Moves whose `o` can give the new answers too; returns the others.
    fn coarsen(
        &mut self,
        targets: &BTreeSet<ClassId>,
        left: &BTreeSet<Move>,
        ways: &mut BTreeMap<Move, PeerEntry>,
    ) -> BTreeSet<Move> {
        let mut own = BTreeSet::new();
        let mut by_old: BTreeMap<PeerClass, Vec<Move>> = BTreeMap::new();
        for (old, new) in left {
            if old.local || new.local {
                own.insert((*old, *new));
            } else {
                by_old.entry(old.class).or_default().push((*old, *new));
            }
        }
        for (class, moves) in by_old {
            let stays = self.sides.is_peer(class);
            let answers = |target: ClassId| {
                let mut answers = moves.iter().map(|(_, new)| self.sides.after(target, new.class));
                let answer = answers.next()?;
                let agree = answers.all(|other| other == answer)
                    && (!stays || self.sides.after(target, class) == answer)
                    && (!self.sides.was_subject(target) || self.sides.before(target, class) == answer);
                agree.then_some((target, answer))
            };
            let answers: Option<Vec<_>> = targets.iter().map(|target| answers(*target)).collect();
            let Some(answers) = answers else {
                own.extend(moves);
                continue;
            };
            for (target, answer) in answers {
                if !stays && !self.sides.was_subject(target) {
                    self.temporary.insert((target, class), answer);
                }
            }
            for (old, new) in moves {
                ways.insert((old, new), old);
            }
        }
        own
    }
}

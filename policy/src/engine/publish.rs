//! The tables and plans of an engine.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::classes::Class;
use super::rules::{Facts, Known, RuleSet};
use crate::plan::{FrontendChange, PeerChange, Plan, Sides, SubjectChange, Transition, recovery};
use crate::ports::PortSet;
use crate::tables::{ClassId, PeerClass, Tables};

impl Engine {
    /// The tables that the objects known now ask for.
    #[must_use]
    pub fn tables(&mut self) -> Tables {
        self.refresh_frontends();
        self.compiled()
    }

    /// The same, frontends as they were last looked at.
    pub(super) fn compiled(&self) -> Tables {
        let mut verdicts = BTreeMap::new();
        for subject in self.subject_classes(Class::in_use) {
            for peer in self.peer_classes(Class::in_use) {
                let ports = self.verdict(subject, peer);
                if !ports.is_nothing() {
                    verdicts.insert((subject, peer), ports);
                }
            }
        }
        Tables {
            subjects: self.subjects.current().clone(),
            peers: self.peers.current().clone(),
            frontends: self.frontends.current().clone(),
            verdicts,
        }
    }

    /// What changed since the last plan, as one transition. Empty when nothing did.
    pub fn plan(&mut self) -> Plan {
        self.refresh_frontends();
        self.keep_within_budget();
        let subjects = self.subjects.changed().into_iter().map(|changed| SubjectChange {
            pod: changed.key,
            old: changed.old,
            new: changed.new,
        });
        let subjects: Vec<_> = subjects.collect();
        let peers = self.peers.changed().into_iter().map(|changed| {
            let (before, after) = self.peers.decides(changed.key);
            PeerChange { prefix: changed.key, old: changed.old, new: changed.new, before, after }
        });
        let peers: Vec<_> = peers.collect();
        let frontends = self.frontends.changed().into_iter().map(|changed| FrontendChange {
            frontend: changed.key,
            old: changed.old,
            new: changed.new,
        });
        let frontends: Vec<_> = frontends.collect();
        // A departed pod's classes go without a subject that changes.
        let forgotten = self.subject_classes(|class| !class.in_use() && class.published).next().is_some();
        let plan = if subjects.is_empty() && peers.is_empty() && frontends.is_empty() && !forgotten {
            Plan::default()
        } else {
            let sides = EngineSides::new(self);
            let transition = Transition::new(&sides, subjects, peers, frontends);
            transition.numbered_from(self.first_transitional).plan()
        };
        self.note_usage();
        self.publish();
        plan
    }

    /// The plan from what the kernel really holds to what is desired now: after a restart, or when executing a plan
    /// failed half way. The next [`plan`](Self::plan) starts from here.
    ///
    /// Established flows are judged again in any case: they may rest on what the plan that failed took away.
    pub fn recover(&mut self, recorded: &Tables) -> Plan {
        self.refresh_frontends();
        self.keep_within_budget();
        let desired = self.tables();
        self.note_usage();
        self.publish();
        recovery(recorded, &desired, self.first_transitional)
    }

    fn publish(&mut self) {
        self.subjects.publish();
        self.rule_sets.publish();
        self.peers.publish();
        self.frontends.publish();
    }

    /// What a subject class allows a peer class. Both meanings never change, so neither does this.
    fn verdict(&self, subject: ClassId, peer: PeerClass) -> PortSet {
        let Some(rules) = self.rule_sets.get(subject.0) else { return PortSet::nothing() };
        match self.peers.classes.get(peer.0) {
            Some(class) => rules.meaning.answer(&class.meaning),
            None => rules.meaning.verdict(&Facts::default()),
        }
    }

    fn subject_classes(&self, keep: impl Fn(&Class<RuleSet>) -> bool) -> impl Iterator<Item = ClassId> {
        self.rule_sets.iter().filter(move |(_, class)| keep(class)).map(|(id, _)| ClassId(id))
    }

    /// [`PeerClass::UNKNOWN`] is always among them.
    fn peer_classes(&self, keep: impl Fn(&Class<Known>) -> bool) -> impl Iterator<Item = PeerClass> {
        let known = self.peers.classes.iter().filter(move |(_, class)| keep(class));
        std::iter::once(PeerClass::UNKNOWN).chain(known.map(|(id, _)| PeerClass(id)))
    }
}

/// The engine's tables at the last plan and now.
pub(super) struct EngineSides<'a> {
    engine: &'a Engine,
    new_subjects: BTreeSet<ClassId>,
    gone_subjects: BTreeSet<ClassId>,
    new_peers: BTreeSet<PeerClass>,
    gone_peers: BTreeSet<PeerClass>,
}

impl<'a> EngineSides<'a> {
    pub(super) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            new_subjects: engine.subject_classes(|class| class.in_use() && !class.published).collect(),
            gone_subjects: engine.subject_classes(|class| !class.in_use() && class.published).collect(),
            new_peers: engine.peer_classes(|class| class.in_use() && !class.published).skip(1).collect(),
            gone_peers: engine.peer_classes(|class| !class.in_use() && class.published).skip(1).collect(),
        }
    }

    /// Verdicts of the last plan that are not wanted any more.
    pub(super) fn gone(&self) -> Vec<(ClassId, PeerClass, PortSet)> {
        self.pairs(false, &self.gone_subjects, &self.gone_peers)
    }

    /// The pairs of `subjects` with every peer class that `keep` keeps, and of all other subject classes with `peers`,
    /// that allow anything.
    fn pairs(
        &self,
        now: bool,
        subjects: &BTreeSet<ClassId>,
        peers: &BTreeSet<PeerClass>,
    ) -> Vec<(ClassId, PeerClass, PortSet)> {
        let engine = self.engine;
        let facts = |peer: PeerClass| (peer, engine.peers.classes.get(peer.0).map(|class| &*class.meaning));
        let all_peers: Vec<_> = engine
            .peer_classes(|class| if now { class.in_use() } else { class.published })
            .map(facts)
            .collect();
        let peers: Vec<_> = peers.iter().copied().map(facts).collect();
        let unknown = Known::Address(Facts::default());
        let mut pairs = Vec::new();
        for (id, rules) in engine.rule_sets.iter() {
            if !(if now { rules.in_use() } else { rules.published }) {
                continue;
            }
            let subject = ClassId(id);
            for (peer, facts) in if subjects.contains(&subject) { &all_peers } else { &peers } {
                let ports = rules.meaning.answer(facts.unwrap_or(&unknown));
                if !ports.is_nothing() {
                    pairs.push((subject, *peer, ports));
                }
            }
        }
        pairs
    }
}

impl Sides for EngineSides<'_> {
    fn before(&self, subject: ClassId, peer: PeerClass) -> PortSet {
        self.engine.verdict(subject, peer)
    }

    fn after(&self, subject: ClassId, peer: PeerClass) -> PortSet {
        self.engine.verdict(subject, peer)
    }

    fn was_subject(&self, subject: ClassId) -> bool {
        self.engine.rule_sets.get(subject.0).is_some_and(|class| class.published)
    }

    fn is_subject(&self, subject: ClassId) -> bool {
        self.engine.rule_sets.get(subject.0).is_some_and(Class::in_use)
    }

    fn was_peer(&self, peer: PeerClass) -> bool {
        peer == PeerClass::UNKNOWN
            || self.engine.peers.classes.get(peer.0).is_some_and(|class| class.published)
    }

    fn is_peer(&self, peer: PeerClass) -> bool {
        peer == PeerClass::UNKNOWN || self.engine.peers.classes.get(peer.0).is_some_and(Class::in_use)
    }

    fn old_subjects(&self) -> Vec<ClassId> {
        self.engine.subject_classes(|class| class.published).collect()
    }

    fn new_peers(&self) -> Vec<PeerClass> {
        self.engine.peer_classes(Class::in_use).collect()
    }

    fn leftover(&self) -> Vec<(ClassId, PeerClass)> {
        Vec::new()
    }

    fn fresh(&self) -> Vec<(ClassId, PeerClass, PortSet)> {
        self.pairs(true, &self.new_subjects, &self.new_peers)
    }

    fn stale(&self) -> Vec<(ClassId, PeerClass)> {
        self.gone().into_iter().map(|(subject, peer, _)| (subject, peer)).collect()
    }

    fn is_taken(&self, _id: u32) -> bool {
        // What earlier plans held for their own time is collected by their end.
        false
    }
}

//! One transition: what changed flows in, the safe order of actions flows out.
//!
//! Before and after, a packet's verdict is looked up under its pod's class and its remote address's class. Pods and
//! addresses move one by one, so in between a pod of the new tables may meet an address of the old ones. Neither
//! table need know that pair, and a pair that both know may even be wrong for it: a rule moved from `app: a` to
//! `app: b` while a pod's label moved from `b` to `a` denies before and after, yet the old rule on the new label
//! allows. So, when pods and addresses both move, an address goes from class `o` to class `n` by way of `t(o, n)`,
//! which answers pods that have not moved yet with what they had from `o`, and pods that have moved with `n`:
//!
//! 1. Forget pods that are not isolated any more: they then allow everything, as they will after.
//! 2. Install verdicts, none of them in use yet. Frontends of Services change right after: as if that had come first.
//! 3. Addresses that move: from `o` to `t(o, n)`. Every pod still has its old class, so all answers are the old ones.
//! 4. Pods that move. Their answers are the new ones from here on, for every address.
//! 5. Addresses: from `t(o, n)` to `n`. For moved pods nothing changes, for the others it is their one step.
//! 6. Pods that were not isolated before: they allowed everything until here, whatever addresses did.
//! 7. Let established flows be judged again, if anything was allowed that is not any more, or goes to a frontend.
//! 8. Remove verdicts that nothing refers to.
//!
//! `t(o, n)` is `n` itself where nobody uses `n` yet and its old answers can be had (rules came into use and tell more
//! addresses apart), or `o` itself where its new answers can be had (rules went out of use), or a class of this plan
//! alone. Where no pod moves, or no address does, addresses go straight to `n`.
//!
//! Prefixes: `o` and `n` of a prefix are what decides for it before and after, whether or not it is in the tables
//! itself. In step 3 the table holds the prefixes of both sides, and any order is right. In step 5, a prefix is
//! removed only when those that hold it are right already: broader ones first, after all have been set. Where
//! addresses go straight to `n`, narrower prefixes are set first, so that a broader one never speaks for them.

mod ways;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Action, Plan};
use crate::model::NamespacedName;
use crate::ports::PortSet;
use crate::services::Frontend;
use crate::tables::{ClassId, FIRST_TRANSITIONAL, FrontendEntry, PeerClass, PeerEntry, Subject};

/// A subject that the two sides do not agree about.
pub(crate) struct SubjectChange {
    pub(crate) pod: NamespacedName,
    pub(crate) old: Option<Subject>,
    pub(crate) new: Option<Subject>,
}

/// A prefix that the two sides do not agree about.
pub(crate) struct PeerChange {
    pub(crate) prefix: IpNet,
    pub(crate) old: Option<PeerEntry>,
    pub(crate) new: Option<PeerEntry>,
    /// What decides for the prefix before: `old`, or else the longest prefix that holds it.
    pub(crate) before: PeerEntry,
    /// The same, after.
    pub(crate) after: PeerEntry,
}

/// A frontend that the two sides do not agree about.
pub(crate) struct FrontendChange {
    pub(crate) frontend: Frontend,
    pub(crate) old: Option<FrontendEntry>,
    pub(crate) new: Option<FrontendEntry>,
}

/// The tables before and after.
pub(crate) trait Sides {
    fn before(&self, subject: ClassId, peer: PeerClass) -> PortSet;
    fn after(&self, subject: ClassId, peer: PeerClass) -> PortSet;
    fn was_subject(&self, subject: ClassId) -> bool;
    fn is_subject(&self, subject: ClassId) -> bool;
    fn was_peer(&self, peer: PeerClass) -> bool;
    fn is_peer(&self, peer: PeerClass) -> bool;
    fn old_subjects(&self) -> Vec<ClassId>;
    fn new_peers(&self) -> Vec<PeerClass>;
    /// Verdicts that are in no use before and not wanted after.
    fn leftover(&self) -> Vec<(ClassId, PeerClass)>;
    /// Verdicts of after that before does not hold.
    fn fresh(&self) -> Vec<(ClassId, PeerClass, PortSet)>;
    /// Verdicts in use before that after does not hold.
    fn stale(&self) -> Vec<(ClassId, PeerClass)>;
    /// Whether a class of either side has this number.
    fn is_taken(&self, id: u32) -> bool;
}

/// Where an address is on its way: `(o, n)`.
type Move = (PeerEntry, PeerEntry);

/// A transition being planned.
pub(crate) struct Transition<'a, S> {
    sides: &'a S,
    subjects: Vec<SubjectChange>,
    peers: Vec<PeerChange>,
    frontends: Vec<FrontendChange>,
    next_id: u32,
    /// Flows are judged again whatever changes.
    advance: bool,
    /// Verdicts of this plan alone.
    temporary: BTreeMap<(ClassId, PeerClass), PortSet>,
}

impl<'a, S: Sides> Transition<'a, S> {
    pub(crate) fn new(
        sides: &'a S,
        subjects: Vec<SubjectChange>,
        mut peers: Vec<PeerChange>,
        frontends: Vec<FrontendChange>,
    ) -> Self {
        peers.sort_by_key(|change| (change.prefix.prefix_len(), change.prefix));
        let (next_id, temporary) = (FIRST_TRANSITIONAL, BTreeMap::new());
        Self { sides, subjects, peers, frontends, next_id, advance: false, temporary }
    }

    /// Numbers the classes of this plan alone from here.
    pub(crate) fn numbered_from(self, next_id: u32) -> Self {
        Self { next_id, ..self }
    }

    /// Lets established flows be judged again, whatever changes.
    pub(crate) fn judging_flows_again(self) -> Self {
        Self { advance: true, ..self }
    }

    pub(crate) fn plan(mut self) -> Plan {
        let moves: BTreeSet<Move> = self.peers.iter().map(|change| (change.before, change.after)).collect();
        let moves: BTreeSet<Move> = moves.into_iter().filter(|(old, new)| old != new).collect();
        let known = self.subjects.iter().filter(|change| change.old.is_some());
        let targets = known.filter_map(|change| change.new.as_ref());
        let targets: BTreeSet<_> = targets
            .flat_map(|subject| [subject.ingress, subject.egress])
            .filter(|class| *class != ClassId::NOT_ISOLATED)
            .collect();
        let both_move = self.subjects.iter().any(|change| change.old.is_some() && change.new.is_some());

        let mut ways = BTreeMap::new();
        let mut stand_ins = BTreeMap::new();
        if both_move && !moves.is_empty() {
            (ways, stand_ins) = self.ways(&moves, &targets);
        }
        self.stand_by();
        let advance = self.advance || self.must_advance(&moves);

        let mut steps = Vec::new();
        self.forget_subjects(&mut steps);
        let replaced = self.install(&mut steps);
        self.move_frontends(&mut steps);
        self.move_peers_half_way(&ways, &mut steps);
        self.move_subjects(&stand_ins, &mut steps);
        self.move_peers(&ways, &mut steps);
        self.set_subjects(&stand_ins, &mut steps);
        steps.extend(replaced);
        if advance {
            steps.push(Action::AdvanceGeneration);
        }
        self.collect(&mut steps);
        Plan { steps }
    }

    /// Lets pods that have not moved yet ask about frontends that have.
    fn stand_by(&mut self) {
        let leaving = self.sides.old_subjects();
        let leaving: Vec<_> =
            leaving.into_iter().filter(|subject| !self.sides.is_subject(*subject)).collect();
        for change in &self.frontends {
            let Some(FrontendEntry::Together(class)) = change.new else { continue };
            for subject in &leaving {
                let answer = self.sides.before(*subject, class);
                self.temporary.entry((*subject, class)).or_insert(answer);
            }
        }
    }

    /// Frontends go first, as if Services changed before policy did. One whose packets are judged behind NAT, or that is gone, widens
    /// nothing at any time.
    fn move_frontends(&self, steps: &mut Vec<Action>) {
        steps.extend(self.frontends.iter().map(|change| match change.new {
            Some(entry) => Action::SetFrontend { frontend: change.frontend, entry },
            None => Action::RemoveFrontend { frontend: change.frontend },
        }));
    }

    fn fresh_id(&mut self) -> u32 {
        while self.sides.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn answer_before(&self, subject: ClassId, peer: PeerEntry) -> PortSet {
        if peer.local { PortSet::Everything } else { self.sides.before(subject, peer.class) }
    }

    fn answer_after(&self, subject: ClassId, peer: PeerEntry) -> PortSet {
        if peer.local { PortSet::Everything } else { self.sides.after(subject, peer.class) }
    }

    /// Whether an established flow may rest on something that is not allowed any more.
    ///
    /// A pod's new classes always count: flows from before it was last let go of may still be known. So does any frontend: flows are told
    /// by being judged whether they go to one.
    fn must_advance(&self, moves: &BTreeSet<Move>) -> bool {
        if self.subjects.iter().any(|change| change.new.is_some()) || !self.frontends.is_empty() {
            return true;
        }
        let staying: Vec<_> =
            self.sides.old_subjects().into_iter().filter(|subject| self.sides.is_subject(*subject)).collect();
        moves.iter().any(|(old, new)| {
            staying
                .iter()
                .any(|subject| !self.answer_after(*subject, *new).covers(&self.answer_before(*subject, *old)))
        })
    }

    fn forget_subjects(&self, steps: &mut Vec<Action>) {
        for change in self.subjects.iter().filter(|change| change.new.is_none()) {
            steps.push(Action::RemoveSubject { pod: change.pod.clone() });
        }
    }

    /// Installs verdicts of pairs that are not in use yet. Returns what would change a pair in use: only tables that
    /// use one number for two meanings ask for that.
    fn install(&self, steps: &mut Vec<Action>) -> Vec<Action> {
        let sides = self.sides;
        let mut replaced = Vec::new();
        for (subject, peer) in sides.leftover() {
            steps.push(Action::RemoveVerdict { subject, peer });
        }
        for (subject, peer, ports) in sides.fresh() {
            let in_use = sides.was_subject(subject) && sides.was_peer(peer);
            let target = if in_use { &mut replaced } else { &mut *steps };
            target.push(Action::InstallVerdict { subject, peer, ports });
        }
        for ((subject, peer), ports) in &self.temporary {
            if !ports.is_nothing() {
                steps.push(Action::InstallVerdict { subject: *subject, peer: *peer, ports: ports.clone() });
            }
        }
        replaced
    }

    fn move_peers_half_way(&self, ways: &BTreeMap<Move, PeerEntry>, steps: &mut Vec<Action>) {
        if ways.is_empty() {
            return;
        }
        for change in &self.peers {
            let way = way(ways, change);
            if change.old != Some(way) {
                steps.push(Action::SetPeer { prefix: change.prefix, entry: way });
            }
        }
    }

    fn move_subjects(&self, stand_ins: &BTreeMap<ClassId, ClassId>, steps: &mut Vec<Action>) {
        for change in self.subjects.iter().filter(|change| change.old.is_some()) {
            if let Some(subject) = &change.new {
                let mut subject = subject.clone();
                for class in [&mut subject.ingress, &mut subject.egress] {
                    *class = stand_ins.get(class).copied().unwrap_or(*class);
                }
                steps.push(Action::SetSubject { pod: change.pod.clone(), subject });
            }
        }
    }

    fn move_peers(&self, ways: &BTreeMap<Move, PeerEntry>, steps: &mut Vec<Action>) {
        for change in self.peers.iter().rev() {
            let held = if ways.is_empty() { change.old } else { Some(way(ways, change)) };
            if let Some(entry) = change.new
                && held != Some(entry)
            {
                steps.push(Action::SetPeer { prefix: change.prefix, entry });
            }
        }
        for change in self.peers.iter().filter(|change| change.new.is_none()) {
            steps.push(Action::RemovePeer { prefix: change.prefix });
        }
    }

    /// Pods that were not isolated before, and those that have a stand-in.
    fn set_subjects(&self, stand_ins: &BTreeMap<ClassId, ClassId>, steps: &mut Vec<Action>) {
        for change in &self.subjects {
            let Some(subject) = &change.new else { continue };
            let stood_in =
                [subject.ingress, subject.egress].iter().any(|class| stand_ins.contains_key(class));
            if change.old.is_none() || stood_in {
                steps.push(Action::SetSubject { pod: change.pod.clone(), subject: subject.clone() });
            }
        }
    }

    fn collect(&self, steps: &mut Vec<Action>) {
        let temporary = self.temporary.iter().filter(|(_, ports)| !ports.is_nothing()).map(|(pair, _)| *pair);
        let gone: BTreeSet<_> = self.sides.stale().into_iter().chain(temporary).collect();
        for (subject, peer) in gone {
            steps.push(Action::RemoveVerdict { subject, peer });
        }
    }
}

/// What a prefix is to say while pods move.
fn way(ways: &BTreeMap<Move, PeerEntry>, change: &PeerChange) -> PeerEntry {
    ways.get(&(change.before, change.after)).copied().unwrap_or(change.after)
}

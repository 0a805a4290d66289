//! Two full tables as the two sides of a transition.

use std::collections::BTreeSet;

use super::transition::{FrontendChange, PeerChange, Sides, SubjectChange};
use crate::ports::PortSet;
use crate::tables::{ClassId, PeerClass, Tables, longest};

/// What the kernel holds, and what it is to hold.
pub(super) struct TableSides<'a> {
    recorded: &'a Tables,
    desired: &'a Tables,
    old_subjects: BTreeSet<ClassId>,
    new_subjects: BTreeSet<ClassId>,
    old_peers: BTreeSet<PeerClass>,
    new_peers: BTreeSet<PeerClass>,
    taken: BTreeSet<u32>,
}

impl<'a> TableSides<'a> {
    pub(super) fn new(recorded: &'a Tables, desired: &'a Tables) -> Self {
        let mut taken = BTreeSet::new();
        for tables in [recorded, desired] {
            taken.extend(tables.subject_classes().iter().map(|class| class.0));
            taken.extend(tables.peer_classes().iter().map(|class| class.0));
            taken.extend(tables.verdicts.keys().flat_map(|(subject, peer)| [subject.0, peer.0]));
        }
        Self {
            recorded,
            desired,
            old_subjects: recorded.subject_classes(),
            new_subjects: desired.subject_classes(),
            old_peers: recorded.peer_classes(),
            new_peers: desired.peer_classes(),
            taken,
        }
    }

    pub(super) fn changes(&self) -> (Vec<SubjectChange>, Vec<PeerChange>, Vec<FrontendChange>) {
        let (recorded, desired) = (self.recorded, self.desired);
        let pods: BTreeSet<_> = recorded.subjects.keys().chain(desired.subjects.keys()).collect();
        let subjects = pods.into_iter().map(|pod| SubjectChange {
            pod: pod.clone(),
            old: recorded.subjects.get(pod).cloned(),
            new: desired.subjects.get(pod).cloned(),
        });
        let prefixes: BTreeSet<_> = recorded.peers.keys().chain(desired.peers.keys()).collect();
        let peers = prefixes.into_iter().map(|prefix| PeerChange {
            prefix: *prefix,
            old: recorded.peers.get(prefix).copied(),
            new: desired.peers.get(prefix).copied(),
            before: longest(*prefix, |net| recorded.peers.get(net).copied()).unwrap_or_default(),
            after: longest(*prefix, |net| desired.peers.get(net).copied()).unwrap_or_default(),
        });
        let frontends: BTreeSet<_> = recorded.frontends.keys().chain(desired.frontends.keys()).collect();
        let frontends = frontends.into_iter().map(|frontend| FrontendChange {
            frontend: *frontend,
            old: recorded.frontends.get(frontend).copied(),
            new: desired.frontends.get(frontend).copied(),
        });
        (
            subjects.filter(|change| change.old != change.new).collect(),
            peers.filter(|change| change.old != change.new).collect(),
            frontends.filter(|change| change.old != change.new).collect(),
        )
    }

    /// Whether packets may be judged by this pair before the plan.
    fn was_used(&self, (subject, peer): (ClassId, PeerClass)) -> bool {
        self.old_subjects.contains(&subject) && self.old_peers.contains(&peer)
    }
}

impl Sides for TableSides<'_> {
    fn before(&self, subject: ClassId, peer: PeerClass) -> PortSet {
        self.recorded.verdicts.get(&(subject, peer)).cloned().unwrap_or_default()
    }

    fn after(&self, subject: ClassId, peer: PeerClass) -> PortSet {
        self.desired.verdicts.get(&(subject, peer)).cloned().unwrap_or_default()
    }

    fn was_subject(&self, subject: ClassId) -> bool {
        self.old_subjects.contains(&subject)
    }

    fn is_subject(&self, subject: ClassId) -> bool {
        self.new_subjects.contains(&subject)
    }

    fn was_peer(&self, peer: PeerClass) -> bool {
        self.old_peers.contains(&peer)
    }

    fn is_peer(&self, peer: PeerClass) -> bool {
        self.new_peers.contains(&peer)
    }

    fn old_subjects(&self) -> Vec<ClassId> {
        self.old_subjects.iter().copied().collect()
    }

    fn new_peers(&self) -> Vec<PeerClass> {
        self.new_peers.iter().copied().collect()
    }

    fn leftover(&self) -> Vec<(ClassId, PeerClass)> {
        let kept = |pair| self.was_used(pair) || self.desired.verdicts.contains_key(&pair);
        self.recorded.verdicts.keys().copied().filter(|pair| !kept(*pair)).collect()
    }

    fn fresh(&self) -> Vec<(ClassId, PeerClass, PortSet)> {
        let desired = self.desired.verdicts.iter();
        desired
            .filter(|(pair, ports)| self.recorded.verdicts.get(pair) != Some(ports))
            .map(|((subject, peer), ports)| (*subject, *peer, ports.clone()))
            .collect()
    }

    fn stale(&self) -> Vec<(ClassId, PeerClass)> {
        let gone = |pair| self.was_used(pair) && !self.desired.verdicts.contains_key(&pair);
        self.recorded.verdicts.keys().copied().filter(|pair| gone(*pair)).collect()
    }

    fn is_taken(&self, id: u32) -> bool {
        self.taken.contains(&id)
    }
}

//! The compiled tables: what the kernel's maps hold, in this crate's own terms.
//!
//! The [engine](crate::engine) writes them, [plans](crate::plan) change one into another, the agent converts them to
//! map keys and values. [`Tables::ports`] reads them just as the packet path does.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Direction, NamespacedName};
use crate::ports::PortSet;
use crate::services::Frontend;

/// A subject class: one distinct set of effective rules of one direction. One number space for both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The direction is not isolated: no policy selects the pod for it.
    pub const NOT_ISOLATED: Self = Self(0);
}

/// A peer class: one distinct set of the selectors, blocks and named ports in use that an address satisfies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerClass(pub u32);

impl PeerClass {
    /// Satisfies nothing: what an address in no table belongs to.
    pub const UNKNOWN: Self = Self(0);
}

/// The first id of classes that live only while a plan is executed; classes of the engine stay below.
pub const FIRST_TRANSITIONAL: u32 = 1 << 31;

/// A local pod that policy isolates.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Judges what the pod gets.
    pub ingress: ClassId,
    /// Judges what the pod sends.
    pub egress: ClassId,
    /// `status.podIPs`, sorted. Empty while pending.
    pub addresses: Vec<IpAddr>,
}

impl Subject {
    /// The class of one direction.
    #[must_use]
    pub fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    /// Whether any policy selects the pod.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.ingress != ClassId::NOT_ISOLATED || self.egress != ClassId::NOT_ISOLATED
    }
}

/// What is known of a remote address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerEntry {
    /// Its class.
    pub class: PeerClass,
    /// An address of the subjects' own node: its processes and the pods here always reach each other.
    pub local: bool,
}

/// Who judges what is sent to a Service's frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendEntry {
    /// Whoever sees where the packet goes, behind the choice of a backend.
    BehindNat,
    /// This class, which stands for all backends together: its verdict is everything or nothing.
    Together(PeerClass),
}

/// Everything the packet path looks up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Local pods that are isolated in at least one direction. A pod that is not here carries no program.
    pub subjects: BTreeMap<NamespacedName, Subject>,
    /// Remote addresses: the longest prefix decides, and full-length prefixes (`/32`, `/128`) are exact addresses.
    pub peers: BTreeMap<IpNet, PeerEntry>,
    /// Services' frontends that have backends.
    pub frontends: BTreeMap<Frontend, FrontendEntry>,
    /// What each subject class allows each peer class; a missing entry allows nothing.
    pub verdicts: BTreeMap<(ClassId, PeerClass), PortSet>,
}

impl Tables {
    /// The entry of an address: the longest prefix that holds it, [`PeerClass::UNKNOWN`] when none does.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> PeerEntry {
        longest(IpNet::from(address), |prefix| self.peers.get(prefix).copied()).unwrap_or_default()
    }

    /// What a pod allows a remote address in one direction, as the packet path judges it.
    ///
    /// A pod that is no subject allows everything; so does any pod towards its own addresses and its own node.
    #[must_use]
    pub fn ports(&self, pod: &NamespacedName, direction: Direction, remote: IpAddr) -> PortSet {
        self.ports_of(pod, direction, remote, self.peer(remote))
    }

    /// The same, where the remote address's entry is known already.
    pub(crate) fn ports_of(
        &self,
        pod: &NamespacedName,
        direction: Direction,
        remote: IpAddr,
        peer: PeerEntry,
    ) -> PortSet {
        let Some(subject) = self.subjects.get(pod) else { return PortSet::Everything };
        let class = subject.class(direction);
        if class == ClassId::NOT_ISOLATED || peer.local || subject.addresses.contains(&remote) {
            return PortSet::Everything;
        }
        self.verdicts.get(&(class, peer.class)).cloned().unwrap_or_default()
    }

    /// The same tables with classes numbered by their first use, so that tables of different histories compare equal
    /// when they mean the same.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut classes = BTreeMap::from([(ClassId::NOT_ISOLATED, ClassId::NOT_ISOLATED)]);
        let mut peers = BTreeMap::from([(PeerClass::UNKNOWN, PeerClass::UNKNOWN)]);
        let mut class = |id: ClassId| {
            let next = ClassId(u32::try_from(classes.len()).unwrap_or(u32::MAX));
            *classes.entry(id).or_insert(next)
        };
        let mut peer = |id: PeerClass| {
            let next = PeerClass(u32::try_from(peers.len()).unwrap_or(u32::MAX));
            *peers.entry(id).or_insert(next)
        };
        Self {
            subjects: self
                .subjects
                .iter()
                .map(|(pod, subject)| {
                    let (ingress, egress) = (class(subject.ingress), class(subject.egress));
                    (pod.clone(), Subject { ingress, egress, addresses: subject.addresses.clone() })
                })
                .collect(),
            peers: self
                .peers
                .iter()
                .map(|(prefix, entry)| (*prefix, PeerEntry { class: peer(entry.class), local: entry.local }))
                .collect(),
            frontends: self
                .frontends
                .iter()
                .map(|(frontend, entry)| {
                    let entry = match entry {
                        FrontendEntry::BehindNat => FrontendEntry::BehindNat,
                        FrontendEntry::Together(class) => FrontendEntry::Together(peer(*class)),
                    };
                    (*frontend, entry)
                })
                .collect(),
            verdicts: self.verdicts.iter().map(|((s, p), v)| ((class(*s), peer(*p)), v.clone())).collect(),
        }
    }

    /// One more than every class that the engine gave, for an engine that is to start above them.
    #[must_use]
    pub fn next_class(&self) -> ClassId {
        let subjects = self.subject_classes().into_iter().map(|class| class.0);
        let peers = self.peer_classes().into_iter().map(|class| class.0);
        let verdicts = self.verdicts.keys().flat_map(|(subject, peer)| [subject.0, peer.0]);
        let given = subjects.chain(peers).chain(verdicts).filter(|id| *id < FIRST_TRANSITIONAL);
        ClassId(given.max().map_or(1, |id| id + 1))
    }

    /// Subject classes that some pod is in, [`ClassId::NOT_ISOLATED`] left out.
    #[must_use]
    pub fn subject_classes(&self) -> BTreeSet<ClassId> {
        let both = self.subjects.values().flat_map(|subject| [subject.ingress, subject.egress]);
        both.filter(|class| *class != ClassId::NOT_ISOLATED).collect()
    }

    /// Peer classes that some prefix or frontend is in, and [`PeerClass::UNKNOWN`], where all other addresses are.
    #[must_use]
    pub fn peer_classes(&self) -> BTreeSet<PeerClass> {
        let together = self.frontends.values().filter_map(|entry| match entry {
            FrontendEntry::BehindNat => None,
            FrontendEntry::Together(class) => Some(*class),
        });
        self.peers.values().map(|entry| entry.class).chain(together).chain([PeerClass::UNKNOWN]).collect()
    }
}

/// What `get` knows of the longest prefix that covers `net`, itself included.
pub(crate) fn longest<T>(net: IpNet, get: impl Fn(&IpNet) -> Option<T>) -> Option<T> {
    let mut prefix = net;
    loop {
        if let Some(found) = get(&prefix) {
            return Some(found);
        }
        prefix = prefix.supernet()?;
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S{}", self.0)
    }
}

impl fmt::Display for PeerClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pod, subject) in &self.subjects {
            write!(f, "subject {pod}: ingress {} egress {}", subject.ingress, subject.egress)?;
            for address in &subject.addresses {
                write!(f, " {address}")?;
            }
            writeln!(f)?;
        }
        for (prefix, entry) in &self.peers {
            writeln!(f, "peer {prefix}: {}{}", entry.class, if entry.local { " local" } else { "" })?;
        }
        for (Frontend { address, protocol, port }, entry) in &self.frontends {
            match entry {
                FrontendEntry::BehindNat => writeln!(f, "frontend {address} {protocol} {port}: behind NAT")?,
                FrontendEntry::Together(class) => {
                    writeln!(f, "frontend {address} {protocol} {port}: {class}")?
                }
            }
        }
        for ((subject, peer), ports) in &self.verdicts {
            writeln!(f, "verdict {subject} {peer}: {ports}")?;
        }
        Ok(())
    }
}

//! Plans: how recorded tables become desired ones, as data.
//!
//! Two tables (or the engine's changes since its last plan) flow in, actions in a safe order flow out; the agent's
//! executor carries them out one by one. The promise, whatever happens between two actions: what a local pod and a
//! remote address may exchange is either what it was before the plan or what it is after, never anything else.

mod diff;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod transition;

use ipnet::IpNet;

pub(crate) use self::transition::{FrontendChange, PeerChange, Sides, SubjectChange, Transition};

use crate::model::NamespacedName;
use crate::ports::PortSet;
use crate::services::Frontend;
use crate::tables::{ClassId, FrontendEntry, PeerClass, PeerEntry, Subject, Tables};

/// One write to the kernel's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What a subject class allows a peer class. Never changes a pair that is in use.
    InstallVerdict {
        /// The subject class.
        subject: ClassId,
        /// The peer class.
        peer: PeerClass,
        /// Never nothing: a missing verdict says that.
        ports: PortSet,
    },
    /// Inserts or replaces what is known of a prefix. Full-length prefixes are exact addresses.
    SetPeer {
        /// The prefix, masked.
        prefix: IpNet,
        /// What is known of it.
        entry: PeerEntry,
    },
    /// Forgets a prefix: the next shorter one decides.
    RemovePeer {
        /// The prefix, masked.
        prefix: IpNet,
    },
    /// Inserts or replaces who judges what is sent to a frontend.
    SetFrontend {
        /// The frontend.
        frontend: Frontend,
        /// Who judges.
        entry: FrontendEntry,
    },
    /// Forgets a frontend: what is sent there is judged by its address.
    RemoveFrontend {
        /// The frontend.
        frontend: Frontend,
    },
    /// Inserts or replaces a local pod's classes, both directions in one write.
    SetSubject {
        /// The pod.
        pod: NamespacedName,
        /// Its classes and addresses.
        subject: Subject,
    },
    /// The pod is no subject any more: nothing isolates it, or it is gone.
    RemoveSubject {
        /// The pod.
        pod: NamespacedName,
    },
    /// Established flows are to be judged again: some of what was allowed may not be any more, or go to a Service now.
    AdvanceGeneration,
    /// Forgets a verdict that no pair in use refers to.
    RemoveVerdict {
        /// The subject class.
        subject: ClassId,
        /// The peer class.
        peer: PeerClass,
    },
}

/// Actions in the order in which they must be executed.
#[must_use = "a plan changes nothing until it is executed"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The actions.
    pub steps: Vec<Action>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The plan that turns `recorded` (what the kernel holds) into `desired`.
///
/// A class id that both tables use must mean the same in both: start the engine above what the kernel holds
/// ([`Tables::next_class`]). Otherwise the end is still `desired`, but the way there is not safe.
pub fn diff(recorded: &Tables, desired: &Tables) -> Plan {
    let sides = diff::TableSides::new(recorded, desired);
    let (subjects, peers, frontends) = sides.changes();
    Transition::new(&sides, subjects, peers, frontends).plan()
}

/// The same after a plan that failed half way. What it took away before that is in `recorded` no more, yet flows may still rest on it:
/// they are judged again. Classes of this plan alone are numbered from `first_transitional`.
pub(crate) fn recovery(recorded: &Tables, desired: &Tables, first_transitional: u32) -> Plan {
    let sides = diff::TableSides::new(recorded, desired);
    let (subjects, peers, frontends) = sides.changes();
    let transition = Transition::new(&sides, subjects, peers, frontends);
    transition.numbered_from(first_transitional).judging_flows_again().plan()
}

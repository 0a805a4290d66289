//! The incremental compiler: objects flow in, in any order; tables and plans flow out.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{NamespacedName, Object, ObjectRef, Pod};
use crate::plan::Plan;
use crate::tables::{ClassId, Subject, Tables};

/// Whose pods are subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of one node (`spec.nodeName`): what an agent enforces.
    Node(Arc<str>),
    /// All pods: what offline questions need.
    All,
}

/// A pod within the engine's scope, isolated or not.
#[derive(Clone, Debug)]
pub struct LocalPod {
    /// The pod as last applied.
    pub pod: Arc<Pod>,
    /// Its classes; both 0 when nothing isolates it.
    pub subject: Subject,
    /// The policies that select it, sorted.
    pub policies: Vec<NamespacedName>,
}

/// The incremental compiler.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// An engine without objects. Its classes are numbered upward from `first_class` and never reused: pass one more
    /// than any subject or peer class that the kernel still holds.
    #[must_use]
    pub fn new(scope: Scope, first_class: ClassId) -> Self {
        let _ = (scope, first_class);
        Self {}
    }

    /// Adds or replaces an object. Returns whether it differs from the one known.
    pub fn apply(&mut self, object: Object) -> bool {
        let _ = object;
        false
    }

    /// Forgets an object. Returns whether it was known.
    pub fn delete(&mut self, object: &ObjectRef) -> bool {
        let _ = object;
        false
    }

    /// Replaces the own node's addresses, as the kernel knows them. Returns whether they differ.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> bool {
        let _ = addresses.into_iter();
        false
    }

    /// The tables that the objects known now ask for.
    #[must_use]
    pub fn tables(&self) -> Tables {
        Tables::default()
    }

    /// What changed since the last plan, as one transition. Empty when nothing did.
    pub fn plan(&mut self) -> Plan {
        Plan::default()
    }

    /// The plan from what the kernel really holds to what is desired now: after a restart, or when executing a plan
    /// failed half way. The next [`plan`](Self::plan) starts from here.
    pub fn recover(&mut self, recorded: &Tables) -> Plan {
        let _ = recorded;
        Plan::default()
    }

    /// A pod in scope (not on the host's network, not finished), isolated or not.
    #[must_use]
    pub fn local_pod(&self, id: &NamespacedName) -> Option<LocalPod> {
        let _ = id;
        None
    }

    /// Every pod in scope, by name.
    pub fn local_pods(&self) -> impl Iterator<Item = LocalPod> {
        std::iter::empty()
    }
}

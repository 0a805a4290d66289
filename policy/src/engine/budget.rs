//! What one namespace may take of the maps, so that no tenant's policies use up what others' need.
//!
//! Before each plan, what its new verdicts take is added to what the namespaces of their pods take already. Where that is more than a
//! namespace may take, a policy of it is *refused*: it isolates the pods that it selects, as before, and allows nothing. Which one: the
//! largest of those that came or changed since the last plan, else the largest of all. It is tried again with the next change of a policy
//! of that namespace, and whenever the agent says so ([`Engine::reconsider`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::Engine;
use super::attributes::Attribute;
use super::publish::EngineSides;
use super::rules::Target;
use crate::model::{Direction, NamespacedName, NetworkPolicy};
use crate::plan::Sides as _;
use crate::ports::PortSet;
use crate::tables::{ClassId, PeerClass};

/// What one namespace may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Pairs of a subject class and a peer class.
    pub verdicts: usize,
    /// Pages of port sets.
    pub pages: usize,
    /// Prefixes that blocks name.
    pub prefixes: usize,
    /// How many pages a set takes.
    pub pages_of: fn(&PortSet) -> usize,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// Its namespace would take so much of something, where it may take so much.
    Budget { what: &'static str, needed: usize, allowed: usize },
    /// The kernel refused.
    Kernel,
}

/// A policy that allows nothing, since there is no room for what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The policy.
    pub policy: NamespacedName,
    reason: Refusal,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, reason } = self;
        write!(f, "NetworkPolicy {policy} allows nothing for now: ")?;
        match reason {
            Refusal::Budget { what, needed, allowed } => write!(
                f,
                "with it, the policies of namespace {} take {needed} {what} of this node, and one namespace may take {allowed}",
                policy.namespace
            )?,
            Refusal::Kernel => write!(
                f,
                "the maps of this node are full, and namespace {} takes most of them",
                policy.namespace
            )?,
        }
        f.write_str("; write it with fewer, wider port ranges and CIDRs, or with fewer peers that differ in their ports")
    }
}

/// What the verdicts of one subject class take.
#[derive(Clone, Debug, Default)]
struct Usage {
    verdicts: usize,
    /// How many verdicts name each set that takes pages.
    sets: HashMap<PortSet, usize>,
    pages: usize,
}

impl Usage {
    fn add(&mut self, ports: &PortSet, pages_of: fn(&PortSet) -> usize) {
        self.verdicts += 1;
        let pages = pages_of(ports);
        if pages > 0 {
            let verdicts = self.sets.entry(ports.clone()).or_default();
            *verdicts += 1;
            if *verdicts == 1 {
                self.pages += pages;
            }
        }
    }

    fn remove(&mut self, ports: &PortSet, pages_of: fn(&PortSet) -> usize) {
        self.verdicts = self.verdicts.saturating_sub(1);
        if let Some(verdicts) = self.sets.get_mut(ports) {
            *verdicts -= 1;
            if *verdicts == 0 {
                self.sets.remove(ports);
                self.pages = self.pages.saturating_sub(pages_of(ports));
            }
        }
    }
}

/// What is taken, and who is refused.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    budget: Option<Budget>,
    /// Of the last plan, by subject class.
    usage: HashMap<ClassId, Usage>,
    refused: BTreeMap<NamespacedName, Refusal>,
    /// Policies that came or changed since the last plan.
    recent: BTreeSet<NamespacedName>,
}

impl Budgets {
    pub(super) fn refuses(&self, policy: &NamespacedName) -> bool {
        self.refused.contains_key(policy)
    }
}

type Verdicts = Vec<(ClassId, PeerClass, PortSet)>;

impl Engine {
    /// From now on, no namespace takes more than this.
    pub fn limit(&mut self, budget: Budget) {
        self.budgets.budget = Some(budget);
    }

    /// The policies that are refused.
    pub fn refused(&self) -> impl Iterator<Item = Refused> + use<'_> {
        let refused = self.budgets.refused.iter();
        refused.map(|(policy, reason)| Refused { policy: policy.clone(), reason: reason.clone() })
    }

    /// Tries again what was refused for its namespace's budget: peers may have gone. Returns whether there is anything to try.
    pub fn reconsider(&mut self) -> bool {
        let refused = &mut self.budgets.refused;
        let again: Vec<_> =
            refused.iter().filter(|(_, why)| **why != Refusal::Kernel).map(|(id, _)| id.clone()).collect();
        refused.retain(|_, why| *why == Refusal::Kernel);
        for id in &again {
            self.refresh_selected(id);
        }
        !again.is_empty()
    }

    /// The kernel's maps are full: refuses the largest policy of the namespace that takes most. Returns whether there is one.
    pub fn refuse_most(&mut self) -> bool {
        let Some(budget) = self.budgets.budget else { return false };
        let share = |classes: &BTreeSet<ClassId>| {
            let (verdicts, pages) = self.taken(classes, &HashMap::new());
            // Of whichever it takes the greater part.
            (verdicts * 1000 / budget.verdicts.max(1)).max(pages * 1000 / budget.pages.max(1))
        };
        let mut namespaces: Vec<_> = self.classes_by_namespace().into_iter().collect();
        namespaces.sort_by_key(|(_, classes)| std::cmp::Reverse(share(classes)));
        let found = namespaces.into_iter().find_map(|(namespace, _)| self.largest(&namespace));
        found.is_some_and(|policy| {
            self.refuse(&policy, Refusal::Kernel);
            true
        })
    }

    /// A policy came, changed or went: what was refused of its namespace may fit now.
    pub(super) fn note_policy(&mut self, id: &NamespacedName) {
        self.budgets.recent.insert(id.clone());
        let others: Vec<_> =
            self.budgets.refused.keys().filter(|it| it.namespace == id.namespace).cloned().collect();
        for other in others {
            self.budgets.refused.remove(&other);
            self.refresh_selected(&other);
        }
    }

    /// Refuses policies until every namespace is within its budget.
    pub(super) fn keep_within_budget(&mut self) {
        while let Some(budget) = self.budgets.budget
            && let Some((policy, reason)) = self.find_overrun(budget)
        {
            self.refuse(&policy, reason);
            self.refresh_frontends();
        }
    }

    /// What the plan that is about to be made adds, and takes away, is in use from now on.
    pub(super) fn note_usage(&mut self) {
        self.budgets.recent.clear();
        let Some(Budget { pages_of, .. }) = self.budgets.budget else { return };
        let sides = EngineSides::new(self);
        let (fresh, stale) = (sides.fresh(), sides.gone());
        let usage = &mut self.budgets.usage;
        for (subject, _, ports) in stale {
            if let Some(usage) = usage.get_mut(&subject) {
                usage.remove(&ports, pages_of);
            }
        }
        for (subject, _, ports) in fresh {
            usage.entry(subject).or_default().add(&ports, pages_of);
        }
        usage.retain(|_, usage| usage.verdicts > 0);
    }

    fn find_overrun(&self, budget: Budget) -> Option<(NamespacedName, Refusal)> {
        let fresh: Verdicts = EngineSides::new(self).fresh();
        let mut added: HashMap<ClassId, Usage> = HashMap::new();
        for (subject, _, ports) in &fresh {
            added.entry(*subject).or_default().add(ports, budget.pages_of);
        }
        let is_new = |class: &ClassId| self.rule_sets.get(class.0).is_some_and(|class| !class.published);
        for (namespace, classes) in self.classes_by_namespace() {
            if !classes.iter().any(|class| added.contains_key(class) || is_new(class)) {
                continue;
            }
            let (verdicts, pages) = self.taken(&classes, &added);
            let prefixes = self.prefixes(&classes);
            let taken = [
                ("verdicts", verdicts, budget.verdicts),
                ("pages of ports", pages, budget.pages),
                ("prefixes", prefixes, budget.prefixes),
            ];
            let over = taken.into_iter().find(|(_, needed, allowed)| needed > allowed);
            if let Some((what, needed, allowed)) = over
                && let Some(policy) = self.largest(&namespace)
            {
                return Some((policy, Refusal::Budget { what, needed, allowed }));
            }
        }
        None
    }

    /// Verdicts and pages of these classes.
    fn taken(&self, classes: &BTreeSet<ClassId>, added: &HashMap<ClassId, Usage>) -> (usize, usize) {
        let both = |class: &ClassId| self.budgets.usage.get(class).into_iter().chain(added.get(class));
        let all = classes.iter().flat_map(both);
        all.fold((0, 0), |(verdicts, pages), usage| (verdicts + usage.verdicts, pages + usage.pages))
    }

    /// Prefixes that the blocks of these classes name.
    fn prefixes(&self, classes: &BTreeSet<ClassId>) -> usize {
        let rules = classes.iter().filter_map(|class| self.rule_sets.get(class.0));
        let attributes: BTreeSet<_> =
            rules.flat_map(|class| class.meaning.attributes().collect::<Vec<_>>()).collect();
        let prefixes = attributes.into_iter().map(|id| match self.attributes.get(id) {
            Some(Attribute::Target(Target::Block(_, except))) => 1 + except.len(),
            _ => 0,
        });
        prefixes.sum()
    }

    /// The classes of each namespace's pods.
    fn classes_by_namespace(&self) -> BTreeMap<Arc<str>, BTreeSet<ClassId>> {
        let mut classes: BTreeMap<Arc<str>, BTreeSet<ClassId>> = BTreeMap::new();
        for local in self.locals.values().filter(|local| local.subject.is_isolated()) {
            let both =
                [Direction::Ingress, Direction::Egress].map(|direction| local.subject.class(direction));
            let both = both.into_iter().filter(|class| *class != ClassId::NOT_ISOLATED);
            classes.entry(local.id.namespace.clone()).or_default().extend(both);
        }
        classes
    }

    /// The largest policy of a namespace that selects a pod here and is not refused yet: one of the recent ones, where there are any.
    fn largest(&self, namespace: &str) -> Option<NamespacedName> {
        let locals = self.locals.values().filter(|local| &*local.id.namespace == namespace);
        let candidates: BTreeMap<_, _> = locals
            .flat_map(|local| &local.policies)
            .filter(|policy| !self.budgets.refuses(&policy.id))
            .map(|policy| (&policy.id, (self.budgets.recent.contains(&policy.id), size(policy))))
            .filter(|(_, (_, size))| *size > 0)
            .collect();
        candidates.into_iter().max_by_key(|(_, size)| *size).map(|(id, _)| id.clone())
    }

    fn refuse(&mut self, policy: &NamespacedName, reason: Refusal) {
        self.budgets.refused.insert(policy.clone(), reason);
        self.refresh_selected(policy);
    }

    /// Compiles anew what a policy that is still the same selects.
    fn refresh_selected(&mut self, id: &NamespacedName) {
        let Some(policy) = self.policies.get(id).cloned() else { return };
        self.policy_changed(id, &[Some(policy)]);
        self.settle();
    }
}

/// How much a policy asks for, roughly.
fn size(policy: &NetworkPolicy) -> usize {
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    rules.map(|rule| rule.ports.len().max(1) * rule.peers.len().max(1)).sum()
}

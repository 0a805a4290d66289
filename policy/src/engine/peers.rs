//! The peer table: addresses and prefixes, each in the class of what is known of it.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::blocks::Lengths;
use super::classes::Classes;
use super::rules::{Facts, Known};
use super::tracked::{Changed, Tracked};
use crate::tables::{PeerClass, PeerEntry};

/// The peer table now and at the last plan.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) classes: Classes<Known>,
    entries: Tracked<IpNet, PeerEntry>,
    /// Lengths of prefixes now or at the last plan.
    lengths: Lengths,
    /// Prefixes given up since the last plan: still counted in `lengths`.
    retired: Vec<IpNet>,
}

impl Peers {
    pub(super) fn new(first_class: u32) -> Self {
        Self {
            classes: Classes::new(first_class),
            entries: Tracked::default(),
            lengths: Lengths::default(),
            retired: Vec::new(),
        }
    }

    /// Sets what is known of a prefix and whether it is an own node's address, or forgets the prefix.
    pub(super) fn set(&mut self, prefix: IpNet, known: Option<(Facts, bool)>) {
        let entry = known.map(|(facts, local)| PeerEntry { class: self.acquire(facts), local });
        let old = self.entries.set(&prefix, entry);
        match (old.is_some(), entry.is_some()) {
            (false, true) => self.lengths.add(prefix),
            (true, false) => self.retired.push(prefix),
            _ => {}
        }
        // Taken before given up: a class in use does not lose its last user in between.
        if let Some(old) = old {
            self.classes.release(old.class.0);
        }
    }

    fn acquire(&mut self, facts: Facts) -> PeerClass {
        if facts.is_empty() {
            PeerClass::UNKNOWN
        } else {
            PeerClass(self.classes.acquire(Known::Address(facts)).0)
        }
    }

    pub(super) fn current(&self) -> &BTreeMap<IpNet, PeerEntry> {
        self.entries.current()
    }

    pub(super) fn changed(&self) -> Vec<Changed<IpNet, PeerEntry>> {
        self.entries.changed()
    }

    /// What decided for a prefix at the last plan, and what does now.
    pub(super) fn decides(&self, prefix: IpNet) -> (PeerEntry, PeerEntry) {
        let before = self.lengths.covering(prefix).find_map(|net| self.entries.before(&net).copied());
        let now = self.lengths.covering(prefix).find_map(|net| self.entries.current().get(&net).copied());
        (before.unwrap_or_default(), now.unwrap_or_default())
    }

    pub(super) fn publish(&mut self) {
        self.entries.publish();
        self.classes.publish();
        for prefix in std::mem::take(&mut self.retired) {
            self.lengths.remove(prefix);
        }
    }
}

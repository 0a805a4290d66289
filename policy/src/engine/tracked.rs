//! A map that remembers what changed since the last plan.

use std::collections::BTreeMap;

/// Current values, and the former ones of keys that changed.
#[derive(Debug)]
pub(super) struct Tracked<K, V> {
    current: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), before: BTreeMap::new() }
    }
}

/// A key's value at the last plan and now; they differ.
pub(super) struct Changed<K, V> {
    pub(super) key: K,
    pub(super) old: Option<V>,
    pub(super) new: Option<V>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Tracked<K, V> {
    /// Sets or removes a value; the replaced one comes back.
    pub(super) fn set(&mut self, key: &K, value: Option<V>) -> Option<V> {
        if self.current.get(key) == value.as_ref() {
            return value;
        }
        let old = match value {
            Some(value) => self.current.insert(key.clone(), value),
            None => self.current.remove(key),
        };
        self.before.entry(key.clone()).or_insert_with(|| old.clone());
        old
    }

    pub(super) fn current(&self) -> &BTreeMap<K, V> {
        &self.current
    }

    /// The value at the last plan.
    pub(super) fn before(&self, key: &K) -> Option<&V> {
        match self.before.get(key) {
            Some(old) => old.as_ref(),
            None => self.current.get(key),
        }
    }

    /// What changed since the last plan, by key.
    pub(super) fn changed(&self) -> Vec<Changed<K, V>> {
        let changed = self.before.iter().filter(|(key, old)| self.current.get(*key) != old.as_ref());
        changed
            .map(|(key, old)| Changed {
                key: key.clone(),
                old: old.clone(),
                new: self.current.get(key).cloned(),
            })
            .collect()
    }

    /// Now is the last plan. Keys that were given up come back.
    pub(super) fn publish(&mut self) {
        self.before.clear();
    }
}

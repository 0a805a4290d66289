//! An index of selectors by the labels they require, so that an object meets only selectors that may match it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{Labels, Requirement, Selector};

/// Items filed under one label that their selector requires.
#[derive(Debug)]
pub(super) struct SelectorIndex<T> {
    by_value: HashMap<Arc<str>, HashMap<Arc<str>, BTreeSet<T>>>,
    by_key: HashMap<Arc<str>, BTreeSet<T>>,
    /// Selectors that require no label: they may match anything.
    rest: BTreeSet<T>,
    len: usize,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { by_value: HashMap::new(), by_key: HashMap::new(), rest: BTreeSet::new(), len: 0 }
    }
}

/// The requirement to file a selector under: values split better than keys.
fn pivot(selector: &Selector) -> Option<&Requirement> {
    let is_in = |requirement: &&Requirement| matches!(requirement, Requirement::In(..));
    let exists = |requirement: &&Requirement| matches!(requirement, Requirement::Exists(_));
    selector.0.iter().find(is_in).or_else(|| selector.0.iter().find(exists))
}

impl<T: Ord + Clone> SelectorIndex<T> {
    pub(super) fn insert(&mut self, selector: &Selector, item: &T) {
        self.len += 1;
        match pivot(selector) {
            Some(Requirement::In(key, values)) => {
                let by_value = self.by_value.entry(key.clone()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().insert(item.clone());
                }
            }
            Some(requirement) => {
                self.by_key.entry(requirement.key().clone()).or_default().insert(item.clone());
            }
            None => {
                self.rest.insert(item.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, selector: &Selector, item: &T) {
        self.len = self.len.saturating_sub(1);
        match pivot(selector) {
            Some(Requirement::In(key, values)) => {
                let Some(by_value) = self.by_value.get_mut(key) else { return };
                for value in values {
                    discard(by_value, value, item);
                }
                if by_value.is_empty() {
                    self.by_value.remove(key);
                }
            }
            Some(requirement) => discard(&mut self.by_key, requirement.key(), item),
            None => {
                self.rest.remove(item);
            }
        }
    }

    /// Every item whose selector may match; each at most once.
    pub(super) fn candidates<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        let by_value = labels.iter().filter_map(|(key, value)| self.by_value.get(key)?.get(value)).flatten();
        let by_key = labels.keys().filter_map(|key| self.by_key.get(key)).flatten();
        by_value.chain(by_key).chain(&self.rest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Takes an item out of a set in a map, and the set with its last item.
pub(super) fn discard<K: std::hash::Hash + Eq, T: Ord>(map: &mut HashMap<K, BTreeSet<T>>, key: &K, item: &T) {
    if let Some(items) = map.get_mut(key) {
        items.remove(item);
        if items.is_empty() {
            map.remove(key);
        }
    }
}

//! Classes: interned meanings under numbers that are never reused.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// One class.
#[derive(Debug)]
pub(super) struct Class<K> {
    /// Its meaning, which never changes.
    pub(super) meaning: Arc<K>,
    /// Who is in it now.
    users: usize,
    /// Whether the last plan put it into the tables.
    pub(super) published: bool,
}

impl<K> Class<K> {
    /// Whether anyone is in it now.
    pub(super) fn in_use(&self) -> bool {
        self.users > 0
    }
}

/// Meanings by number. A class that nobody is in any more stays until [`Classes::publish`]: until then, the tables of
/// the last plan hold it.
#[derive(Debug)]
pub(super) struct Classes<K> {
    next: u32,
    ids: HashMap<Arc<K>, u32>,
    by_id: BTreeMap<u32, Class<K>>,
}

impl<K: Eq + Hash> Classes<K> {
    /// Number 0 has a meaning of its own everywhere and is never given.
    pub(super) fn new(first: u32) -> Self {
        Self { next: first.max(1), ids: HashMap::new(), by_id: BTreeMap::new() }
    }

    /// Adds a user; says whether it is the only one.
    pub(super) fn acquire(&mut self, meaning: K) -> (u32, bool) {
        let meaning = Arc::new(meaning);
        let id = *self.ids.entry(meaning.clone()).or_insert_with(|| {
            self.next += 1;
            self.next - 1
        });
        let class = self.by_id.entry(id).or_insert(Class { meaning, users: 0, published: false });
        class.users += 1;
        (id, class.users == 1)
    }

    /// Adds a user to a class that has some.
    pub(super) fn share(&mut self, id: u32) {
        if let Some(class) = self.by_id.get_mut(&id) {
            class.users += 1;
        }
    }

    /// Takes a user out; says whether it was the last one.
    pub(super) fn release(&mut self, id: u32) -> bool {
        let Some(class) = self.by_id.get_mut(&id) else { return false };
        class.users = class.users.saturating_sub(1);
        class.users == 0
    }

    pub(super) fn get(&self, id: u32) -> Option<&Class<K>> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Class<K>)> {
        self.by_id.iter().map(|(id, class)| (*id, class))
    }

    /// The tables of now are those of the last plan.
    pub(super) fn publish(&mut self) {
        self.by_id.retain(|_, class| {
            class.published = class.users > 0;
            if !class.published {
                self.ids.remove(&class.meaning);
            }
            class.published
        });
    }
}

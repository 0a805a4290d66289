//! Pods whose objects are gone, or say that they have finished, while their processes may still run.
//!
//! The object's word is not the kernel's: `kubectl delete --force` takes the object away at once, and the
//! processes end when they end. Until then such a pod is a subject under the rules that it had last. Who it
//! may talk to follows the peers that come and go, but no policy that comes, changes or goes later counts. It
//! is nobody's peer.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Engine, PodKey};
use crate::model::{NamespacedName, Pod};
use crate::tables::Subject;

/// A pod of the scope whose object went.
#[derive(Clone, Debug)]
pub struct DepartedPod {
    /// Which it was: another pod of the same name has another key.
    pub key: PodKey,
    /// Its last object.
    pub pod: Arc<Pod>,
    /// Its last classes; both 0 when nothing isolated it.
    pub subject: Subject,
}

impl Engine {
    /// From now on, pods of the scope that go are kept as departed ones until [`Self::forget_departed`].
    pub fn keep_departed(&mut self) {
        self.keeps_departed = true;
    }

    /// The pods that went and are not forgotten, by key.
    pub fn departed_pods(&self) -> impl Iterator<Item = &DepartedPod> {
        self.departed.values()
    }

    /// The names of the pods that departed since this was last asked: in the next plan, they are not subjects
    /// any more.
    pub fn take_departures(&mut self) -> Vec<NamespacedName> {
        std::mem::take(&mut self.departures)
    }

    /// Forgets departed pods, but for some. The next plan removes what they alone had.
    pub fn forget_departed(&mut self, keep: &BTreeSet<PodKey>) {
        let gone: Vec<PodKey> = self.departed.keys().filter(|key| !keep.contains(key)).copied().collect();
        for key in &gone {
            self.forget(*key);
        }
        if !gone.is_empty() {
            self.settle();
        }
    }

    fn forget(&mut self, key: PodKey) {
        if let Some(departed) = self.departed.remove(&key) {
            self.release_subject(&departed.subject);
        }
    }

    /// A pod in scope goes, and is kept: whoever enforces what it was keeps its classes in use.
    pub(super) fn depart(&mut self, key: PodKey, pod: &Arc<Pod>) {
        let Some(local) = self.locals.remove(&key) else { return };
        self.subjects.set(&local.id, None);
        self.departures.push(local.id);
        // It had gone before, and came back.
        self.forget(key);
        self.departed.insert(key, DepartedPod { key, pod: pod.clone(), subject: local.subject });
    }
}

/// Whether an object of the same name is another pod: one that was made after the first was gone, which
/// nobody told us.
pub(super) fn is_another(known: &Pod, new: &Pod) -> bool {
    if known.uid != 0 && new.uid != 0 {
        return known.uid != new.uid;
    }
    let both = !known.addresses.is_empty() && !new.addresses.is_empty();
    both && !known.addresses.iter().any(|address| new.addresses.contains(address))
}

//! What was there first: a veth that is older than a pod is not that pod's.
//!
//! The kernel does not say when a link was made. It was there when it was first seen, and a pod was there
//! when it was first heard of; but news of a pod may come late, and its `metadata.creationTimestamp` is by
//! the API server's clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postern_policy::PodKey;
use postern_policy::model::Pod;

/// How late news of a pod may be, or else how far behind the API server's clock this node's may be: a veth
/// counts as older only where it is by more than this, by both clocks.
const MARGIN: Duration = Duration::from_secs(10);

/// A point in time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    instant: Instant,
    /// Since 1970.
    wall: Duration,
}

impl Moment {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), wall }
    }

    #[cfg(test)]
    pub(super) fn later(self, by: Duration) -> Self {
        Self { instant: self.instant + by, wall: self.wall + by }
    }

    #[cfg(test)]
    pub(super) fn seconds(self) -> u64 {
        self.wall.as_secs()
    }
}

/// When a pod was heard of.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// None: it was there before this agent.
    at: Option<Moment>,
    /// How many looks at the links there had been.
    looks: u64,
}

/// When veths were first seen, and pods first heard of.
#[derive(Debug, Default)]
pub(super) struct Ages {
    veths: BTreeMap<u32, Moment>,
    pods: BTreeMap<PodKey, Heard>,
    looks: u64,
    /// All that was there before this agent has been heard.
    caught_up: bool,
}

impl Ages {
    pub(super) fn looked(&mut self, veths: impl Iterator<Item = u32>, now: Moment) {
        let mut before = std::mem::take(&mut self.veths);
        self.veths = veths.map(|veth| (veth, before.remove(&veth).unwrap_or(now))).collect();
        self.looks += 1;
    }

    pub(super) fn heard(&mut self, pods: impl Iterator<Item = PodKey>, now: Moment) {
        let mut before = std::mem::take(&mut self.pods);
        let heard = Heard { at: self.caught_up.then_some(now), looks: self.looks };
        self.pods = pods.map(|pod| (pod, before.remove(&pod).unwrap_or(heard))).collect();
    }

    /// From now on, who is heard of is new. Returns whether that is news.
    pub(super) fn catch_up(&mut self) -> bool {
        !std::mem::replace(&mut self.caught_up, true)
    }

    pub(super) fn is_from_before(&self, pod: PodKey) -> bool {
        self.pods.get(&pod).is_none_or(|heard| heard.at.is_none())
    }

    /// Whether the links have been looked at since a pod was heard of.
    pub(super) fn was_looked_for(&self, pod: PodKey) -> bool {
        self.pods.get(&pod).is_some_and(|heard| heard.looks < self.looks)
    }

    /// Whether a veth was surely there before a pod was.
    pub(super) fn is_older(&self, veth: u32, key: PodKey, pod: &Pod) -> bool {
        let (Some(seen), Some(Heard { at: Some(heard), .. })) = (self.veths.get(&veth), self.pods.get(&key))
        else {
            return false;
        };
        match pod.created {
            // A file: it is heard of when it is written.
            None => seen.instant < heard.instant,
            Some(created) => {
                seen.instant + MARGIN < heard.instant && seen.wall + MARGIN < Duration::from_secs(created)
            }
        }
    }
}

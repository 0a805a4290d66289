//! Isolated pods whose address no veth of this node shows, and how long the agent has waited for each.
//!
//! A veth that comes is found within milliseconds. One that does not is never coming: the pod's interface is no veth (SR-IOV,
//! macvlan, `host-device`), its object outlived its sandbox (a node that was started anew), or says another address than the
//! pod has. Waiting for it for ever would only keep the agent's own rollout from going on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postern_policy::model::NamespacedName;
use tracing::{info, warn};

use super::complaints::logged;

/// How long a pod without a veth keeps the agent from being ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pods, since when, and whether it was said that they have been waited for long enough.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<NamespacedName, Waiting>);

#[derive(Debug)]
struct Waiting {
    since: Instant,
    said: bool,
}

impl Pending {
    /// Takes in who has no veth now. A pod that was not among them begins anew.
    pub(super) fn update(&mut self, hidden: Vec<NamespacedName>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for pod in hidden {
            let waiting = before.remove(&pod).unwrap_or(Waiting { since: now, said: false });
            self.0.insert(pod, waiting);
        }
        for (pod, _) in before.iter().filter(|(_, waiting)| waiting.said) {
            info!(%pod, "the isolated pod's veth has been found, or need not be any more");
        }
    }

    /// Those whose veth may still come.
    pub(super) fn awaited(&self, now: Instant) -> impl Iterator<Item = &NamespacedName> {
        self.0.iter().filter(move |(_, waiting)| !waiting.is_over(now)).map(|(pod, _)| pod)
    }

    /// Those whose veth did not come in time: they are not enforced here.
    pub(super) fn given_up(&self, now: Instant) -> impl Iterator<Item = &NamespacedName> {
        self.0.iter().filter(move |(_, waiting)| waiting.is_over(now)).map(|(pod, _)| pod)
    }

    /// Logs, once, for whom the wait is over.
    pub(super) fn say(&mut self, now: Instant) {
        let over = self.0.iter_mut().filter(|(_, waiting)| !waiting.said && waiting.is_over(now));
        let over: Vec<String> = over
            .map(|(pod, waiting)| {
                waiting.said = true;
                not_enforced(pod)
            })
            .collect();
        logged(&over, |message| warn!("{message}"));
    }
}

impl Waiting {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PATIENCE
    }
}

/// What is wrong with a pod whose veth did not come.
pub(super) fn not_enforced(pod: &NamespacedName) -> String {
    format!(
        "Pod {pod} is isolated, and not enforced: no veth of this node has had its address for {} s; if its interface is no \
         veth, this agent cannot enforce it, and if its object is stale, delete it",
        PATIENCE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(names: &[&str]) -> Vec<NamespacedName> {
        names.iter().map(|name| NamespacedName::new("shop", *name)).collect()
    }

    #[test]
    fn each_pod_is_waited_for_by_itself_and_not_for_ever() {
        let begin = Instant::now();
        let mut pending = Pending::default();
        pending.update(pods(&["web"]), begin);
        let later = begin + PATIENCE / 2;
        pending.update(pods(&["web", "db"]), later);
        assert_eq!(pending.awaited(later).count(), 2);
        let over = begin + PATIENCE;
        pending.update(pods(&["web", "db"]), over);
        assert_eq!(pending.awaited(over).collect::<Vec<_>>(), pods(&["db"]).iter().collect::<Vec<_>>());
        assert_eq!(pending.given_up(over).collect::<Vec<_>>(), pods(&["web"]).iter().collect::<Vec<_>>());
        // Found, and gone again.
        pending.update(pods(&["db"]), over);
        pending.update(pods(&["web", "db"]), over);
        assert_eq!(pending.awaited(over).count(), 2);
    }

    #[test]
    fn what_is_given_up_is_said_once() {
        let begin = Instant::now();
        let mut pending = Pending::default();
        pending.update(pods(&["web"]), begin);
        pending.say(begin);
        assert!(!pending.0.values().any(|waiting| waiting.said));
        pending.say(begin + PATIENCE);
        assert!(pending.0.values().all(|waiting| waiting.said));
    }
}

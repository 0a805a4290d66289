//! Pods of a lab that come and go, as a container runtime has them.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};
use postern_policy::model::{NamespacedName, Pod};

use super::{Error, Lab};
use crate::helper::{self, Helper};
use crate::party::{Party, PartyId};
use crate::scenario::Snapshot;
use crate::working_copy::{Files, WorkingCopy};

impl Lab {
    /// What these files mean, read as the agents will read them.
    pub(super) fn snapshot(&self, files: &Files) -> Result<Snapshot, Error> {
        let mut preview = WorkingCopy::create(self.run.directory().join("preview"))?;
        let snapshot = preview.replace(files).map(|_| Snapshot::read(preview.directory()));
        // Made anew each time; the run's end removes it anyway.
        let _ = std::fs::remove_dir_all(preview.directory());
        Ok(snapshot??)
    }

    /// Brings pods up and down until exactly those of the snapshot run.
    ///
    /// # Errors
    /// Wires or helpers fail.
    pub async fn sync_pods(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let wanted: BTreeMap<_, _> =
            snapshot.running_pods().map(|pod| (pod.id.clone(), pod.clone())).collect();
        let stays = |pod: &Pod| wanted.get(&pod.id).is_some_and(|new| same_sandbox(pod, new));
        let gone: Vec<NamespacedName> =
            self.pods.values().filter(|pod| !stays(pod)).map(|pod| pod.id.clone()).collect();
        join_all(
            gone.iter().filter_map(|id| self.helpers.remove(&PartyId::Pod(id.clone()))).map(Helper::end),
        )
        .await;
        for id in &gone {
            self.topology.remove_pod(id)?;
            self.pods.remove(id);
        }
        let new: Vec<Pod> = wanted.values().filter(|pod| !self.pods.contains_key(&pod.id)).cloned().collect();
        for pod in &new {
            self.topology.add_pod(pod)?;
            tokio::task::yield_now().await;
        }
        self.start_helpers(new.iter().map(Party::of_pod).collect()).await?;
        self.pods = wanted;
        Ok(())
    }

    pub(super) async fn start_helpers(&mut self, parties: Vec<Party>) -> Result<(), Error> {
        let mut started = Vec::new();
        for party in parties {
            let netns = self.netns_of(&party.id)?;
            started.push((Helper::start(&self.programs.lab, netns, &party.id.to_string())?, party));
        }
        let serving = started.into_iter().map(|(mut helper, party)| async move {
            helper.serve(party.listens()).await?;
            Ok::<_, helper::Error>((party.id, helper))
        });
        self.helpers.extend(try_join_all(serving).await?);
        Ok(())
    }

    /// Has every party end its servers: whoever is let through is refused now.
    ///
    /// # Errors
    /// A helper cannot be started again.
    pub async fn stop_listening(&mut self) -> Result<(), Error> {
        join_all(std::mem::take(&mut self.helpers).into_values().map(Helper::end)).await;
        let silent = self.parties().into_iter().map(|party| Party { ports: Vec::new(), ..party });
        self.start_helpers(silent.collect()).await
    }
}

/// Whether a pod keeps its namespace and helper: labels may change in place, the rest makes another pod.
fn same_sandbox(old: &Pod, new: &Pod) -> bool {
    old.node == new.node
        && old.addresses == new.addresses
        && old.host_network == new.host_network
        && old.ports == new.ports
}

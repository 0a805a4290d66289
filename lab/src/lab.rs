//! A lab that runs: wires, helpers, agents, and the manifests they follow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use postern::manifests;
use postern_policy::model::{NamespacedName, Pod};

use crate::agent::{self, Agent};
use crate::helper::{self, Helper};
use crate::netns::Netns;
use crate::observe::{self, Observation};
use crate::party::{Party, PartyId};
use crate::prober::{Reply, Request, Sample, Target};
use crate::run::{self, Run};
use crate::scenario::{self, Scenario, Snapshot};
use crate::topology::{self, Topology};
use crate::working_copy::{self, Files, WorkingCopy};

/// The lab failed; policy has nothing to do with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// The wires.
    #[error(transparent)]
    Topology(#[from] topology::Error),
    /// The scenario.
    #[error(transparent)]
    Scenario(#[from] scenario::Error),
    /// A helper.
    #[error(transparent)]
    Helper(#[from] helper::Error),
    /// An agent.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// The manifests.
    #[error(transparent)]
    Files(#[from] working_copy::Error),
    /// Probing.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// A party that is not there.
    #[error("no {party} in this lab")]
    NoSuchParty {
        /// Who.
        party: PartyId,
    },
    /// The working copy's fingerprint.
    #[error("fingerprint of {path}: {error}", path = .path.display())]
    Digest {
        /// The working copy.
        path: PathBuf,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
}

/// What a lab runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `postern-lab` binary, for helpers.
    pub lab: PathBuf,
    /// The `postern` binary, for agents. `None`: no agents, and so no policy.
    pub postern: Option<PathBuf>,
}

/// How a change went.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// When the change was complete, on the monotonic clock.
    pub arrived_ns: u64,
    /// Per node, by the agent's own clock: from noticing the change to the last map write.
    pub enforced_in_ms: BTreeMap<String, f64>,
    /// From the change being complete until every agent said that it is enforced.
    pub waited: Duration,
}

/// A lab. Dropping it takes everything down.
#[derive(Debug)]
pub struct Lab {
    programs: Programs,
    scenario: Scenario,
    // Dropped in this order: processes, wires, state.
    agents: Vec<Agent>,
    helpers: BTreeMap<PartyId, Helper>,
    topology: Topology,
    copy: WorkingCopy,
    pods: BTreeMap<NamespacedName, Pod>,
    run: Run,
}

impl Lab {
    /// Builds the nodes and the hosts outside, and starts an agent on each node. Pods come with [`Self::apply`].
    ///
    /// # Errors
    /// Something cannot be built; all of it is taken down.
    pub async fn up(programs: Programs, scenario: Scenario) -> Result<Self, Error> {
        let run = Run::start()?;
        let topology = Topology::build(&run.netns_prefix(), &scenario)?;
        let copy = WorkingCopy::create(run.directory().join("manifests"))?;
        let (agents, helpers, pods) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut lab = Self { programs, scenario, agents, helpers, topology, copy, pods, run };
        let externals: Vec<Party> = lab.scenario.externals.iter().map(Party::of_external).collect();
        lab.start_helpers(externals).await?;
        if let Some(program) = lab.programs.postern.clone() {
            for (node, netns) in lab.topology.nodes() {
                lab.agents.push(Agent::start(node, netns, lab.agent_paths(&program, node))?);
            }
        }
        Ok(lab)
    }

    fn agent_paths(&self, program: &Path, node: &str) -> agent::Paths {
        let directory = self.run.directory();
        agent::Paths {
            program: program.to_owned(),
            launcher: self.programs.lab.clone(),
            manifests: self.copy.directory().to_owned(),
            bpffs: self.run.bpffs(node),
            socket: directory.join(format!("{node}.sock")),
            log: directory.join(format!("{node}.log")),
        }
    }

    /// Applies a whole directory, waits until it is enforced.
    ///
    /// # Errors
    /// It does not parse, or something fails.
    pub async fn apply_directory(&mut self, directory: &Path) -> Result<Applied, Error> {
        self.apply(&working_copy::read(directory)?).await
    }

    /// Makes these the manifests: takes away pods that vanished, brings up new ones, lets the agents know, waits until
    /// all of it is enforced.
    ///
    /// # Errors
    /// They do not parse, or something fails.
    pub async fn apply(&mut self, files: &Files) -> Result<Applied, Error> {
        let snapshot = self.snapshot(files)?;
        self.sync_pods(&snapshot).await?;
        let begin = Instant::now();
        let arrived_ns = self.copy.replace(files)?;
        let mut applied = self.enforced().await?;
        applied.arrived_ns = arrived_ns;
        applied.waited = begin.elapsed();
        Ok(applied)
    }

    /// Writes manifests as they are, parse or not, without touching pods or waiting. Returns when they were complete.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, files: &Files) -> Result<u64, Error> {
        Ok(self.copy.replace(files)?)
    }

    /// Waits until the working copy, as it is now, is enforced by every agent.
    ///
    /// # Errors
    /// An agent ended or takes too long.
    pub async fn enforced(&mut self) -> Result<Applied, Error> {
        let path = self.copy.directory().to_owned();
        let digest = manifests::digest(&path).map_err(|error| Error::Digest { path, error })?;
        let waiting = self.agents.iter_mut().map(|agent| {
            let digest = &digest;
            async move { Ok::<_, Error>((agent.node().to_owned(), agent.wait_for(digest).await?)) }
        });
        let statuses = try_join_all(waiting).await?;
        let times = statuses.into_iter().map(|(node, status)| (node, status.enforced_in_ms));
        Ok(Applied { enforced_in_ms: times.collect(), ..Applied::default() })
    }

    /// What these files mean, read as the agents will read them.
    fn snapshot(&self, files: &Files) -> Result<Snapshot, Error> {
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

    async fn start_helpers(&mut self, parties: Vec<Party>) -> Result<(), Error> {
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

    fn netns_of(&self, party: &PartyId) -> Result<&Netns, Error> {
        let netns = match party {
            PartyId::Pod(id) => self.topology.pod_netns(id),
            PartyId::External(name) => self.topology.external_netns(name),
        };
        netns.ok_or_else(|| Error::NoSuchParty { party: party.clone() })
    }

    /// Everyone who can talk now.
    #[must_use]
    pub fn parties(&self) -> Vec<Party> {
        let externals = self.scenario.externals.iter().map(Party::of_external);
        self.pods.values().map(Party::of_pod).chain(externals).collect()
    }

    /// Probes everyone from everyone.
    ///
    /// # Errors
    /// A helper fails, or a probe in a way that policy cannot explain.
    pub async fn observe(&mut self) -> Result<Observation, Error> {
        let parties = self.parties();
        Ok(observe::observe(&parties, &mut self.helpers).await?)
    }

    /// Starts probing one target from one party again and again.
    ///
    /// # Errors
    /// There is no such party.
    pub async fn watch(&mut self, from: &PartyId, target: Target, every: Duration) -> Result<(), Error> {
        let interval_us = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
        self.helper(from)?.request(&Request::Watch { target, interval_us }).await?;
        Ok(())
    }

    /// Ends the watch from that party and returns what it saw.
    ///
    /// # Errors
    /// There is no such party or no watch.
    pub async fn end_watch(&mut self, from: &PartyId) -> Result<Vec<Sample>, Error> {
        match self.helper(from)?.request(&Request::EndWatch).await? {
            Reply::Watched(samples) => Ok(samples),
            _ => Ok(Vec::new()),
        }
    }

    fn helper(&mut self, party: &PartyId) -> Result<&mut Helper, Error> {
        self.helpers.get_mut(party).ok_or_else(|| Error::NoSuchParty { party: party.clone() })
    }

    /// Ends all helpers: nothing listens any more.
    pub async fn end_helpers(&mut self) {
        join_all(std::mem::take(&mut self.helpers).into_values().map(Helper::end)).await;
    }

    /// The agents.
    pub fn agents_mut(&mut self) -> &mut [Agent] {
        &mut self.agents
    }

    /// The wires.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The manifests that the agents read.
    #[must_use]
    pub fn files(&self) -> &Files {
        self.copy.files()
    }

    /// The run's state.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Nodes by name.
    #[must_use]
    pub fn node_names(&self) -> BTreeSet<String> {
        self.topology.nodes().map(|(name, _)| name.to_owned()).collect()
    }
}

/// Whether a pod keeps its namespace and helper: labels may change in place, the rest makes another pod.
fn same_sandbox(old: &Pod, new: &Pod) -> bool {
    old.node == new.node
        && old.addresses == new.addresses
        && old.host_network == new.host_network
        && old.ports == new.ports
}

//! A lab that runs: wires, helpers, agents, and the manifests they follow.

mod agents;
mod pods;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_policy::model::{NamespacedName, Object, Pod};

use crate::agent::{self, Agent};
use crate::feed;
use crate::helper::{self, Helper};
use crate::netns::Netns;
use crate::observe::{self, Observation};
use crate::party::{Party, PartyId};
use crate::prober::{Outcome, Reply, Request, Sample, Target};
use crate::run::{self, Run};
use crate::scenario::{self, Scenario};
use crate::services::{Table, rows};
use crate::sysctl;
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
    /// Rules for Services.
    #[error(transparent)]
    Rules(#[from] feed::Error),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
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

/// How fast one party probes alone.
const PROBES_PER_SECOND: u32 = 1_000;

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
    /// The objects that Services are made of, as last applied.
    objects: Vec<Object>,
    /// What each node translates by, once it does.
    rules: BTreeMap<String, Table>,
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
        let (objects, rules) = (Vec::new(), BTreeMap::new());
        let mut lab = Self { programs, scenario, agents, helpers, topology, copy, pods, objects, rules, run };
        let externals: Vec<Party> = lab.scenario.externals.iter().map(Party::of_external).collect();
        lab.start_helpers(externals).await?;
        lab.start_agents()?;
        Ok(lab)
    }

    /// Applies a whole directory, waits until it is enforced.
    ///
    /// # Errors
    /// It does not parse, or something fails.
    pub async fn apply_directory(&mut self, directory: &Path) -> Result<Applied, Error> {
        self.apply(&working_copy::read_tree(directory)?).await
    }

    /// Makes these the manifests: takes away pods that vanished, brings up new ones, lets the agents know, waits until
    /// all of it is enforced.
    ///
    /// # Errors
    /// They do not parse, or something fails.
    pub async fn apply(&mut self, files: &Files) -> Result<Applied, Error> {
        let snapshot = self.snapshot(files)?;
        self.sync_pods(&snapshot).await?;
        self.sync_services(&snapshot)?;
        let begin = Instant::now();
        let arrived_ns = self.copy.replace(files)?;
        let mut applied = self.enforced().await?;
        applied.arrived_ns = arrived_ns;
        applied.waited = begin.elapsed();
        Ok(applied)
    }

    /// Makes these the manifests, and brings pods up and down, without waiting for the agents.
    ///
    /// # Errors
    /// They do not parse, or something fails.
    pub async fn follow(&mut self, files: &Files) -> Result<(), Error> {
        let snapshot = self.snapshot(files)?;
        self.sync_pods(&snapshot).await?;
        self.sync_services(&snapshot)?;
        self.copy.replace(files)?;
        Ok(())
    }

    /// Writes manifests as they are, parse or not, without touching pods or waiting. Returns when they were complete.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, files: &Files) -> Result<u64, Error> {
        Ok(self.copy.replace(files)?)
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
        let rows = rows(&self.objects);
        let forget = || services::forget_affinity(&self.topology, &self.rules);
        Ok(observe::observe(&parties, &rows, &mut self.helpers, &forget).await?)
    }

    /// Probes these targets once each, from one party, at a bounded rate.
    ///
    /// # Errors
    /// There is no such party.
    pub async fn probe(
        &mut self,
        from: &PartyId,
        targets: Vec<Target>,
        patience: Duration,
    ) -> Result<Vec<Outcome>, Error> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Probe { patience_ms, per_second: PROBES_PER_SECOND, targets };
        match self.helper(from)?.request(&request).await? {
            Reply::Outcomes { outcomes, .. } => Ok(outcomes),
            _ => Ok(Vec::new()),
        }
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

    /// The agent of a node.
    #[must_use]
    pub fn agent(&self, node: &str) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.node() == node)
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

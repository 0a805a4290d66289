//! A lab whose agents watch a real API server, into which the lab's manifests are mirrored: real wires and real programs,
//! with pods that are "running" because the mirror says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postern::control::Status;
use postern_lab::agent::{self, Agent, Origin, Paths};
use postern_lab::lab::{self, Lab, Programs};
use postern_lab::scenario::{self, Scenario, Snapshot};
use postern_lab::working_copy::{self, Files, WorkingCopy};
use serde_json::json;

use crate::control_plane::{self, ControlPlane};
use crate::faulty::{self, Faulty};
use crate::mirror::{self, Mark, Mirror};
use crate::relay::Relay;

/// The world cannot be built, or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Control(#[from] control_plane::Error),
    /// The way there.
    #[error(transparent)]
    Faulty(#[from] faulty::Error),
    /// The wires.
    #[error(transparent)]
    Lab(#[from] lab::Error),
    /// The manifests.
    #[error(transparent)]
    Scenario(#[from] scenario::Error),
    /// Their files.
    #[error(transparent)]
    Files(#[from] working_copy::Error),
    /// A place for them.
    #[error("temporary folder: {0}")]
    Folder(#[from] std::io::Error),
    /// Writing them to the API server.
    #[error(transparent)]
    Mirror(#[from] mirror::Error),
    /// An agent.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// A node that the lab does not have.
    #[error("no node {0} in this lab")]
    NoSuchNode(String),
}

/// A control plane, a way to it from here, and what was written through it.
#[derive(Debug)]
pub struct Api {
    /// What was written.
    pub mirror: Mirror,
    /// The way.
    pub relay: Relay,
    /// etcd and kube-apiserver.
    pub control: ControlPlane,
}

/// How agents reach the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Byte by byte.
    Relay,
    /// Through a proxy that can misbehave.
    Faulty,
}

/// The binaries that a world runs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `postern`
    pub postern: PathBuf,
    /// `postern-lab`
    pub lab: PathBuf,
}

/// Everything that runs. Dropped from top to bottom.
#[derive(Debug)]
pub struct World<'a> {
    /// One a node.
    pub agents: Vec<Agent>,
    /// The wires.
    pub lab: Lab,
    /// With [`Via::Faulty`], one a node.
    pub faulty: Vec<Faulty>,
    /// With [`Via::Relay`], one a node.
    pub relays: Vec<Relay>,
    /// Whom the agents ask.
    pub api: &'a mut Api,
    binaries: Binaries,
}

/// Parses files as a scenario.
///
/// # Errors
/// They do not parse.
pub fn snapshot(files: &Files) -> Result<Snapshot, Error> {
    let folder = tempfile::tempdir()?;
    WorkingCopy::create(folder.path().join("copy"))?.replace(files)?;
    Ok(Snapshot::read(&folder.path().join("copy"))?)
}

impl<'a> World<'a> {
    /// Lays the wires for all these states, and starts an agent on each node.
    ///
    /// # Errors
    /// Something cannot be built; all of it is taken down.
    pub async fn up(
        api: &'a mut Api,
        binaries: Binaries,
        states: &[&Files],
        via: Via,
    ) -> Result<Self, Error> {
        let mut world = Self::without_agents(api, binaries, states).await?;
        for node in world.lab.node_names() {
            let kubeconfig = world.way(&node, via)?;
            world.start_agent(&node, &kubeconfig)?;
        }
        Ok(world)
    }

    /// The same without agents.
    ///
    /// # Errors
    /// Something cannot be built; all of it is taken down.
    pub async fn without_agents(
        api: &'a mut Api,
        binaries: Binaries,
        states: &[&Files],
    ) -> Result<Self, Error> {
        let programs = Programs { lab: binaries.lab.clone(), postern: None };
        let snapshots = states.iter().map(|files| snapshot(files)).collect::<Result<Vec<_>, _>>()?;
        let lab = Lab::up(programs, Scenario::covering(&snapshots)?).await?;
        Ok(Self { agents: Vec::new(), lab, faulty: Vec::new(), relays: Vec::new(), api, binaries })
    }

    /// Opens a way from a node to the API server. Returns the kubeconfig that goes it.
    ///
    /// # Errors
    /// No such node, or no sockets.
    pub fn way(&mut self, node: &str, via: Via) -> Result<PathBuf, Error> {
        let found = self.lab.topology().nodes().find(|(name, _)| *name == node);
        let (_, netns) = found.ok_or_else(|| Error::NoSuchNode(node.to_owned()))?;
        match via {
            Via::Relay => {
                let relay = self.api.control.relay_from(netns)?;
                let path = relay.kubeconfig().to_owned();
                self.relays.push(relay);
                Ok(path)
            }
            Via::Faulty => {
                let path = self.lab.run().directory().join(format!("{node}.kubeconfig"));
                let faulty = Faulty::start(netns, self.api.relay.kubeconfig(), path)?;
                let path = faulty.kubeconfig().to_owned();
                self.faulty.push(faulty);
                Ok(path)
            }
        }
    }

    /// Starts the agent of a node.
    ///
    /// # Errors
    /// No such node, or the process does not start.
    pub fn start_agent(&mut self, node: &str, kubeconfig: &Path) -> Result<(), Error> {
        let directory = self.lab.run().directory();
        let paths = Paths {
            program: self.binaries.postern.clone(),
            launcher: self.binaries.lab.clone(),
            origin: Origin::Kubeconfig(kubeconfig.to_owned()),
            bpffs: self.lab.run().bpffs(node),
            socket: directory.join(format!("{node}.sock")),
            log: directory.join(format!("{node}.log")),
        };
        let found = self.lab.topology().nodes().find(|(name, _)| *name == node);
        let (_, netns) = found.ok_or_else(|| Error::NoSuchNode(node.to_owned()))?;
        self.agents.push(Agent::start(node, netns, paths, &[])?);
        Ok(())
    }

    /// These files, and the nodes that the lab has and they leave out.
    #[must_use]
    pub fn with_nodes(&self, files: &Files) -> Files {
        let mut files = files.clone();
        for (name, _) in self.lab.topology().nodes() {
            let address =
                |address: &std::net::IpAddr| json!({ "type": "InternalIP", "address": address.to_string() });
            let addresses: Vec<_> = self.lab.topology().node_addresses(name).iter().map(address).collect();
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
                "status": { "addresses": addresses } });
            files.entry(format!("node-{name}.json")).or_insert_with(|| node.to_string().into_bytes());
        }
        files
    }

    /// Writes these objects to the API server and brings pods up and down, without waiting for the agents. Returns a
    /// mark for each kind that was written.
    ///
    /// # Errors
    /// They do not parse, or cannot be written.
    pub async fn write(&mut self, files: &Files) -> Result<BTreeMap<String, Mark>, Error> {
        self.lab.follow(files).await?;
        let files = self.with_nodes(files);
        Ok(self.api.mirror.apply(&files).await?)
    }

    /// The same, and waits until every agent has heard of all of it and enforces it.
    ///
    /// # Errors
    /// They do not parse, cannot be written, or are not enforced in time.
    pub async fn apply(&mut self, files: &Files) -> Result<(), Error> {
        let marks = self.write(files).await?;
        for agent in &mut self.agents {
            agent.wait_until(|status| status.ready && heard(status, &marks)).await?;
        }
        Ok(())
    }

    /// The lab's nodes.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<String> {
        self.lab.node_names()
    }
}

impl Api {
    /// Starts a control plane.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(options: &control_plane::Options) -> Result<Self, Error> {
        let mut control = ControlPlane::start(options)?;
        let relay = control.relay()?;
        Ok(Self { mirror: Mirror::new(relay.kubeconfig()), relay, control })
    }
}

/// Whether an agent's watches have come to these marks.
#[must_use]
pub fn heard(status: &Status, marks: &BTreeMap<String, Mark>) -> bool {
    marks.iter().all(|(kind, mark)| {
        status.watches.iter().filter(|watch| watch.kind == *kind).any(|watch| {
            watch.version.parse().is_ok_and(|version: u64| version >= mark.version)
                && mark.objects.is_none_or(|objects| watch.objects == objects)
        })
    })
}

//! The one cluster that `up` keeps alive: a supervisor process owns it, and a file says who that is and what is where.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_lab::process::Identity;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Options};
use crate::control_plane::ControlPlane;
use crate::files;
use crate::node::{Cni, Node, ProxyMode};
use crate::run::{self, STATE};

/// How long the supervisor may take to take everything down.
const DOWN_PATIENCE: Duration = Duration::from_secs(30);

/// Why there is nothing to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None is up.
    #[error("no cluster is up; `cargo xtask cluster up` brings one up")]
    NoCluster,
    /// One is up already.
    #[error("a cluster is up already (process {pid}); `cargo xtask cluster down` takes it down")]
    Already {
        /// Its supervisor.
        pid: i32,
    },
    /// A target that is not there.
    #[error("no {target} in this cluster; there are: control, {known}")]
    NoTarget {
        /// What was asked for.
        target: String,
        /// What there is.
        known: String,
    },
    /// The supervisor does not end.
    #[error("process {pid} does not end")]
    Stuck {
        /// The supervisor.
        pid: i32,
    },
    /// The file.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What is kept, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The process that holds it.
    pub supervisor: Identity,
    /// Configuration and logs.
    pub state: PathBuf,
    /// The administrator's kubeconfig, for processes in the control plane's network namespace.
    pub kubeconfig: PathBuf,
    /// The control plane's network namespace.
    pub netns: PathBuf,
    /// How pods are attached.
    pub cni: Cni,
    /// How Services are done.
    pub proxy_mode: ProxyMode,
    /// The nodes; none when only the control plane is up.
    pub nodes: Vec<KeptNode>,
}

/// A node of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptNode {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The socket of its containerd.
    pub socket: PathBuf,
    /// Its first process, for `nsenter`.
    pub init: Option<i32>,
}

impl Kept {
    /// Describes a cluster.
    #[must_use]
    pub fn describe(cluster: &mut Cluster, options: &Options, supervisor: Identity) -> Self {
        let nodes = cluster.nodes().iter().map(KeptNode::describe).collect();
        Self { nodes, ..Self::describe_control_plane(cluster.control(), options, supervisor) }
    }

    /// Describes a control plane without nodes.
    #[must_use]
    pub fn describe_control_plane(control: &ControlPlane, options: &Options, supervisor: Identity) -> Self {
        Self {
            supervisor,
            state: control.state(),
            kubeconfig: control.kubeconfig(),
            netns: control.netns().path(),
            cni: options.cni,
            proxy_mode: options.proxy_mode,
            nodes: Vec::new(),
        }
    }

    /// The cluster that is up.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, Error> {
        let text = fs::read(file()).map_err(|_| Error::NoCluster)?;
        let kept: Self = serde_json::from_slice(&text).map_err(|_| Error::NoCluster)?;
        if kept.supervisor.is_alive() { Ok(kept) } else { Err(Error::NoCluster) }
    }

    /// Fails when one is up.
    ///
    /// # Errors
    /// One is up.
    pub fn none_yet() -> Result<(), Error> {
        match Self::find() {
            Ok(kept) => Err(Error::Already { pid: kept.supervisor.pid }),
            Err(_) => Ok(()),
        }
    }

    /// Writes the file, as a whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> Result<(), Error> {
        let path = file();
        let new = path.with_extension("new");
        files::write(&new, serde_json::to_vec_pretty(self).unwrap_or_default())?;
        Ok(fs::rename(&new, &path).map_err(files::Error::on("write", &path))?)
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node(&self, name: &str) -> Result<&KeptNode, Error> {
        let names = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| Error::NoTarget { target: name.to_owned(), known: names() })
    }

    /// Ends the supervisor, which takes everything down; sweeps what it leaves.
    ///
    /// # Errors
    /// It does not end.
    pub fn take_down(&self) -> Result<(), Error> {
        let ended = self.supervisor.end(DOWN_PATIENCE);
        forget();
        run::sweep();
        if ended { Ok(()) } else { Err(Error::Stuck { pid: self.supervisor.pid }) }
    }
}

impl KeptNode {
    fn describe(node: &Node) -> Self {
        Self {
            name: node.name().to_owned(),
            netns: node.netns().to_owned(),
            socket: node.socket().to_owned(),
            init: node.init(),
        }
    }
}

/// Removes the file.
pub fn forget() {
    // It may never have been written.
    let _ = fs::remove_file(file());
    let _ = fs::remove_file(log_file());
}

/// Where the supervisor's messages go.
#[must_use]
pub fn log_file() -> PathBuf {
    Path::new(STATE).join("up.log")
}

fn file() -> PathBuf {
    Path::new(STATE).join("up.json")
}

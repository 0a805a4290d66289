//! The one lab that `up` keeps alive: a supervisor process owns it, and a file says who that is and what is where.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::party::PartyId;
use crate::process::Identity;
use crate::run::{self, STATE};

/// How long the supervisor may take to take everything down.
const DOWN_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is nothing to work with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No lab is up.
    #[error("no lab is up; `cargo xtask lab up -f DIR` brings one up")]
    NoLab,
    /// One is up already.
    #[error("a lab is up already (process {pid}, {directory}); `cargo xtask lab down` takes it down", directory = .directory.display())]
    Already {
        /// Its supervisor.
        pid: i32,
        /// Its scenario.
        directory: PathBuf,
    },
    /// A target that is not there.
    #[error("no {target} in this lab; there are: {}", .known.join(", "))]
    NoTarget {
        /// What was asked for.
        target: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The supervisor does not end.
    #[error("process {pid} does not end")]
    Stuck {
        /// The supervisor.
        pid: i32,
    },
    /// The file failed.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// What is kept, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The process that holds it.
    pub supervisor: Identity,
    /// The scenario that it follows.
    pub directory: PathBuf,
    /// State of the run: logs, control sockets, pinned maps.
    pub state: PathBuf,
    /// The nodes.
    pub nodes: Vec<String>,
    /// Namespace files, by `NAMESPACE/POD`, `external/NAME` and `node/NAME`.
    pub namespaces: BTreeMap<String, PathBuf>,
}

impl Kept {
    /// Describes a lab.
    #[must_use]
    pub fn describe(lab: &Lab, supervisor: Identity, directory: &Path) -> Self {
        let topology = lab.topology();
        let nodes: Vec<String> = topology.nodes().map(|(name, _)| name.to_owned()).collect();
        let of_nodes = topology.nodes().map(|(name, netns)| (format!("node/{name}"), netns.path()));
        let of_parties = lab.parties().into_iter().filter_map(|party| {
            let netns = match &party.id {
                PartyId::Pod(id) => topology.pod_netns(id),
                PartyId::External(name) => topology.external_netns(name),
            };
            Some((party.id.to_string(), netns?.path()))
        });
        Self {
            supervisor,
            directory: directory.to_owned(),
            state: lab.run().directory().to_owned(),
            nodes,
            namespaces: of_nodes.chain(of_parties).collect(),
        }
    }

    /// The lab that is up.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, Error> {
        let text = fs::read(file()).map_err(|_| Error::NoLab)?;
        let kept: Self = serde_json::from_slice(&text).map_err(|_| Error::NoLab)?;
        if kept.supervisor.is_alive() { Ok(kept) } else { Err(Error::NoLab) }
    }

    /// Fails when one is up.
    ///
    /// # Errors
    /// One is up.
    pub fn none_yet() -> Result<(), Error> {
        match Self::find() {
            Ok(kept) => Err(Error::Already { pid: kept.supervisor.pid, directory: kept.directory }),
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
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| Error::File { path, error })
    }

    /// The namespace file of a target.
    ///
    /// # Errors
    /// There is no such target.
    pub fn namespace(&self, target: &str) -> Result<&Path, Error> {
        let found = self.namespaces.get(target).map(PathBuf::as_path);
        found.ok_or_else(|| Error::NoTarget {
            target: target.to_owned(),
            known: self.namespaces.keys().cloned().collect(),
        })
    }

    /// The control socket of a node's agent.
    #[must_use]
    pub fn socket(&self, node: &str) -> PathBuf {
        self.state.join(format!("{node}.sock"))
    }

    /// Ends the supervisor, which takes everything down; sweeps what it leaves.
    ///
    /// # Errors
    /// It does not end.
    pub fn take_down(&self) -> Result<(), Error> {
        let ended = self.supervisor.end(DOWN_PATIENCE);
        run::sweep();
        forget();
        if ended { Ok(()) } else { Err(Error::Stuck { pid: self.supervisor.pid }) }
    }
}

/// Removes the file.
pub fn forget() {
    // It may never have been written.
    let _ = fs::remove_file(file());
}

fn file() -> PathBuf {
    Path::new(STATE).join("up.json")
}

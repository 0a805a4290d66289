//! One run on this machine: its name, its folders, and the clean-up that the next run does for one that was killed.
//!
//! Everything a run makes carries its name: network namespaces start with [`Run::prefix`], cgroups are below one of that
//! name, files live in `/run/postern-cluster/NAME` and `/var/lib/postern-cluster/NAME`. Mounts are made only in the mount
//! namespaces of its own processes, and go with them.

mod cgroups;
mod processes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use postern_lab::netns;
use postern_lab::process::Identity;

use crate::files;

pub use cgroups::Error as CgroupError;

/// Where runs keep configuration, logs and sockets.
pub const STATE: &str = "/run/postern-cluster";
/// Where runs keep what is large: images and containers.
const DATA: &str = "/var/lib/postern-cluster";

/// A run in progress. Dropping it removes all that it made.
#[derive(Debug)]
pub struct Run {
    name: String,
}

impl Run {
    /// Sweeps after runs that were killed, and starts a new one.
    ///
    /// # Errors
    /// Its folders cannot be made (not root).
    pub fn start() -> Result<Self, files::Error> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let name = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let run = Self { name };
        // Another run that ends at this moment removes the folder above.
        while let Err(error) = files::create_folder(&run.state()) {
            if error.error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
        }
        let owner = serde_json::to_vec(&Identity::own()).unwrap_or_default();
        files::write(&run.state().join("owner.json"), owner)?;
        files::create_folder(&run.data())?;
        Ok(run)
    }

    /// The folder for configuration, logs and sockets.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new(STATE).join(&self.name)
    }

    /// The folder for what is large.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        Path::new(DATA).join(&self.name)
    }

    /// What the names of this run's namespaces start with.
    #[must_use]
    pub fn prefix(&self) -> String {
        prefix(&self.name)
    }

    /// Makes a cgroup for a node, in every hierarchy there is, and returns its path below their roots.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_cgroup(&self, node: &str) -> Result<String, CgroupError> {
        cgroups::make(&cgroup(&self.name), node)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what runs left behind whose process is gone.
pub fn sweep() {
    for folder in [STATE, DATA] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let is_run = name.split_once('-').is_some_and(|(pid, _)| pid.parse::<i32>().is_ok());
            if is_run && owner(&name).is_none() {
                remove(&name);
            }
        }
    }
}

/// The live process that a run belongs to.
fn owner(run: &str) -> Option<Identity> {
    let text = fs::read(Path::new(STATE).join(run).join("owner.json"));
    match text.ok().and_then(|text| serde_json::from_slice::<Identity>(&text).ok()) {
        Some(identity) => identity.is_alive().then_some(identity),
        // Just being made, or died while being made: its name tells.
        None => Identity::of(run.split_once('-')?.0.parse().ok()?),
    }
}

fn prefix(run: &str) -> String {
    format!("pstnc-{run}-")
}

fn cgroup(run: &str) -> String {
    format!("pstnc-{run}")
}

/// Processes first: they hold all the rest. The state folder last: it is what the next sweep looks for.
fn remove(run: &str) {
    let namespaces = netns::names_with_prefix(&prefix(run));
    processes::kill_within(&namespaces);
    for name in &namespaces {
        if let Err(error) = netns::delete(name) {
            eprintln!("postern-cluster: {error}");
        }
    }
    cgroups::remove(&cgroup(run));
    for folder in [DATA, STATE] {
        let path = Path::new(folder).join(run);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("postern-cluster: remove {}: {error}", path.display());
            }
            _ => {}
        }
        // The last run leaves nothing at all; others still need it.
        let _ = fs::remove_dir(folder);
    }
}

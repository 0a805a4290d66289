//! One run of the lab on this machine: its name, its state folder, and the clean-up that the next run does for one that
//! was killed.
//!
//! Everything a run makes carries its name: namespaces start with [`Run::netns_prefix`], files live below
//! `/run/postern-lab/NAME`, pinned BPF objects in a BPF file system mounted there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::process::Identity;
use crate::topology;

/// Where runs keep their state.
pub const STATE: &str = "/run/postern-lab";

/// The state folder failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {error}", path = .path.display())]
pub struct Error {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub error: io::Error,
}

/// A run in progress. Dropping it removes its state folder.
#[derive(Debug)]
pub struct Run {
    name: String,
    directory: PathBuf,
}

impl Run {
    /// Sweeps after runs that were killed, and starts a new one.
    ///
    /// # Errors
    /// The state folder or the BPF file system cannot be made (not root).
    pub fn start() -> Result<Self, Error> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let directory = Path::new(STATE).join(&name);
        let failed = |step| {
            let path = directory.clone();
            move |error| Error { step, path, error }
        };
        fs::create_dir_all(STATE).map_err(failed("create"))?;
        // A run of an earlier boot's process may have had our pid.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(failed("create"))?;
        let run = Self { name, directory: directory.clone() };
        let owner = serde_json::to_vec(&Identity::own()).unwrap_or_default();
        fs::write(run.directory.join("owner.json"), owner).map_err(failed("write owner.json in"))?;
        let bpf = run.directory.join("bpf");
        fs::create_dir(&bpf).map_err(failed("create bpf in"))?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| failed("mount the BPF file system in")(errno.into()))?;
        Ok(run)
    }

    /// The state folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the names of this run's namespaces start with.
    #[must_use]
    pub fn netns_prefix(&self) -> String {
        netns_prefix(&self.name)
    }

    /// Where a node's agent pins its programs and maps.
    #[must_use]
    pub fn bpffs(&self, node: &str) -> PathBuf {
        self.directory.join("bpf").join(node)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what runs left behind whose process is gone.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(STATE) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let is_run = name.split_once('-').is_some_and(|(pid, _)| pid.parse::<i32>().is_ok());
        if is_run && owner(&name).is_none() {
            remove(&name);
        }
    }
}

/// The live process that a run belongs to.
#[must_use]
pub fn owner(run: &str) -> Option<Identity> {
    let text = fs::read(Path::new(STATE).join(run).join("owner.json"));
    match text.ok().and_then(|text| serde_json::from_slice::<Identity>(&text).ok()) {
        Some(identity) => identity.is_alive().then_some(identity),
        // Just being made, or died while being made: its name tells.
        None => Identity::of(run.split_once('-')?.0.parse().ok()?),
    }
}

fn netns_prefix(run: &str) -> String {
    format!("pstn-{run}-")
}

fn remove(run: &str) {
    topology::remove_namespaces(&netns_prefix(run));
    let directory = Path::new(STATE).join(run);
    match umount2(&directory.join("bpf"), MntFlags::MNT_DETACH) {
        // Not mounted, or another run swept it first.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => {
            eprintln!("postern-lab: unmount {}: {errno}", directory.join("bpf").display());
            return;
        }
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("postern-lab: remove {}: {error}", directory.display());
        }
        _ => {}
    }
}

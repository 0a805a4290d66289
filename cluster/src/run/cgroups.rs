//! Cgroups of a run, in each hierarchy of a version 1 system, or in the one of version 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Where cgroup file systems are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The kernel takes a moment to empty a group whose processes were killed.
const ATTEMPTS: u32 = 100;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A cgroup could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {error}", path = .path.display())]
pub struct Error {
    /// The folder.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

/// Makes `/RUN/NODE` in every hierarchy, usable at once, and returns that path.
pub(super) fn make(run: &str, node: &str) -> Result<String, Error> {
    for hierarchy in hierarchies() {
        for path in [hierarchy.join(run), hierarchy.join(run).join(node)] {
            let failed = |error| Error { path: path.clone(), error };
            fs::create_dir_all(&path).map_err(failed)?;
            // Version 1: a group starts without processors and memory, and takes no process before it has some.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (own, above) = (path.join(file), path.join("..").join(file));
                if own.exists() {
                    let inherited = fs::read(&above).map_err(failed)?;
                    fs::write(&own, inherited).map_err(failed)?;
                }
            }
        }
    }
    Ok(format!("/{run}/{node}"))
}

/// Removes `/RUN` from every hierarchy. All its processes are gone, or about to be.
pub(super) fn remove(run: &str) {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(run);
        if path.exists()
            && let Err(error) = remove_tree(&path)
        {
            eprintln!("postern-cluster: remove cgroup {}: {error}", path.display());
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("cgroup.procs").exists() && !is_link(path))
        .collect()
}

/// Files of a cgroup cannot be removed, and need not be: folders go from the bottom up.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    for _ in 1..ATTEMPTS {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(PAUSE),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    fs::remove_dir(path)
}

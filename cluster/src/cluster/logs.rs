//! Logs of a cluster that did not come up: all else is removed, they are kept until the next one does not.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs;

/// Copies the logs of a run.
pub(super) fn save(state: &Path) {
    let Some(to) = folder() else { return };
    // There are none yet.
    let _ = fs::remove_dir_all(&to);
    if let Err(error) = copy(&state.join("logs"), &to) {
        eprintln!("postern-cluster: keep the logs in {}: {error}", to.display());
    }
}

/// Where they are.
pub(super) fn kept() -> String {
    folder().unwrap_or_default().display().to_string()
}

fn folder() -> Option<PathBuf> {
    Some(programs::cache().ok()?.join("cluster-logs"))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

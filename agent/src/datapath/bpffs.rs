//! The BPF file system, where maps and links outlive the agent.

use std::fs::{DirBuilder, create_dir_all};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where distributions mount it.
const USUAL: &str = "/sys/fs/bpf";

/// Why there is no place for pins.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// The folder is on another file system.
    #[error(
        "{} is not on a BPF file system; mount one (mount -t bpf bpf {USUAL}) or name a folder below it with --bpffs-dir",
        .0.display()
    )]
    NotBpffs(PathBuf),
    /// Mounting failed.
    #[error(
        "mounting a BPF file system on {USUAL} failed: {0}; the agent needs CAP_SYS_ADMIN, or mount it beforehand"
    )]
    Mount(nix::Error),
    /// The folder cannot be made or looked at.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Makes a folder for pins that nobody else may enter. Mounts the BPF file system in its usual place when the folder
/// lies there and nothing is mounted yet.
///
/// # Errors
///
/// See [`BpffsError`].
pub fn prepare(folder: &Path) -> Result<(), BpffsError> {
    if !is_bpffs(folder)? {
        if !folder.starts_with(USUAL) || is_bpffs(Path::new(USUAL))? {
            return Err(BpffsError::NotBpffs(folder.to_owned()));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), USUAL, Some("bpf"), flags, Some("mode=0700")).map_err(BpffsError::Mount)?;
    }
    let failed = |source| BpffsError::Folder { path: folder.to_owned(), source };
    if let Some(parent) = folder.parent() {
        create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Whether a folder, or what exists of the path to it, is on a BPF file system.
fn is_bpffs(folder: &Path) -> Result<bool, BpffsError> {
    let existing = folder.ancestors().find(|it| it.exists()).unwrap_or(folder);
    let stat = statfs(existing)
        .map_err(|errno| BpffsError::Folder { path: existing.to_owned(), source: errno.into() })?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

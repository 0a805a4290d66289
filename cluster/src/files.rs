//! Files and folders, with errors that name them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file or folder failed.
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

impl Error {
    /// What to give `map_err`.
    pub fn on(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self { step, path, error }
    }
}

/// Writes a file, and the folders above it.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    fs::write(path, content).map_err(Error::on("write", path))
}

/// Makes a folder, and those above it.
///
/// # Errors
/// It cannot be made.
pub fn create_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::on("create", path))
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

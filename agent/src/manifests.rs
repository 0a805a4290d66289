//! A folder of ordinary Kubernetes YAML as the source of cluster state: no API server needed.
//!
//! [`load`] reads it once; [`Source`] keeps reading it and turns edits into changes, with the memory that broken files
//! need: what was good stays until its file says otherwise.

mod digest;
mod document;
mod error;
pub mod lab;
mod source;
mod watch;

#[cfg(test)]
mod tests;

use std::path::Path;

use postern_policy::model::Object;

pub use self::digest::digest;
pub use self::error::ManifestError;
pub use self::source::{Reading, Source};
pub use self::watch::{Watch, watch};

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// `lab.yaml`, where there is one.
    pub lab: Option<lab::LabFile>,
}

/// Reads a folder: every `*.yaml`, `*.yml` and `*.json` in it, not below it, hidden files left out.
///
/// # Errors
///
/// Everything that is wrong, at once: files that cannot be read, documents that cannot be parsed, fields that cannot
/// be meant, and names used twice.
pub fn load(folder: &Path) -> Result<Loaded, Vec<ManifestError>> {
    let mut source = Source::new(folder);
    let errors = source.read().errors;
    let lab = lab::load(folder);
    match (errors.is_empty(), lab) {
        (true, Ok(lab)) => Ok(Loaded { objects: source.into_objects(), lab }),
        (_, Ok(_)) => Err(errors),
        (_, Err(error)) => Err(errors.into_iter().chain([error]).collect()),
    }
}

/// Whether a file of this name is read.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let kind = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(kind, Some("yaml" | "yml" | "json"))
}

/// The manifests of a folder, sorted by name.
fn files(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // A broken link or a folder of that name is not ours; a link to a file is (ConfigMap volumes are made of them).
        if is_manifest(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

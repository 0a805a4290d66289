//! A folder of ordinary Kubernetes YAML as the source of cluster state: no API server needed.
//!
//! [`load`] reads it once; [`Source`] keeps reading it and turns edits into changes, with the memory that broken files
//! need: what was good stays until its file says otherwise.

mod digest;
mod document;
mod error;
mod file;
mod fragment;
mod kind;
pub mod lab;
mod listing;
mod reading;
mod source;
mod watch;
mod yaml;

#[cfg(test)]
mod tests;

use std::path::Path;

use postern_policy::model::Object;

pub use self::digest::digest;
pub use self::error::{ManifestError, Place};
pub use self::source::{Reading, Source};
pub use self::watch::{Watch, watch};

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// `lab.yaml`, where there is one.
    pub lab: Option<lab::LabFile>,
    /// What was passed over.
    pub notes: Vec<String>,
}

/// Reads a folder: every `*.yaml`, `*.yml` and `*.json` in it and below it, hidden files and folders left out.
///
/// # Errors
///
/// Everything that is wrong, at once: files that cannot be read, documents that cannot be parsed, fields that cannot
/// be meant, and names used twice.
pub fn load(folder: &Path) -> Result<Loaded, Vec<ManifestError>> {
    let mut source = Source::new(folder);
    let Reading { errors, notes, .. } = source.read();
    let lab = lab::load(folder);
    match (errors.is_empty(), lab) {
        (true, Ok(lab)) => Ok(Loaded { objects: source.into_objects(), lab, notes }),
        (_, Ok(_)) => Err(errors),
        (_, Err(error)) => Err(errors.into_iter().chain([error]).collect()),
    }
}

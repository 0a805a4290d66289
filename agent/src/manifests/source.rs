//! The folder over time: what changed since it was last read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postern_policy::model::{Object, ObjectRef};

use super::reading::Pass;
use super::{ManifestError, file, listing};
use crate::feed::Change;

/// What reading the folder gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What changed.
    pub changes: Vec<Change>,
    /// What is wrong.
    pub errors: Vec<ManifestError>,
    /// There are documents that nobody can read, or objects that are not used: the objects known are not all there are.
    pub incomplete: bool,
    /// What was passed over and not said before.
    pub notes: Vec<String>,
}

/// One object as it is held.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) object: Object,
    /// Where it was read.
    pub(super) file: PathBuf,
    /// It is no good version of anything: it isolates in place of what cannot be read.
    pub(super) stand_in: bool,
}

/// A folder of manifests and what was last read from it.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    held: BTreeMap<ObjectRef, Held>,
    /// What was said to be passed over: kinds and names of files.
    said: BTreeSet<String>,
}

impl Source {
    /// A folder that was not read yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), held: BTreeMap::new(), said: BTreeSet::new() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All objects as last read.
    #[must_use]
    pub fn into_objects(self) -> Vec<Object> {
        self.held.into_values().map(|held| held.object).collect()
    }

    /// Reads the folder and says what changed. What cannot be read keeps its last good version:
    ///
    /// 1. a folder or file that cannot be read: everything that came from it stays;
    /// 2. a broken object whose name can be told: its last good version stays; without one, a broken policy isolates
    ///    the pods that its metadata and `podSelector` still name;
    /// 3. a document whose name cannot be told: whatever its file held before and does not hold now stays. Where that
    ///    is no policy, it isolates as in 2, under a name that says where it stands.
    pub fn read(&mut self) -> Reading {
        let listing = listing::list(&self.folder);
        let mut pass = Pass::new(&self.held);
        for path in &listing.passed {
            let path = path.display().to_string();
            let note = format!("{path}: passed over by its name: it is no manifest");
            pass.pass_over(path, note);
        }
        for error in listing.errors {
            pass.unreadable(error);
        }
        for path in listing.files.iter().filter(|path| !listing::is_labs(&self.folder, path)) {
            match file::read(path) {
                Ok(Some(text)) => pass.read_file(path, &text),
                Ok(None) => {}
                Err(error) => {
                    let message = error.to_string();
                    pass.unreadable(ManifestError::Unreadable { path: path.clone(), message });
                }
            }
        }
        let (next, mut reading, notes) = pass.finish();
        for reference in self.held.keys().filter(|reference| !next.contains_key(*reference)) {
            reading.changes.push(Change::Delete(reference.clone()));
        }
        for (reference, held) in &next {
            if self.held.get(reference).is_none_or(|before| before.object != held.object) {
                reading.changes.push(Change::Apply(held.object.clone()));
            }
        }
        self.held = next;
        for (subject, note) in notes {
            if self.said.insert(subject) {
                reading.notes.push(note);
            }
        }
        reading
    }
}

//! The folder over time: what changed since it was last read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postern_policy::model::{Object, ObjectRef};

use super::document;
use super::{ManifestError, files, lab};
use crate::convert;
use crate::convert::object::Fate;
use crate::feed::Change;

/// What reading the folder gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What changed.
    pub changes: Vec<Change>,
    /// What is wrong.
    pub errors: Vec<ManifestError>,
    /// Something could not be read that has no last good version: the objects known are not all there are.
    pub incomplete: bool,
}

/// One object as it is held.
#[derive(Debug, Clone)]
struct Held {
    object: Object,
    /// Where it was read.
    file: PathBuf,
}

/// A folder of manifests and what was last read from it.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    held: BTreeMap<ObjectRef, Held>,
}

impl Source {
    /// A folder that was not read yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), held: BTreeMap::new() }
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
    /// 3. a document whose name cannot be told: whatever its file held before and does not hold now stays.
    pub fn read(&mut self) -> Reading {
        let mut reading = Reading::default();
        let files = match files(&self.folder) {
            Ok(files) => files,
            Err(error) => {
                let error =
                    ManifestError::Unreadable { path: self.folder.clone(), message: error.to_string() };
                return Reading { errors: vec![error], incomplete: true, ..reading };
            }
        };
        let mut next = BTreeMap::new();
        for file in files.iter().filter(|file| file.file_name().is_none_or(|name| name != lab::FILE)) {
            match std::fs::read_to_string(file) {
                Ok(text) => self.read_file(file, &text, &mut next, &mut reading),
                Err(error) => {
                    let error = ManifestError::Unreadable { path: file.clone(), message: error.to_string() };
                    reading.errors.push(error);
                    reading.incomplete = true;
                    self.keep_all_of(file, &mut next);
                }
            }
        }
        add_namespaces(&mut next, &reading.errors);
        for reference in self.held.keys().filter(|reference| !next.contains_key(*reference)) {
            reading.changes.push(Change::Delete(reference.clone()));
        }
        for (reference, held) in &next {
            if self.held.get(reference).is_none_or(|before| before.object != held.object) {
                reading.changes.push(Change::Apply(held.object.clone()));
            }
        }
        self.held = next;
        reading
    }

    fn read_file(
        &self,
        file: &Path,
        text: &str,
        next: &mut BTreeMap<ObjectRef, Held>,
        reading: &mut Reading,
    ) {
        let mut nameless = false;
        for (index, parsed) in document::parse(text).into_iter().enumerate() {
            let document = index + 1;
            let Some(parsed) = parsed else { continue };
            let (fate, messages) = parsed.fate(|it| self.held.contains_key(it));
            let (object, name) = match fate {
                Fate::Apply(object) => {
                    let name = object.reference();
                    (Some(object), Some(name))
                }
                Fate::Stay(name) => (self.held.get(&name).map(|held| held.object.clone()), Some(name)),
                Fate::Unused(name) => (None, name),
            };
            nameless |= name.is_none();
            let file = || file.to_owned();
            let invalid =
                |message| ManifestError::Invalid { file: file(), document, object: name.clone(), message };
            reading.errors.extend(messages.into_iter().map(invalid));
            let Some(object) = object else {
                reading.incomplete = true;
                continue;
            };
            let reference = object.reference();
            if let Some(first) = next.get(&reference) {
                let first = first.file.clone();
                reading.errors.push(ManifestError::Duplicate {
                    file: file(),
                    document,
                    object: reference,
                    first,
                });
                continue;
            }
            next.insert(reference, Held { object, file: file() });
        }
        if nameless {
            self.keep_all_of(file, next);
        }
    }

    /// Keeps what was last read from a file and is not known otherwise.
    fn keep_all_of(&self, file: &Path, next: &mut BTreeMap<ObjectRef, Held>) {
        for (reference, held) in self.held.iter().filter(|(_, held)| held.file == file) {
            next.entry(reference.clone()).or_insert_with(|| held.clone());
        }
    }
}

/// Adds the namespaces that objects are in and no manifest describes, with the one label that every namespace has: as
/// if `kubectl create namespace` had made them. One whose manifest is broken is left unknown: its labels are, and no
/// selector that excludes some must match it.
fn add_namespaces(objects: &mut BTreeMap<ObjectRef, Held>, errors: &[ManifestError]) {
    let broken = |reference: &ObjectRef| {
        errors
            .iter()
            .any(|error| matches!(error, ManifestError::Invalid { object: Some(it), .. } if it == reference))
    };
    let mut missing = BTreeMap::new();
    for (reference, held) in &*objects {
        let (ObjectRef::Pod(id) | ObjectRef::NetworkPolicy(id)) = reference else { continue };
        let namespace = ObjectRef::Namespace(id.namespace.clone());
        if !objects.contains_key(&namespace) && !broken(&namespace) {
            let object = Object::Namespace(convert::bare_namespace(id.namespace.clone()));
            missing.entry(namespace).or_insert(Held { object, file: held.file.clone() });
        }
    }
    objects.append(&mut missing);
}

//! One pass over the folder: what every document comes to, with what was held before to fall back on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postern_policy::model::{NamespacedName, NetworkPolicy, Object, ObjectRef};

use super::document::{self, Content, Unread};
use super::error::{ManifestError, Place};
use super::source::{Held, Reading};
use crate::convert;
use crate::convert::object::{Fate, Parsed};

/// A pass under way.
pub(super) struct Pass<'a> {
    held: &'a BTreeMap<ObjectRef, Held>,
    next: BTreeMap<ObjectRef, Held>,
    errors: Vec<ManifestError>,
    incomplete: bool,
    /// What is passed over, and what to say of it where that was not said before.
    notes: Vec<(String, String)>,
    /// Folders and files that cannot be read.
    unreadable: Vec<PathBuf>,
    /// What cannot be read and has no name. What becomes of it depends on what else there is.
    nameless: Vec<(Place, Unread)>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(held: &'a BTreeMap<ObjectRef, Held>) -> Self {
        Self {
            held,
            next: BTreeMap::new(),
            errors: Vec::new(),
            incomplete: false,
            notes: Vec::new(),
            unreadable: Vec::new(),
            nameless: Vec::new(),
        }
    }

    /// Notes that something is passed over.
    pub(super) fn pass_over(&mut self, subject: String, note: String) {
        self.notes.push((subject, note));
    }

    /// Notes that a folder or a file cannot be read: everything that came from it stays.
    pub(super) fn unreadable(&mut self, error: ManifestError) {
        self.unreadable.push(error.file().to_owned());
        self.errors.push(error);
        self.incomplete = true;
    }

    /// Takes in what a file holds.
    pub(super) fn read_file(&mut self, file: &Path, text: &str) {
        for item in document::parse(text) {
            let place = Place { file: file.to_owned(), document: item.document, items: item.items };
            match item.content {
                Content::Passed(name) => {
                    let note = format!(
                        "{place}: {name} is nothing that policy looks at: passed over, wherever it stands"
                    );
                    self.pass_over(name, note);
                }
                Content::Unread(unread) => self.unread(place, unread),
                Content::Object(Parsed::Broken { object: None, isolation, message }) => {
                    self.unread(
                        place,
                        Unread { object: None, isolation: isolation.into_iter().collect(), message },
                    );
                }
                Content::Object(parsed) => self.object(place, parsed),
            }
        }
    }

    fn object(&mut self, place: Place, parsed: Parsed) {
        let is_broken = matches!(parsed, Parsed::Broken { .. });
        let (fate, messages) = parsed.fate(|it| self.last_good(it).is_some());
        let (object, name) = match fate {
            Fate::Apply(object) => {
                let name = object.reference();
                (Some((object, is_broken)), Some(name))
            }
            Fate::Stay(name) => (self.last_good(&name).map(|object| (object.clone(), false)), Some(name)),
            Fate::Unused(name) => (None, name),
        };
        for message in messages {
            self.errors.push(ManifestError::Invalid { place: place.clone(), object: name.clone(), message });
        }
        match object {
            Some((object, stand_in)) => self.insert(place, object, stand_in),
            None => self.incomplete = true,
        }
    }

    /// What cannot be read, with a name: its last good version stays, or else it isolates.
    fn unread(&mut self, place: Place, mut unread: Unread) {
        self.incomplete = true;
        let Some(name) = unread.object.clone() else {
            self.nameless.push((place, unread));
            return;
        };
        let (object, meanwhile) = match (self.last_good(&name), unread.isolation.pop()) {
            (Some(object), _) => (Some((object.clone(), false)), "its last good version stays"),
            (None, Some(isolation)) => (
                Some((Object::NetworkPolicy(isolation), true)),
                "the pods it selects are isolated until it is mended",
            ),
            (None, None) => (None, "it is not used"),
        };
        let message = format!("{}; {meanwhile}", unread.message);
        self.errors.push(ManifestError::Invalid { place: place.clone(), object: Some(name), message });
        if let Some((object, stand_in)) = object {
            self.insert(place, object, stand_in);
        }
    }

    fn last_good(&self, name: &ObjectRef) -> Option<&'a Object> {
        self.held.get(name).filter(|held| !held.stand_in).map(|held| &held.object)
    }

    fn insert(&mut self, place: Place, object: Object, stand_in: bool) {
        let name = object.reference();
        let Some(first) = self.next.get(&name) else {
            self.next.insert(name, Held { object, file: place.file, stand_in });
            return;
        };
        // Nobody knows which of the two is meant. A copy takes nothing away; anything else may be meant to restrict.
        self.incomplete |= first.object != object;
        let isolation = match (&first.object, object) {
            (Object::NetworkPolicy(first), Object::NetworkPolicy(second)) => further_isolation(first, second),
            _ => None,
        };
        self.errors.push(ManifestError::Duplicate {
            place: place.clone(),
            object: name,
            first: first.file.clone(),
            isolated: isolation.is_some(),
        });
        if let Some(isolation) = isolation {
            self.isolate(&place, isolation);
        }
    }

    /// Isolates in place of what has no name of its own: it gets one that no object can have.
    fn isolate(&mut self, place: &Place, mut isolation: NetworkPolicy) {
        isolation.id = NamespacedName { namespace: isolation.id.namespace, name: place.to_string().into() };
        let object = Object::NetworkPolicy(isolation);
        self.next.insert(object.reference(), Held { object, file: place.file.clone(), stand_in: true });
    }

    /// Ends the pass, with all that was not known before every file was read.
    pub(super) fn finish(mut self) -> (BTreeMap<ObjectRef, Held>, Reading, Vec<(String, String)>) {
        let untold = self.settle_nameless();
        for (reference, held) in self.held {
            let stays = self.unreadable.iter().any(|path| held.file.starts_with(path))
                || self.nameless.iter().any(|(place, _)| place.file == held.file)
                    && (!held.stand_in || untold.contains(&held.file));
            if stays {
                self.next.entry(reference.clone()).or_insert_with(|| held.clone());
            }
        }
        add_namespaces(&mut self.next, &self.errors);
        self.errors.sort_by(|a, b| a.order().cmp(&b.order()));
        let Self { next, errors, incomplete, notes, .. } = self;
        (next, Reading { errors, incomplete, ..Reading::default() }, notes)
    }

    /// Isolates what the nameless select, unless it may be what their file held before: that stays. Gives the files of
    /// those that tell nothing at all.
    fn settle_nameless(&mut self) -> BTreeSet<PathBuf> {
        let mut untold = BTreeSet::new();
        // Policies that nobody can find any more: each may be one of the nameless.
        let missing =
            self.held.iter().filter(|(name, held)| !held.stand_in && !self.next.contains_key(*name));
        let mut missing: Vec<(&Path, NamespacedName)> = missing
            .filter_map(|(name, held)| match name {
                ObjectRef::NetworkPolicy(id) => Some((held.file.as_path(), id.clone())),
                _ => None,
            })
            .collect();
        let nameless = std::mem::take(&mut self.nameless);
        for (place, unread) in &nameless {
            let mut meanwhile = "what was known before stays";
            if unread.isolation.is_empty() {
                untold.insert(place.file.clone());
            }
            for isolation in &unread.isolation {
                let is_it = |(file, id): &(&Path, NamespacedName)| {
                    *file == place.file && id.namespace == isolation.id.namespace
                };
                if let Some(index) = missing.iter().position(is_it) {
                    missing.swap_remove(index);
                } else {
                    self.isolate(place, isolation.clone());
                    meanwhile = "the pods it selects are isolated until it is mended";
                }
            }
            let message = format!("{}; {meanwhile}", unread.message);
            self.errors.push(ManifestError::Invalid { place: place.clone(), object: None, message });
        }
        self.nameless = nameless;
        untold
    }
}

/// What isolates the pods and directions that the second of two policies does and the first does not.
fn further_isolation(first: &NetworkPolicy, mut second: NetworkPolicy) -> Option<NetworkPolicy> {
    let further = first.pod_selector != second.pod_selector
        || first.ingress.is_none() && second.ingress.is_some()
        || first.egress.is_none() && second.egress.is_some();
    second.ingress = second.ingress.map(|_| Vec::new());
    second.egress = second.egress.map(|_| Vec::new());
    further.then_some(second)
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
            missing.entry(namespace).or_insert(Held { object, file: held.file.clone(), stand_in: false });
        }
    }
    objects.append(&mut missing);
}

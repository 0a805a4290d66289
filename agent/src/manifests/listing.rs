//! Which files of a folder are read: `*.yaml`, `*.yml` and `*.json` in any letter case, in subfolders too. Hidden files
//! and folders are left out (editors' temporary files; `..data` and its like, of which a ConfigMap's volume is made).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::{ManifestError, lab};

/// Files that other tools keep beside manifests. They look like some, and are none.
const NOT_OURS: [&str; 7] = [
    "kustomization.yaml",
    "kustomization.yml",
    "Kustomization",
    "values.yaml",
    "values.yml",
    "Chart.yaml",
    "Chart.yml",
];

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Manifests, sorted. No file stands here twice, whatever links lead to it.
    pub(super) files: Vec<PathBuf>,
    /// Passed over by their names.
    pub(super) passed: Vec<PathBuf>,
    /// Folders and files that cannot be looked at.
    pub(super) errors: Vec<ManifestError>,
}

/// Lists a folder.
pub(super) fn list(folder: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut seen = BTreeSet::new();
    for entry in walk(folder) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                listing.errors.extend(unreadable(folder, &error));
                continue;
            }
        };
        let path = entry.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_not_ours) && !is_labs(folder, path)
        {
            listing.passed.push(path.to_owned());
        } else if entry.file_type().is_dir() || !is_manifest(path) {
        } else if !entry.file_type().is_file() {
            let message = "is neither a file nor a folder".to_owned();
            listing.errors.push(ManifestError::Unreadable { path: path.to_owned(), message });
        } else if let Ok(metadata) = entry.metadata()
            && seen.insert((metadata.dev(), metadata.ino()))
        {
            listing.files.push(path.to_owned());
        }
    }
    listing.files.sort();
    listing
}

/// Whether a file is the folder's own `lab.yaml`, which is listed and holds no objects.
pub(super) fn is_labs(folder: &Path, file: &Path) -> bool {
    file == folder.join(lab::FILE)
}

fn is_not_ours(name: &str) -> bool {
    name == lab::FILE || NOT_OURS.contains(&name)
}

/// The folders that files are read from, the folder itself among them. Those that cannot be looked at are left out.
pub(super) fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = walk(folder).filter_map(Result::ok).filter(|entry| entry.file_type().is_dir());
    entries.map(DirEntry::into_path).collect()
}

fn walk(folder: &Path) -> impl Iterator<Item = walkdir::Result<DirEntry>> {
    let hidden = |entry: &DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    walk.filter_entry(move |entry| entry.depth() == 0 || !hidden(entry))
}

/// What to say about something that cannot be looked at, if that is anything to us.
fn unreadable(folder: &Path, error: &walkdir::Error) -> Option<ManifestError> {
    let path = error.path().unwrap_or(folder);
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    // A link to a folder above: what it leads to is read where it is. Something that went while we looked is gone.
    let gone = path != folder && path.symlink_metadata().is_err();
    if error.loop_ancestor().is_some() || gone || hidden && path != folder {
        return None;
    }
    // A link into nothing may have been a folder; it may have been anything, unless its name says what.
    let message = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    Some(ManifestError::Unreadable { path: path.to_owned(), message })
}

/// Whether a file of this name is read.
fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

//! The directory that the running agents read. Edits arrive as a careful administrator's would: a file appears, changes
//! or goes as a whole, by rename.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::prober::monotonic_ns;

/// Contents of a directory of manifests, by file name, or by path where they come from subfolders.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A file could not be read or written.
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

/// Reads all files of a directory (not its folders, nor hidden files).
///
/// # Errors
/// The directory or a file cannot be read.
pub fn read(directory: &Path) -> Result<Files, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error { step: "read", path, error }
    };
    let mut files = Files::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_file() && !name.starts_with('.') {
            files.insert(name.to_owned(), fs::read(&path).map_err(failed(&path))?);
        }
    }
    Ok(files)
}

/// Reads all files of a directory and of the folders below it, as agents do (neither hidden files nor hidden folders).
///
/// # Errors
/// The directory, a folder or a file cannot be read.
pub fn read_tree(directory: &Path) -> Result<Files, Error> {
    let mut files = read(directory)?;
    for folder in folders(directory)? {
        let below = read_tree(&directory.join(&folder))?;
        files.extend(below.into_iter().map(|(name, content)| (format!("{folder}/{name}"), content)));
    }
    Ok(files)
}

/// Names of the folders in a directory, hidden ones left out.
///
/// # Errors
/// The directory cannot be read.
pub fn folders(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| Error { step: "read", path: directory.to_owned(), error };
    let entries = fs::read_dir(directory).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let folders = entries.into_iter().filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// The working copy.
#[derive(Debug)]
pub struct WorkingCopy {
    directory: PathBuf,
    files: Files,
}

impl WorkingCopy {
    /// An empty one at `directory`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir(&directory).map_err(|error| Error {
            step: "create",
            path: directory.clone(),
            error,
        })?;
        Ok(Self { directory, files: Files::new() })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it holds.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Makes it hold exactly `files`. Returns the time just before the last rename or removal, on the monotonic clock:
    /// when the change was complete.
    ///
    /// # Errors
    /// A file cannot be written or removed.
    pub fn replace(&mut self, files: &Files) -> Result<u64, Error> {
        let mut arrived = monotonic_ns();
        let old = std::mem::replace(&mut self.files, files.clone());
        for (name, content) in files {
            if old.get(name) == Some(content) {
                continue;
            }
            let path = self.directory.join(name);
            let failed = |error| Error { step: "write", path: path.clone(), error };
            let mut hidden = path.clone();
            hidden.set_file_name(format!(".{}.new", path.file_name().unwrap_or_default().display()));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(failed)?;
            }
            fs::write(&hidden, content).map_err(failed)?;
            arrived = monotonic_ns();
            fs::rename(&hidden, &path).map_err(failed)?;
        }
        for name in old.keys().filter(|name| !files.contains_key(*name)) {
            let path = self.directory.join(name);
            arrived = monotonic_ns();
            fs::remove_file(&path).map_err(|error| Error { step: "remove", path: path.clone(), error })?;
            // Folders that are empty now go too; any other stays, and says so.
            let folders = path.ancestors().skip(1).take_while(|folder| *folder != self.directory);
            let _ = folders.map(fs::remove_dir).take_while(Result::is_ok).count();
        }
        Ok(arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::{Files, WorkingCopy, read, read_tree};

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
    }

    #[test]
    fn subfolders_are_copied_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = WorkingCopy::create(folder.path().join("copy")).unwrap();
        for step in [files(&[("a.yaml", "1"), ("sub/deep/b.yaml", "2")]), files(&[("a.yaml", "1")])] {
            copy.replace(&step).unwrap();
            assert_eq!(read_tree(copy.directory()).unwrap(), step);
        }
        assert!(!copy.directory().join("sub").exists());
    }

    #[test]
    fn replacing_leaves_exactly_the_new_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = WorkingCopy::create(folder.path().join("copy")).unwrap();
        for step in [files(&[("a.yaml", "1"), ("b.yaml", "2")]), files(&[("b.yaml", "3"), ("c.yaml", "4")])] {
            copy.replace(&step).unwrap();
            assert_eq!(read(copy.directory()).unwrap(), step);
            let left = std::fs::read_dir(copy.directory()).unwrap().count();
            assert_eq!(left, step.len(), "no temporary file stays");
        }
    }
}

//! The files of an image, and the layer made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// Where the binary is in an image. deploy/Dockerfile says the same.
pub(super) const BINARY: &str = "usr/bin/postern";
/// Where licence texts are.
const LICENCES: &str = "usr/share/licenses/postern";

/// A file's mode and content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    mode: u32,
    content: Vec<u8>,
}

/// Files by path, in the order in which they are archived.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(BTreeMap<String, File>);

impl Files {
    /// The binary.
    pub(super) fn binary(&mut self, content: Vec<u8>) {
        self.0.insert(BINARY.to_owned(), File { mode: 0o755, content });
    }

    /// A licence text.
    pub(super) fn licence(&mut self, name: &str, content: Vec<u8>) {
        self.0.insert(format!("{LICENCES}/{name}"), File { mode: 0o644, content });
    }

    /// The layer: owned by root, dated at the epoch, folders before what is in them.
    pub(super) fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for folder in self.folders() {
            append(&mut archive, EntryType::Directory, &format!("{folder}/"), 0o755, &[])?;
        }
        for (path, file) in &self.0 {
            append(&mut archive, EntryType::Regular, path, file.mode, &file.content)?;
        }
        archive.into_inner().context("finish the layer")
    }

    /// Writes the files below a folder, for a builder that makes an image of it (deploy/Dockerfile).
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for folder in self.folders() {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        for (path, file) in &self.0 {
            let path = root.join(path);
            let failed = || format!("write {}", path.display());
            std::fs::write(&path, &file.content).with_context(failed)?;
            let mode = std::fs::Permissions::from_mode(file.mode);
            std::fs::set_permissions(&path, mode).with_context(failed)?;
        }
        Ok(())
    }

    fn folders(&self) -> BTreeSet<String> {
        let mut folders = BTreeSet::new();
        for path in self.0.keys() {
            let parents = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
            folders.extend(parents.filter(|it| !it.is_empty()).map(str::to_owned));
        }
        folders
    }
}

/// Appends one entry to an archive whose bytes depend on nothing but what is in it.
pub(super) fn append(
    archive: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    archive.append_data(&mut header, path, content).with_context(|| format!("archive {path}"))
}

#[cfg(test)]
mod tests {
    use super::Files;

    fn files() -> Files {
        let mut files = Files::default();
        files.licence("LICENSE", b"do as you like".to_vec());
        files.binary(b"binary".to_vec());
        files
    }

    #[test]
    fn a_layer_holds_folders_first_and_nothing_of_this_machine() {
        let layer = files().layer().unwrap();
        let mut archive = tar::Archive::new(&layer[..]);
        let entries: Vec<(String, u32, u64, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let header = entry.unwrap().header().clone();
                let path = header.path().unwrap().to_str().unwrap().to_owned();
                (path, header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let expected = [
            ("usr/", 0o755),
            ("usr/bin/", 0o755),
            ("usr/share/", 0o755),
            ("usr/share/licenses/", 0o755),
            ("usr/share/licenses/postern/", 0o755),
            ("usr/bin/postern", 0o755),
            ("usr/share/licenses/postern/LICENSE", 0o644),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(path, mode)| ((*path).to_owned(), *mode, 0, 0)).collect();
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_same_files_make_the_same_layer() {
        assert_eq!(files().layer().unwrap(), files().layer().unwrap());
    }
}

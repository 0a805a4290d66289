//! Docker archives of one layer. The same files give the same bytes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer in the making.
pub(super) struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl Layer {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }

    /// Adds a file, and the folders above it. Paths start without `/`.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> io::Result<()> {
        self.folders_above(path.as_ref())?;
        let mut header = header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: impl AsRef<Path>, target: &str) -> io::Result<()> {
        self.folders_above(path.as_ref())?;
        self.tar.append_link(&mut header(EntryType::Symlink, 0o777), path, target)
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.folders_above(path.as_ref())?;
        if self.folders.insert(path.as_ref().to_owned()) {
            self.tar.append_data(&mut header(EntryType::Directory, mode), path, io::empty())?;
        }
        Ok(())
    }

    fn folders_above(&mut self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if parent != Path::new("") => self.folder(parent, 0o755),
            _ => Ok(()),
        }
    }

    /// The archive of an image with this name, which runs `command`.
    pub(super) fn into_image(self, name: &str, command: &[&str]) -> io::Result<Vec<u8>> {
        let layer = self.tar.into_inner()?;
        let digest = hex(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Cmd": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        });
        let config = serde_json::to_vec(&config)?;
        let config_name = format!("{}.json", hex(&config));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]);
        let mut image = Self::new();
        image.file(config_name, 0o644, &config)?;
        image.file(layer_name, 0o644, &layer)?;
        image.file("manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
        image.tar.into_inner()
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// As Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::Layer;

    #[test]
    fn the_same_files_make_the_same_archive_with_every_folder_once() {
        let make = || {
            let mut layer = Layer::new();
            layer.file("usr/bin/a", 0o755, b"a").unwrap();
            layer.file("usr/bin/b", 0o755, b"b").unwrap();
            layer.link("bin", "usr/bin").unwrap();
            layer
        };
        assert_eq!(make().into_image("x:1", &["/a"]).unwrap(), make().into_image("x:1", &["/a"]).unwrap());
        let bytes = make().tar.into_inner().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["usr", "usr/bin", "usr/bin/a", "usr/bin/b", "bin"]);
    }
}

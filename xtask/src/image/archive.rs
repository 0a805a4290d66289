//! The archive: an OCI image layout (opencontainers/image-spec, image-layout.md) which holds Docker's own `manifest.json`
//! too, so that `ctr images import`, `podman load`, `skopeo` and `docker load` of any age read it.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use super::files::{BINARY, append};
use super::name::Name;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image says of itself.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// Its name.
    pub(super) name: Name,
    /// Its architecture, as Go calls it.
    pub(super) architecture: &'static str,
    /// When its sources were made, RFC 3339.
    pub(super) created: String,
    /// `org.opencontainers.image.*` without that prefix.
    pub(super) labels: Vec<(&'static str, String)>,
}

/// A finished archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// Its bytes.
    pub(super) content: Vec<u8>,
    /// The image's digest: that of its manifest.
    pub(super) digest: String,
    /// Bytes of what a registry would hold: manifest, configuration, compressed layer.
    pub(super) image_size: usize,
}

/// Makes an archive of one layer.
pub(super) fn archive(about: &About, layer: &[u8]) -> Result<Archive> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(layer).context("compress the layer")?;
    let layer_blob = Blob::new(LAYER, gzip.finish().context("compress the layer")?);
    let config = Blob::new(CONFIG, serde_json::to_vec(&config(about, &digest(layer)))?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [layer_blob.descriptor()],
        "annotations": labels(about),
    });
    let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest)?);
    let mut described = manifest.descriptor();
    described["platform"] = json!({ "architecture": about.architecture, "os": "linux" });
    described["annotations"] = json!({
        // The whole name for containerd, the tag for everybody else.
        "io.containerd.image.name": about.name.to_string(),
        "org.opencontainers.image.ref.name": about.name.tag(),
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": [about.name.to_string()],
        "Layers": [layer_blob.path()],
    }]);

    let mut tar = Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        append(&mut tar, EntryType::Directory, folder, 0o755, &[])?;
    }
    let mut blobs = [&layer_blob, &config, &manifest];
    blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    for blob in blobs {
        append(&mut tar, EntryType::Regular, &blob.path(), 0o644, &blob.content)?;
    }
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    for (name, content) in [("index.json", &index), ("manifest.json", &docker), ("oci-layout", &layout)] {
        append(&mut tar, EntryType::Regular, name, 0o644, &serde_json::to_vec(content)?)?;
    }
    let image_size = layer_blob.content.len() + config.content.len() + manifest.content.len();
    Ok(Archive {
        content: tar.into_inner().context("finish the archive")?,
        digest: manifest.digest,
        image_size,
    })
}

fn config(about: &About, layer: &str) -> Value {
    json!({
        "created": about.created,
        "architecture": about.architecture,
        "os": "linux",
        "config": {
            "User": "0:0",
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [format!("/{BINARY}")],
            "Cmd": ["agent"],
            "WorkingDir": "/",
            "Labels": labels(about),
        },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
        "history": [{ "created": about.created, "created_by": "cargo xtask image" }],
    })
}

fn labels(about: &About) -> Value {
    let created = [("created", &about.created)];
    let labels = about.labels.iter().map(|(name, value)| (*name, value)).chain(created);
    labels.map(|(name, value)| (format!("org.opencontainers.image.{name}"), json!(value))).collect()
}

/// Content under its digest.
struct Blob {
    media_type: &'static str,
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, content: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&content), content }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.content.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests;

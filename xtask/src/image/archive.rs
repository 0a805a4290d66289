//! The archive: an OCI image layout (opencontainers/image-spec, image-layout.md) which holds Docker's own `manifest.json`
//! too, so that `ctr images import`, `podman load`, `skopeo` and `docker load` of any age read it.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use super::files::{BINARY, append};
use super::name::Name;
use crate::architecture::Architecture;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image says of itself, for whatever processor.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// Its name.
    pub(super) name: Name,
    /// When its sources were made, RFC 3339.
    pub(super) created: String,
    /// `org.opencontainers.image.*` without that prefix.
    pub(super) labels: Vec<(&'static str, String)>,
}

/// What an image holds for a processor.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// The processor.
    pub(super) architecture: Architecture,
    /// The one layer, an archive.
    pub(super) layer: Vec<u8>,
}

/// A finished archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// Its bytes.
    pub(super) content: Vec<u8>,
    /// The image's digest: that of its index, or of its manifest where it is for one processor.
    pub(super) digest: String,
    /// For each processor the digest of its manifest, and bytes of what is pulled: manifest, configuration, compressed layer.
    pub(super) images: Vec<(Architecture, String, usize)>,
}

/// Makes an archive of an image: for one processor its manifest, for several an index of theirs.
///
/// Docker's own table of contents knows no processors: it names the first one's image.
pub(super) fn archive(about: &About, variants: &[Variant]) -> Result<Archive> {
    let images: Vec<Image> = variants.iter().map(|it| Image::of(about, it)).collect::<Result<_>>()?;
    let first = images.first().context("an image is for one processor at least")?;
    let index = if images.len() > 1 { Some(index(about, &images)?) } else { None };
    let top = index.as_ref().unwrap_or(&first.manifest);
    let mut described = if index.is_some() { top.descriptor() } else { first.descriptor() };
    described["annotations"] = json!({
        // The whole name for containerd, the tag for everybody else.
        "io.containerd.image.name": about.name.to_string(),
        "org.opencontainers.image.ref.name": about.name.tag(),
    });
    let contents = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });
    let docker = json!([{
        "Config": first.config.path(),
        "RepoTags": [about.name.to_string()],
        "Layers": [first.layer.path()],
    }]);

    let mut tar = Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        append(&mut tar, EntryType::Directory, folder, 0o755, &[])?;
    }
    // By digest, each once.
    let blobs: BTreeMap<&str, &Blob> =
        images.iter().flat_map(Image::blobs).chain(&index).map(|it| (it.digest.as_str(), it)).collect();
    for blob in blobs.values() {
        append(&mut tar, EntryType::Regular, &blob.path(), 0o644, &blob.content)?;
    }
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    for (name, content) in [("index.json", &contents), ("manifest.json", &docker), ("oci-layout", &layout)] {
        append(&mut tar, EntryType::Regular, name, 0o644, &serde_json::to_vec(content)?)?;
    }
    Ok(Archive {
        content: tar.into_inner().context("finish the archive")?,
        digest: top.digest.clone(),
        images: images.iter().map(|it| (it.architecture, it.manifest.digest.clone(), it.size())).collect(),
    })
}

/// The index of images for several processors.
fn index(about: &About, images: &[Image]) -> Result<Blob> {
    let manifests: Vec<Value> = images.iter().map(Image::descriptor).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": labels(about),
    });
    Ok(Blob::new(INDEX, serde_json::to_vec(&index)?))
}

/// The image for one processor.
struct Image {
    architecture: Architecture,
    layer: Blob,
    config: Blob,
    manifest: Blob,
}

impl Image {
    fn of(about: &About, variant: &Variant) -> Result<Self> {
        let Variant { architecture, layer } = variant;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(layer).context("compress the layer")?;
        let compressed = Blob::new(LAYER, gzip.finish().context("compress the layer")?);
        let config = config(about, *architecture, &digest(layer));
        let config = Blob::new(CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [compressed.descriptor()],
            "annotations": labels(about),
        });
        let manifest = Blob::new(MANIFEST, serde_json::to_vec(&manifest)?);
        Ok(Self { architecture: *architecture, layer: compressed, config, manifest })
    }

    /// Its manifest's, with what it is for.
    fn descriptor(&self) -> Value {
        let mut described = self.manifest.descriptor();
        described["platform"] = json!({ "architecture": self.architecture.debian(), "os": "linux" });
        described
    }

    fn blobs(&self) -> [&Blob; 3] {
        [&self.layer, &self.config, &self.manifest]
    }

    fn size(&self) -> usize {
        self.blobs().iter().map(|it| it.content.len()).sum()
    }
}

fn config(about: &About, architecture: Architecture, layer: &str) -> Value {
    json!({
        "created": about.created,
        "architecture": architecture.debian(),
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

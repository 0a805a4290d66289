//! `cargo xtask image`: a container image, made without a daemon and without a base image.
//!
//! One static binary and its licence texts, in an archive that containerd, Docker and Podman read. The same sources make
//! the same digest.

mod archive;
mod files;
mod licences;
mod name;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use self::archive::About;
use self::files::Files;
use self::name::Name;
use crate::architecture::Architecture;
use crate::build::workspace;
use crate::static_binary;

/// The image that deploy/ asks for.
const NAME: &str = concat!("localhost/postern:", env!("CARGO_PKG_VERSION"));

/// What to make.
#[derive(Debug, clap::Args)]
pub(crate) struct Image {
    /// Where the archive goes. By default it lies beside the binary.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    tag: Name,
    /// Of the default profile, which builds faster. What is shipped is of the release profile.
    #[arg(long)]
    dev: bool,
    /// Write the image's files below this folder instead, and no archive: for other builders of images.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "tag"])]
    root: Option<PathBuf>,
}

/// Builds and says what came out.
pub(crate) fn run(image: Image) -> Result<()> {
    let architecture = Architecture::here()?;
    let path = static_binary::build(architecture, if image.dev { "dev" } else { "release" })?;
    let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    println!("binary   {} ({})", path.display(), mebibytes(content.len()));
    let mut files = Files::default();
    files.binary(content);
    licences::add(&mut files, architecture)?;
    if let Some(root) = image.root {
        files.write(&root)?;
        println!("files    {}", root.display());
        return Ok(());
    }
    let about =
        About { name: image.tag, architecture: architecture.debian(), created: created()?, labels: labels() };
    let archive = archive::archive(&about, &files.layer()?)?;
    let output = image.output.unwrap_or_else(|| path.with_file_name("postern-image.tar"));
    std::fs::write(&output, &archive.content).with_context(|| format!("write {}", output.display()))?;
    println!("image    {} ({})", about.name, mebibytes(archive.image_size));
    println!("digest   {}", archive.digest);
    println!("archive  {}", output.display());
    println!();
    println!(
        "ctr --namespace k8s.io images import {}   # on each node; docs/install has the other ways",
        output.display()
    );
    Ok(())
}

/// When the sources were made: `SOURCE_DATE_EPOCH`, or the commit's date; the epoch outside a repository.
fn created() -> Result<String> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => git(&["log", "-1", "--format=%ct"]).unwrap_or_else(|| "0".to_owned()),
    };
    let invalid = || format!("SOURCE_DATE_EPOCH is {seconds:?}; it must be seconds since 1970");
    let timestamp = jiff::Timestamp::from_second(seconds.parse().with_context(invalid)?);
    Ok(timestamp.with_context(invalid)?.to_string())
}

fn labels() -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("title", "postern".to_owned()),
        ("description", "Kubernetes NetworkPolicy for any CNI, enforced in eBPF".to_owned()),
        ("vendor", "The Postern developers".to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
    ];
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        let clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        labels.push(("revision", if clean { commit } else { format!("{commit}-dirty") }));
    }
    labels
}

/// What git says; nothing outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(workspace()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn mebibytes(bytes: usize) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_dockerfile_has_the_same_labels() {
        let path = crate::build::workspace().join("deploy/Dockerfile");
        let text = std::fs::read_to_string(path).unwrap().replace('"', "");
        for (name, value) in super::labels().into_iter().filter(|(name, _)| *name != "revision") {
            let label = format!("org.opencontainers.image.{name}={value}");
            assert!(text.contains(&label), "deploy/Dockerfile has no {label}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(super::mebibytes(1_677_722), "1.6 MiB");
    }
}

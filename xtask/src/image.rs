//! `cargo xtask image`: a container image, made without a daemon and without a base image.
//!
//! One static binary and its licence texts, for each processor, in an archive that containerd, Docker and Podman read. The same sources
//! make the same digest.

mod archive;
mod files;
mod licences;
mod name;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use self::archive::{About, Variant};
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
    /// Only for this processor. By default for both, in one archive: whoever imports it takes what fits.
    #[arg(long, value_name = "ARCH")]
    target: Vec<Architecture>,
    /// Where the archive goes. By default to `postern-image.tar` in cargo's target folder.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    tag: Name,
    /// Of the default profile, which builds faster. What is shipped is of the release profile.
    #[arg(long)]
    dev: bool,
    /// Write the image's files below this folder instead, and no archive: for other builders of images. For one processor, which is this
    /// machine's by default.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "tag"])]
    root: Option<PathBuf>,
}

/// Builds and says what came out.
pub(crate) fn run(image: Image) -> Result<()> {
    let mut variants = Vec::new();
    let mut folder = None;
    for architecture in targets(&image)? {
        let path = static_binary::build(architecture, if image.dev { "dev" } else { "release" })?;
        let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        println!("binary   {} ({})", path.display(), mebibytes(content.len()));
        // <folder>/<target>/<profile>/postern
        folder = path.ancestors().nth(3).map(Path::to_owned);
        let mut files = Files::default();
        files.binary(content);
        licences::add(&mut files, architecture)?;
        if let Some(root) = &image.root {
            files.write(root)?;
            println!("files    {}", root.display());
            return Ok(());
        }
        variants.push(Variant { architecture, layer: files.layer()? });
    }
    let about = About { name: image.tag, created: created()?, labels: labels() };
    let archive = archive::archive(&about, &variants)?;
    let output = image.output.unwrap_or_else(|| folder.unwrap_or_default().join("postern-image.tar"));
    std::fs::write(&output, &archive.content).with_context(|| format!("write {}", output.display()))?;
    println!("image    {}", about.name);
    println!("digest   {}", archive.digest);
    for (architecture, digest, size) in &archive.images {
        println!("{:8} {digest} ({} to pull)", architecture.debian(), mebibytes(*size));
    }
    println!("archive  {}", output.display());
    println!();
    println!(
        "ctr --namespace k8s.io images import {}   # on each node; docs/install has the other ways",
        output.display()
    );
    Ok(())
}

/// For which processors, each once.
fn targets(image: &Image) -> Result<Vec<Architecture>> {
    let named = |it: &Architecture| image.target.contains(it);
    let targets: Vec<Architecture> = match (&image.target[..], &image.root) {
        ([], None) => Architecture::ALL.to_vec(),
        ([], Some(_)) => vec![Architecture::here()?],
        _ => Architecture::ALL.into_iter().filter(named).collect(),
    };
    ensure!(
        image.root.is_none() || targets.len() == 1,
        "a folder holds the files for one processor; name one --target with --root, or run this once for each"
    );
    Ok(targets)
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

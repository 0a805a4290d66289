//! Building with cargo, and becoming one of the binaries that it built.
//!
//! The lab, the demo and the tests all use the default profile: they share one set of objects, so the second command of
//! a working day builds nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Packages whose binaries the lab, the demo and the tests run.
const DAILY: [&str; 2] = ["postern", "postern-lab"];

/// The top of the repository.
pub(crate) fn workspace() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Cargo, at the top of the repository, as if it was called from a shell: build scripts that look at what cargo told this process of its
/// own package (`ring`'s does) would run again, and all that depends on them be compiled again, each time that another package asks.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        cargo.env_remove(name);
    }
    cargo
}

/// Builds and says where everything is.
pub(crate) fn report(release: bool) -> Result<()> {
    let built = binaries(&DAILY, release)?;
    for (name, path) in &built.binaries {
        println!("{name:12} {}", path.display());
    }
    if let Some(objects) = &built.objects {
        println!("{:12} {}", "eBPF objects", objects.display());
    }
    Ok(())
}

/// Builds, then replaces this process by the binary: its exit status and the signals it gets are its own.
pub(crate) fn become_binary(name: &str, arguments: &[OsString]) -> Result<()> {
    become_binary_of(&DAILY, name, arguments)
}

/// The same, for a binary of other packages.
pub(crate) fn become_binary_of(packages: &[&str], name: &str, arguments: &[OsString]) -> Result<()> {
    let path = binary(packages, name)?;
    if !nix::unistd::geteuid().is_root() {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        bail!("{name} needs root. It is built; run: sudo {} {}", path.display(), arguments.join(" "));
    }
    let error = Command::new(&path).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", path.display()))
}

/// Builds packages, and returns the path of one of their binaries.
pub(crate) fn binary(packages: &[&str], name: &str) -> Result<PathBuf> {
    let mut built = binaries(packages, false)?;
    built.binaries.remove(name).with_context(|| format!("cargo built no {name}"))
}

/// The same, optimised, as shipped.
pub(crate) fn release_binary(packages: &[&str], name: &str) -> Result<PathBuf> {
    let mut built = binaries(packages, true)?;
    built.binaries.remove(name).with_context(|| format!("cargo built no {name}"))
}

/// What a build left.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Binaries by name.
    pub(crate) binaries: BTreeMap<String, PathBuf>,
    objects: Option<PathBuf>,
}

fn binaries(packages: &[&str], release: bool) -> Result<Built> {
    let mut command = cargo();
    command.args(["build", "--bins"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    command.arg("--message-format=json-render-diagnostics");
    if release {
        command.arg("--release");
    }
    run(&mut command)
}

/// Runs `cargo build` with these arguments.
pub(crate) fn run(command: &mut Command) -> Result<Built> {
    Ok(Built::read(&messages(command)?))
}

/// Runs a command of cargo's that builds. Cargo says one JSON document per thing built.
pub(crate) fn messages(command: &mut Command) -> Result<Vec<Value>> {
    command.arg("--message-format=json-render-diagnostics");
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "building failed ({})", output.status);
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

impl Built {
    /// Reads cargo's messages.
    pub(crate) fn read(messages: &[Value]) -> Self {
        let mut built = Self::default();
        for message in messages.iter().filter(|message| message["profile"]["test"] != true) {
            read_message(message, &mut built);
        }
        built
    }
}

fn read_message(message: &Value, built: &mut Built) {
    let name = message["target"]["name"].as_str();
    if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
        built.binaries.insert(name.to_owned(), path.into());
    }
    // The agent's build script leaves the eBPF programs in its own output folder.
    let of_agent = message["package_id"].as_str().is_some_and(|id| id.contains("/agent#"));
    if message["reason"] == "build-script-executed"
        && of_agent
        && let Some(out) = message["out_dir"].as_str()
    {
        built.objects = Some(Path::new(out).join("postern"));
    }
}

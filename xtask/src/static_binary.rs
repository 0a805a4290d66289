//! Binaries without shared libraries, for this machine's processor or another: the same bytes wherever they are built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use serde_json::Value;

use crate::architecture::Architecture;
use crate::build;
use crate::setup;

/// Builds `postern` for each of these processors, as shipped, and says where they are.
pub(crate) fn report(architectures: &[Architecture]) -> Result<()> {
    for &architecture in architectures {
        let path = build(architecture, "release")?;
        println!("{:12} {}", architecture.rust(), path.display());
    }
    Ok(())
}

/// Builds `postern` of a profile, as images have it, after setting up what that takes.
///
/// For musl, because glibc's name resolution loads libraries at run time, and so is never quite static.
pub(crate) fn build(architecture: Architecture, profile: &str) -> Result<PathBuf> {
    setup::static_binary(architecture)?;
    let mut cargo = build::cargo();
    cargo.args(["build", "--locked", "--package", "postern", "--bin", "postern"]);
    configure(&mut cargo, architecture, profile)?;
    let built = build::run(&mut cargo)?;
    let path = built.binaries.get("postern").context("cargo built no postern")?.clone();
    ensure_static(&path)?;
    Ok(path)
}

/// Builds `postern`, the lab, and tests with these names the same way, of the default profile. In one go: cargo would compile what they
/// share twice, with other features. Returns what cargo says.
pub(crate) fn build_tests(architecture: Architecture, names: &[&str]) -> Result<Vec<Value>> {
    setup::static_binary(architecture)?;
    let mut cargo = build::cargo();
    cargo.args(["test", "--no-run", "--locked", "--package", "postern", "--package", "postern-lab"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name]));
    configure(&mut cargo, architecture, "dev")?;
    build::messages(&mut cargo)
}

/// Says for what, how, and with which tools.
fn configure(cargo: &mut Command, architecture: Architecture, profile: &str) -> Result<()> {
    let target = architecture.static_target();
    cargo.args(["--target", target, "--profile", profile]);
    // Panics name source files: where the sources, crates and toolchain happen to be on this machine must not show.
    let mut flags = vec![remap(&build::workspace(), "/postern")?];
    if let Some(home) = cargo_home() {
        flags.push(remap(&home, "/cargo")?);
    }
    let (sources, name) = library_sources()?;
    flags.push(remap(&sources, &name)?);
    cargo.arg("--config").arg(format!("target.{target}.rustflags=[{}]", flags.join(", ")));
    // Symbols alone are a fifth of it. With them, a crash report would have names; what is needed is in the log.
    cargo.arg("--config").arg(format!("profile.{profile}.strip=\"symbols\""));
    if architecture != Architecture::here()? {
        let compiler = architecture.c_compiler();
        let underscored = target.replace('-', "_");
        cargo.arg("--config").arg(format!("target.{target}.linker=\"{compiler}\""));
        cargo.env(format!("CC_{underscored}"), compiler);
        // Its headers are those of glibc, whose checked variants of functions musl does not have.
        cargo.env(format!("CFLAGS_{underscored}"), "-U_FORTIFY_SOURCE");
    }
    Ok(())
}

fn remap(from: &Path, to: &str) -> Result<String> {
    let from = std::path::absolute(from).with_context(|| format!("find {}", from.display()))?;
    // A JSON string is a TOML one.
    Ok(serde_json::to_string(&format!("--remap-path-prefix={}={to}", from.display()))?)
}

fn cargo_home() -> Option<PathBuf> {
    let default = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(default)
}

/// Where the sources of Rust's own libraries are, and what rustc calls that folder where they are not.
fn library_sources() -> Result<(PathBuf, String)> {
    let rustc = |arguments: &[&str]| -> Result<String> {
        let mut rustc = Command::new("rustc");
        let output = rustc.args(arguments).current_dir(build::workspace()).output().context("run rustc")?;
        ensure!(output.status.success(), "rustc {arguments:?} failed: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = rustc(&["--print", "sysroot"])?;
    let version = rustc(&["--version", "--verbose"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    Ok((Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), format!("/rustc/{commit}")))
}

/// Refuses a binary that asks for a dynamic linker: an image from scratch has none.
fn ensure_static(path: &Path) -> Result<()> {
    let data = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if has_interpreter(&data).with_context(|| format!("read {}", path.display()))? {
        bail!("{} needs a dynamic linker, and would not start in an image from scratch", path.display());
    }
    Ok(())
}

fn has_interpreter(data: &[u8]) -> Result<bool> {
    let header = FileHeader64::<object::Endianness>::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    ensure!(!segments.is_empty(), "it has no program headers");
    Ok(segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::has_interpreter;

    #[test]
    fn a_binary_with_a_dynamic_linker_is_told() {
        // Tests are linked for the host, dynamically.
        let this = std::fs::read("/proc/self/exe").unwrap();
        assert!(has_interpreter(&this).unwrap());
        assert!(has_interpreter(b"#!/bin/sh").is_err());
    }
}

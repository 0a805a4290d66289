//! What a binary without shared libraries is built with: Rust's standard library for musl, and a C compiler for the crates
//! that bring C along. For another processor than this machine's, that compiler is the linker too.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Step, progress};
use crate::architecture::Architecture;
use crate::build::workspace;

/// The standard library and C compiler for a processor.
#[derive(Debug)]
pub(super) struct StaticTarget(pub(super) Architecture);

impl Step for StaticTarget {
    fn short(&self) -> &'static str {
        match self.0 {
            Architecture::Amd64 => "static target x86_64",
            Architecture::Arm64 => "static target aarch64",
        }
    }

    fn name(&self) -> String {
        let Self(architecture) = self;
        let packages = architecture.c_packages().join(" and ");
        format!("Rust's standard library for {}, and {packages}", architecture.static_target())
    }

    fn done(&self) -> Result<bool> {
        Ok(self.has_library()? && self.has_compiler())
    }

    fn install(&self) -> Result<()> {
        let Self(architecture) = self;
        if !self.has_library()? {
            let arguments = ["target", "add", architecture.static_target()];
            progress::run(Command::new("rustup").args(arguments).current_dir(workspace()))?;
        }
        if !self.has_compiler() {
            let packages = architecture.c_packages();
            if !nix::unistd::geteuid().is_root() {
                bail!("installing {} needs root", packages.join(" and "));
            }
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--option", "DPkg::Lock::Timeout=300"]);
            progress::run(apt.args(["install", "--yes", "--no-install-recommends"]).args(packages))?;
        }
        Ok(())
    }

    fn by_hand(&self) -> Vec<String> {
        let Self(architecture) = self;
        let target = architecture.static_target();
        let packages = architecture.c_packages().join(" ");
        vec![
            format!("rustup target add {target}   # without rustup: your distribution's rust-std for it"),
            format!("sudo apt-get install --yes --no-install-recommends {packages}"),
        ]
    }
}

impl StaticTarget {
    fn has_library(&self) -> Result<bool> {
        let mut rustc = Command::new("rustc");
        let target = self.0.static_target();
        rustc.args(["--print", "target-libdir", "--target", target]).current_dir(workspace());
        let output = rustc.output().context("run rustc")?;
        ensure!(output.status.success(), "rustc --print target-libdir failed: {}", output.status);
        let folder = String::from_utf8_lossy(&output.stdout);
        Ok(Path::new(folder.trim()).join("self-contained/libc.a").exists())
    }

    /// Whether there is a compiler, and headers that it finds.
    fn has_compiler(&self) -> bool {
        let mut compiler = Command::new(self.0.c_compiler());
        compiler.args(["-include", "string.h", "-fsyntax-only", "-x", "c", "-"]);
        compiler.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    }
}

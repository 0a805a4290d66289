//! What a binary without shared libraries is built with: Rust's standard library for musl, and a C compiler for the crates
//! that bring C along.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Step, progress};
use crate::build::workspace;

/// The target's standard library and C compiler.
#[derive(Debug)]
pub(super) struct StaticTarget;

/// The musl target of the machine we are on.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

impl Step for StaticTarget {
    fn short(&self) -> &'static str {
        "static target"
    }

    fn name(&self) -> String {
        format!("Rust's standard library for {}, and musl-gcc", target())
    }

    fn done(&self) -> Result<bool> {
        Ok(has_library()? && has_compiler())
    }

    fn install(&self) -> Result<()> {
        if !has_library()? {
            let arguments = ["target", "add", &target()];
            progress::run(Command::new("rustup").args(arguments).current_dir(workspace()))?;
        }
        if !has_compiler() {
            if !nix::unistd::geteuid().is_root() {
                bail!("installing musl-tools needs root");
            }
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            progress::run(apt.args(["install", "--yes", "--no-install-recommends", "musl-tools"]))?;
        }
        Ok(())
    }

    fn by_hand(&self) -> Vec<String> {
        vec![
            format!("rustup target add {}   # without rustup: your distribution's rust-std for it", target()),
            "sudo apt-get install --yes --no-install-recommends musl-tools".to_owned(),
        ]
    }
}

fn has_library() -> Result<bool> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", &target()]).current_dir(workspace());
    let output = rustc.output().context("run rustc")?;
    ensure!(output.status.success(), "rustc --print target-libdir failed: {}", output.status);
    let folder = String::from_utf8_lossy(&output.stdout);
    Ok(Path::new(folder.trim()).join("self-contained/libc.a").exists())
}

fn has_compiler() -> bool {
    Command::new("musl-gcc").arg("--version").output().is_ok_and(|output| output.status.success())
}

//! The sources of Rust's core library: the eBPF programs are built with `-Z build-std=core`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Step, progress};
use crate::build::workspace;

/// The `rust-src` component of the pinned toolchain.
#[derive(Debug)]
pub(super) struct RustSrc;

impl Step for RustSrc {
    fn short(&self) -> &'static str {
        "rust-src"
    }

    fn name(&self) -> String {
        "rust-src, the sources of Rust's core library".to_owned()
    }

    fn done(&self) -> Result<bool> {
        let output = Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace()).output();
        let output = output.context("run rustc")?;
        ensure!(output.status.success(), "rustc --print sysroot failed: {}", output.status);
        let sysroot = String::from_utf8_lossy(&output.stdout);
        Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
    }

    fn install(&self) -> Result<()> {
        progress::run(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(workspace()))
    }

    fn by_hand(&self) -> Vec<String> {
        vec!["rustup component add rust-src   # without rustup: your distribution's rust-src of the same version".to_owned()]
    }
}

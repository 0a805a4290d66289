//! bpf-linker, built against the LLVM that rustc uses, in a folder of its own in the user's cache.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Step, progress};
use crate::build;

/// The LLVM of the pinned rustc.
pub(super) const LLVM: &str = "22";
/// The linker's version. `agent/build.rs` looks for the same folder name.
const VERSION: &str = "0.13.0";

/// The linker.
#[derive(Debug)]
pub(super) struct BpfLinker;

impl Step for BpfLinker {
    fn short(&self) -> &'static str {
        "bpf-linker"
    }

    fn name(&self) -> String {
        format!("bpf-linker {VERSION} with LLVM {LLVM} (a minute or two)")
    }

    fn done(&self) -> Result<bool> {
        let linker = root()?.join("bin/bpf-linker");
        let status =
            Command::new(linker).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.is_ok_and(|status| status.success()))
    }

    fn install(&self) -> Result<()> {
        let root = root()?;
        progress::run(
            build::cargo()
                .env("LLVM_PREFIX", llvm_prefix())
                // Those of `cargo xtask` itself are for this repository.
                .env_remove("CARGO_TARGET_DIR")
                .args(arguments())
                .arg("--force")
                .arg("--root")
                .arg(root),
        )
    }

    fn by_hand(&self) -> Vec<String> {
        let root = root().map_or_else(|_| "FOLDER".to_owned(), |root| root.display().to_string());
        vec![format!("LLVM_PREFIX={} cargo {} --root {root}", llvm_prefix(), arguments().join(" "))]
    }
}

fn arguments() -> [String; 8] {
    let feature = format!("llvm-{LLVM}");
    [
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        &feature,
    ]
    .map(str::to_owned)
}

fn llvm_prefix() -> String {
    format!("/usr/lib/llvm-{LLVM}")
}

/// `$XDG_CACHE_HOME/postern/...`, as `agent/build.rs` has it.
fn root() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join(format!("postern/bpf-linker-{VERSION}-llvm-{LLVM}")))
}

//! `cargo xtask fuzz`: the fuzzers of the kernel tests, alone and side by side.

use anyhow::{Context as _, Result, bail};

use crate::build::cargo;

/// Runs them for so long; with a seed, again.
pub(crate) fn run(seconds: u64, seed: Option<u64>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("loading programs needs root; run: sudo env \"PATH=$PATH\" cargo xtask fuzz");
    }
    let mut command = cargo();
    command.args(["test", "--package", "postern", "--test", "kernel", "--"]);
    command.args(["fuzz::fuzz", "wire_fuzz::wire_fuzz", "--exact", "--nocapture"]);
    command.env("POSTERN_FUZZ_SECONDS", seconds.to_string());
    if let Some(seed) = seed {
        command.env("POSTERN_FUZZ_SEED", seed.to_string());
    }
    if !command.status().context("run cargo test")?.success() {
        bail!("a fuzzer failed; see above");
    }
    Ok(())
}

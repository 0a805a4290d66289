//! `cargo xtask bench`: all figures in the documentation come from here.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::build::cargo;

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Bench {
    /// What an event costs the policy engine, in a cluster of 10,000 pods and 1,000 policies.
    Engine,
}

/// Runs a benchmark.
pub(crate) fn run(what: Bench, arguments: &[OsString]) -> Result<()> {
    let benchmark = match what {
        Bench::Engine => ["--package", "postern-policy", "--features", "testkit", "--bench", "engine"],
    };
    let mut command = cargo();
    command.arg("bench").args(benchmark).arg("--").args(arguments);
    if !command.status().context("run cargo bench")?.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

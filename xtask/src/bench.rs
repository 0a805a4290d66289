//! `cargo xtask bench`: all figures in the documentation come from here.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use crate::build::{become_binary, cargo};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// What an event costs the policy engine, in a cluster of 10,000 pods and 1,000 policies.
    ///
    /// Examples:
    ///   cargo xtask bench engine
    ///   cargo xtask bench engine -- --save-baseline before
    #[command(verbatim_doc_comment)]
    Engine {
        /// Arguments of the benchmark.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// What a packet costs in the kernel, for policy sets from small to large.
    ///
    /// Examples:
    ///   cargo xtask bench packet
    ///   cargo xtask bench packet --quick
    ///   cargo xtask bench packet --help
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Packet {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// What policy costs traffic: Postern, nftables and iptables against no policy.
    ///
    /// Examples:
    ///   cargo xtask bench traffic
    ///   cargo xtask bench traffic --quick
    ///   cargo xtask bench traffic --help
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Traffic {
        /// Arguments of `postern-lab bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// One agent in a cluster of 10,000 pods, 1,000 policies and 10,000 Services, with a real API server: time to ready,
    /// memory, traffic, from creating a policy to the first packet that shows it, and what changing endpoint slices take.
    ///
    /// Examples:
    ///   cargo xtask bench scale
    ///   cargo xtask bench scale --help
    #[command(verbatim_doc_comment, disable_help_flag = true)]
    Scale {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs a benchmark.
pub(crate) fn run(what: Bench) -> Result<()> {
    match what {
        Bench::Engine { arguments } => {
            let engine = ["--package", "postern-policy", "--features", "testkit", "--bench", "engine"];
            bench(&engine, &arguments)
        }
        Bench::Packet { arguments } => {
            // What is measured runs in the kernel, and is optimised in every profile: the tests' objects will do.
            bench(&["--package", "postern", "--profile", "dev", "--bench", "packet"], &arguments)
        }
        Bench::Traffic { arguments } => {
            let arguments: Vec<OsString> = [OsString::from("bench")].into_iter().chain(arguments).collect();
            become_binary("postern-lab", &arguments)
        }
        Bench::Scale { arguments } => crate::cluster::bench(&arguments),
    }
}

fn bench(which: &[&str], arguments: &[OsString]) -> Result<()> {
    let mut command = cargo();
    command.arg("bench").args(which).arg("--").args(arguments);
    if !command.status().context("run cargo bench")?.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

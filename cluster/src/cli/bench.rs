//! `bench`

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use postern_cluster::bench::{self, Options};
use postern_cluster::world::Binaries;

/// Measure one agent in a large cluster: time to ready, memory, traffic, from creating a policy to the first packet that
/// shows it, and what endpoint slices that change all the time take of a core.
///
/// Examples:
///   cargo xtask bench scale
///   cargo xtask bench scale --pods 1000 --policies 100 --services 1000 --rounds 20
///   cargo xtask bench scale -o json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Pods of other nodes, 100 a node.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Policies, 10 in each of 100 namespaces at the default.
    #[arg(long, default_value_t = 1_000)]
    policies: usize,
    /// Services, each with five endpoints in a slice.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Policies created and deleted while packets are sent every millisecond.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// For how long 100 endpoint slices a second change while the agent's CPU time is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    churn_seconds: u64,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    /// The `postern` binary.
    #[arg(long, hide = true)]
    postern: PathBuf,
    /// The `postern-lab` binary.
    #[arg(long, hide = true)]
    lab: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    progress.enable_steady_tick(std::time::Duration::from_millis(200));
    let options = Options {
        pods: arguments.pods,
        policies: arguments.policies,
        services: arguments.services,
        rounds: arguments.rounds,
        churn: std::time::Duration::from_secs(arguments.churn_seconds),
    };
    let binaries = Binaries { postern: arguments.postern.clone(), lab: arguments.lab.clone() };
    let report = bench::run(options, binaries, &|what| progress.set_message(what.to_owned()));
    progress.finish_and_clear();
    let report = report?;
    match arguments.output {
        Output::Text => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

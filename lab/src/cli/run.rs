//! `postern-lab run`: directories, one after the other, and the matrix that is observed after each.

use std::path::PathBuf;

use postern_lab::lab::Lab;
use postern_lab::matrix::{self, Cell};
use postern_lab::scenario::{Scenario, Snapshot};
use serde::Serialize;

use super::{Failure, Output, programs, style};

/// Bring scenarios up, apply them to running agents, print the connectivity that real sockets observe.
///
/// Examples:
///   cargo xtask lab run -f lab/scenarios/demo/base
///   cargo xtask lab run -f before -f after -o json
///   cargo xtask lab run -f my-cluster --expect
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// A directory of manifests, with an optional lab.yaml. Each further one replaces the content of the one before.
    #[arg(short = 'f', long = "filename", value_name = "DIR", required = true, num_args = 1..)]
    directories: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Compare with what the policy engine computes; exit 1 and name the cells that differ.
    #[arg(long)]
    expect: bool,
    /// The agent's binary [default: `postern` beside this one].
    #[arg(long, value_name = "PATH")]
    postern: Option<PathBuf>,
    /// Run no agents: what the network does without policy.
    #[arg(long, conflicts_with = "postern")]
    no_agents: bool,
}

#[derive(Serialize)]
struct Step<'a> {
    step: usize,
    probes: &'a [Cell],
}

/// Runs all steps.
pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let snapshots: Vec<Snapshot> =
        arguments.directories.iter().map(|directory| Snapshot::read(directory)).collect::<Result<_, _>>()?;
    let mut programs = programs(arguments.postern)?;
    if arguments.no_agents {
        programs.postern = None;
    }
    let several = snapshots.len() > 1;
    let mut lab = Lab::up(programs, Scenario::covering(&snapshots)?).await?;
    let (mut differs, mut before) = (false, None);
    for (index, (directory, snapshot)) in arguments.directories.iter().zip(&snapshots).enumerate() {
        let step = index + 1;
        lab.apply_directory(directory).await?;
        let observation = lab.observe().await?;
        let cells = matrix::cells(&observation.matrix);
        match arguments.output {
            Output::Json if several => {
                println!("{}", serde_json::to_string(&Step { step, probes: &cells })?);
            }
            Output::Json => println!("{}", serde_json::to_string_pretty(&cells)?),
            Output::Table => {
                println!("step {step}: {}", directory.display());
                println!("{}", style::table(&observation.matrix, before.as_ref()));
            }
        }
        if arguments.expect {
            let engine = postern_policy::matrix::matrix(&snapshot.objects, &snapshot.lab.externals());
            for difference in matrix::differences(&matrix::matrix(engine), &observation.matrix) {
                differs = true;
                eprintln!("step {step}: {difference}");
            }
        }
        before = Some(observation.matrix);
    }
    if differs { Err(Failure::Differs) } else { Ok(()) }
}

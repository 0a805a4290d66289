//! Command line.

mod build;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A real Kubernetes in network namespaces of this machine.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Arguments),
}

/// Parses and runs.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(arguments) => build::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The command line: what can be said, and the commands that say it.

mod agent;
mod dump;
mod load;
mod matrix;
mod status;
mod timeout;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// Kubernetes NetworkPolicy for any CNI, enforced in eBPF.
#[derive(Debug, Parser)]
#[command(name = "postern", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Agent),
    Matrix(matrix::Matrix),
    Status(status::Status),
    Dump(dump::Dump),
    Load(load::Load),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A table without lines, for terminals of any width.
fn plain_table<T: Into<comfy_table::Cell>>(header: impl IntoIterator<Item = T>) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<_>>());
    table
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// What went wrong, with what to do next.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Agent(it) => it.run(),
            Command::Matrix(it) => it.run(),
            Command::Status(it) => it.run(),
            Command::Dump(it) => it.run(),
            Command::Load(it) => it.run(),
        }
    }
}

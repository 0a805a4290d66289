//! The command line: what can be said, and the commands that say it.

#[macro_use]
mod out;
mod agent;
mod config;
mod dump;
mod load;
mod matrix;
mod status;
mod timeout;
mod uninstall;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

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
    Uninstall(uninstall::Uninstall),
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
    /// Reads the command line, and the configuration file that it names.
    ///
    /// # Errors
    ///
    /// The configuration file cannot be used. Bad usage ends the process, with 2.
    pub fn read() -> Result<Self> {
        let typed: Vec<OsString> = std::env::args_os().collect();
        // Parsed as typed first: whatever is wrong there is said as it was typed.
        let cli = Self::parse_from(&typed);
        let Command::Agent(agent::Agent { config: Some(file), .. }) = &cli.command else { return Ok(cli) };
        let mut command = Self::command();
        command.build();
        let agent = command.find_subcommand("agent").context("the command line has no agent")?;
        let flags = config::flags(file, agent)?;
        // What is typed stands last, and wins.
        // No flag comes before the subcommand.
        let (before, after) = typed.split_at(typed.len().min(2));
        Ok(Self::parse_from(before.iter().chain(&flags).chain(after)))
    }

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
            Command::Uninstall(it) => it.run(),
        }
    }
}

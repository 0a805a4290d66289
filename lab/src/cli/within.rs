//! `postern-lab within`: runs a command in a namespace. The launcher of agents and of `lab exec`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use postern_lab::netns;

/// Runs a command in a network namespace.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The namespace's file.
    #[arg(long)]
    netns: PathBuf,
    /// Kill the command when the lab dies.
    #[arg(long)]
    die_with_parent: bool,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Becomes the command; returns only when that fails.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.die_with_parent {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before we asked.
        if nix::unistd::getppid().as_raw() == 1 {
            bail!("the lab is gone");
        }
    }
    netns::enter(&arguments.netns)?;
    let (program, rest) = arguments.command.split_first().context("no command given")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

//! Command line.

mod bench;
mod demo;
mod keep;
mod run;
mod style;
mod within;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use postern_lab::lab::Programs;

/// A cluster in network namespaces: nodes, pods and hosts outside, with real agents and real sockets.
///
/// Exit status: 0 done, 1 what was observed is not what was expected, 2 wrong usage, 3 the lab itself failed,
/// 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "postern-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Demo(demo::Arguments),
    Bench(bench::Arguments),
    Up(keep::Up),
    /// Take down the lab that is up, and what killed labs left.
    Down,
    /// Say what is up, and how its agents are.
    Status,
    Exec(keep::Exec),
    /// Holds the lab that `up` brought up.
    #[command(hide = true)]
    Supervise(keep::Up),
    /// A helper inside a namespace: JSON lines on stdin and stdout.
    #[command(hide = true)]
    Prober {
        /// The namespace's file.
        #[arg(long)]
        netns: PathBuf,
    },
    #[command(hide = true)]
    Within(within::Arguments),
}

/// How to print.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs. A matrix is an array of cells, one line per step where there are several.
    Json,
}

/// How a command ended, other than well.
#[derive(Debug)]
enum Failure {
    /// What was observed is not what was expected. Said already.
    Differs,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// The lab failed.
    Lab(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Lab(error.into())
    }
}

/// Parses and runs.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(arguments) => block_on(run::run(arguments)),
        Command::Demo(arguments) => block_on(demo::run(arguments)),
        Command::Bench(arguments) => block_on(bench::run(arguments)),
        Command::Up(arguments) => keep::up(&arguments).map_err(Failure::Lab),
        Command::Down => keep::down().map_err(Failure::Lab),
        Command::Status => keep::status().map_err(Failure::Lab),
        Command::Exec(arguments) => keep::exec(&arguments).map_err(Failure::Lab),
        Command::Supervise(arguments) => block_on(keep::supervise(arguments)),
        Command::Prober { netns } => postern_lab::prober::run(&netns).map_err(Failure::Lab),
        Command::Within(arguments) => within::run(&arguments).map_err(Failure::Lab),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Differs) => ExitCode::from(1),
        Err(Failure::Interrupted) => {
            eprintln!("postern-lab: interrupted; everything is taken down");
            ExitCode::from(130)
        }
        Err(Failure::Lab(error)) => {
            eprintln!("postern-lab: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// Runs `work` until it is done or a signal comes. Dropping it half-way takes the lab down.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    // One thread: agents are told to die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = interrupt.recv() => Err(Failure::Interrupted),
            _ = terminate.recv() => Err(Failure::Interrupted),
        }
    })
}

/// The binaries to run: this one, and `postern` beside it.
fn programs(postern: Option<PathBuf>) -> anyhow::Result<Programs> {
    let lab = std::env::current_exe()?;
    let postern = postern.unwrap_or_else(|| lab.with_file_name("postern"));
    Ok(Programs { lab, postern: Some(postern) })
}

//! Command line.

mod bench;
mod build;
mod e2e;
mod into;
mod keep;
mod status;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A real Kubernetes in network namespaces of this machine: etcd, kube-apiserver, kubelets, containerd, CNI plugins.
///
/// Needs root. Nothing listens on the machine's own addresses.
///
/// Examples:
///   cargo xtask cluster up
///   cargo xtask cluster kubectl get pods --all-namespaces
///   cargo xtask cluster exec node-1 -- ip route
///   cargo xtask cluster down
///
/// Exit status: 0 done, 1 failed, 2 wrong usage; `kubectl`, `helm` and `exec` give that of what they run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(keep::Up),
    /// Take down the cluster that is up, and what killed ones left.
    Down,
    Status(status::Arguments),
    Kubectl(into::Arguments),
    Helm(into::Arguments),
    Exec(into::Exec),
    Load(into::Load),
    Build(build::Arguments),
    Bench(bench::Arguments),
    E2e(e2e::Arguments),
    /// Holds the cluster that `up` brought up.
    #[command(hide = true)]
    Supervise(keep::Up),
    /// The first process of a node.
    #[command(hide = true)]
    Node {
        /// Its description.
        #[arg(long)]
        spec: PathBuf,
    },
}

/// Colours: on a terminal, unless `NO_COLOR` is set.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}

/// Parses and runs.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(arguments) => keep::up(&arguments),
        Command::Down => keep::down(),
        Command::Status(arguments) => status::run(arguments),
        Command::Kubectl(arguments) => into::kubectl(&arguments),
        Command::Helm(arguments) => into::helm(&arguments),
        Command::Exec(arguments) => into::exec(&arguments),
        Command::Load(arguments) => into::load(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::E2e(arguments) => return e2e::run(arguments),
        Command::Supervise(arguments) => keep::supervise(&arguments),
        Command::Node { spec } => postern_cluster::init::run(&spec).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

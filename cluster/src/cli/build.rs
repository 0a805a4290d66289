//! `postern-cluster build`: Kubernetes, etcd, CoreDNS and Helm, into the cache.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use postern_cluster::programs::{self, Program, Progress};

/// Without a terminal, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Build Kubernetes, etcd, CoreDNS and Helm with Go, once: about 20 minutes on two processors. Says where they are.
///
/// Examples:
///   cargo xtask cluster build
///   cargo xtask cluster build etcd kube-apiserver
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Only these [default: all].
    #[arg(value_parser = program, value_name = "PROGRAM")]
    programs: Vec<Program>,
}

fn program(name: &str) -> Result<Program, String> {
    let known = || Program::ALL.map(Program::name).join(", ");
    Program::ALL
        .into_iter()
        .find(|program| program.name() == name)
        .ok_or_else(|| format!("there are: {}", known()))
}

/// Builds what is missing.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let programs = if arguments.programs.is_empty() { &Program::ALL[..] } else { &arguments.programs };
    ensure(programs)?;
    for program in programs {
        println!("{:24} {:8} {}", program.name(), program.version(), program.path()?.display());
    }
    Ok(())
}

/// Builds what is missing of `programs`, with a line of progress.
pub(super) fn ensure(programs: &[Program]) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("  {spinner} {elapsed} {wide_msg}")?);
    let quiet = !std::io::stderr().is_terminal();
    let (mut started, mut said, mut packages) = (Instant::now(), Instant::now(), 0_u32);
    programs::build(programs, |progress| match progress {
        Progress::Building(program) => {
            (started, said, packages) = (Instant::now(), Instant::now(), 0);
            bar.enable_steady_tick(Duration::from_millis(120));
            eprintln!("cluster: building {} {}", program.name(), program.version());
        }
        Progress::Compiled(package) => {
            packages += 1;
            bar.set_message(format!("{packages} packages, {package}"));
            if quiet && said.elapsed() >= SIGN_OF_LIFE {
                eprintln!("  {} s: {packages} packages, {package}", started.elapsed().as_secs());
                said = Instant::now();
            }
        }
        Progress::Built(program) => {
            eprintln!("cluster: {} is built ({} s)", program.name(), started.elapsed().as_secs());
        }
    })?;
    bar.finish_and_clear();
    Ok(())
}

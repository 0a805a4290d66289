//! What a packet costs: nanoseconds by `BPF_PROG_TEST_RUN`, for policy sets from small to large.
//!
//! | module | what it is |
//! |---|---|
//! | [`sets`] | the policy sets, as manifests would have them |
//! | [`cells`] | what is measured: kinds of packets, and what must become of them |
//! | [`frames`] | the packets' bytes |
//! | [`netns`] | a namespace whose sockets can be asked |
//! | [`rig`] | one loaded object with one policy set |
//! | [`rounds`] | measures everything again and again, in another order each time |
//! | [`samples`] | medians and quartiles |
//! | [`targets`] | what the figures should be |
//! | [`report`] | table and JSON |

mod cells;
mod frames;
mod netns;
mod report;
mod rig;
mod rounds;
mod samples;
mod sets;
mod targets;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use self::report::Report;

/// Measures what a packet costs in the kernel, in nanoseconds, net of an empty program and of varying the packets.
///
/// Programs are loaded, not attached: nothing on this machine's network changes. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench packet",
    bin_name = "cargo xtask bench packet",
    after_help = "Examples:
  cargo xtask bench packet
  cargo xtask bench packet --rounds 51 -o json > packet.json
  cargo xtask bench packet --only 'denied' --sets peers
  cargo xtask bench packet --quick

Exit codes: 0 measured; 1 something could not be measured, or with --check a target was missed; 2 bad usage."
)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// A smoke run: small policy sets, few packets; the figures mean little
    #[arg(long)]
    quick: bool,

    /// Only packets whose name holds this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Only policy sets that grow in this
    #[arg(long, value_name = "WHAT", value_enum)]
    sets: Option<sets::Dimension>,

    /// Measure the programs of this object instead: of another build, to compare
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,

    /// Fail when a target is missed
    #[arg(long)]
    check: bool,

    /// How to print the figures
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Measures and prints.
///
/// # Errors
///
/// Programs cannot be loaded, or packets did not end as they should have.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(usage) => {
            usage.print()?;
            return Ok(ExitCode::from(u8::try_from(usage.exit_code())?));
        }
    };
    ensure!(nix::unistd::geteuid().is_root(), "loading programs needs root");
    let _netns = netns::enter()?;
    let report = Report::new(&rounds::measure(&options)?);
    match options.output {
        Output::Table => report.print(),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let missed = report.missed();
    if options.check && missed > 0 {
        eprintln!("bench packet: {missed} figures miss their target");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

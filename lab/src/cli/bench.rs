//! `postern-lab bench`: what policy costs traffic.

mod table;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use postern_lab::bench::{self, Options, Progress};

use super::{Failure, Output, programs};

/// Rounds of `--quick`.
const QUICK: u32 = 10;
/// Without a terminal, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Measure what policy costs traffic: Postern (TCX and clsact), nftables and iptables against no policy, in one run.
///
/// Each scenario is a node in a network namespace that forwards between two pods. One client keeps
/// sockets open in all of them and visits them in random order; it and the server are pinned to one
/// processor, ahead of everything else there. Figures are medians over rounds; ratios are to no policy
/// in the same round. Every scenario must refuse what its policy does not allow, before and after, or
/// nothing is printed.
///
/// Examples:
///   cargo xtask bench traffic
///   cargo xtask bench traffic --quick --only postern
///   cargo xtask bench traffic --rounds 300 -o json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// How often everything is measured; a round takes about a second and a half.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A smoke test of some 20 seconds: figures to look at, not to quote.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Only scenarios whose name holds this, beside no policy. May be given several times.
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Of the random order.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Client and server on a processor each: what waking the other one costs then hides the packets' way.
    #[arg(long)]
    apart: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// The agent's binary [default: `postern` beside this one].
    #[arg(long, value_name = "PATH")]
    postern: Option<PathBuf>,
}

/// Measures, and prints.
pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let rounds = if arguments.quick { QUICK } else { arguments.rounds };
    let options = Options { rounds, only: arguments.only, seed: arguments.seed, apart: arguments.apart };
    let mut shown = Shown::of(rounds)?;
    let report = bench::run(&programs(arguments.postern)?, &options, |progress| shown.show(progress)).await?;
    shown.bar.finish_and_clear();
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print!("{}", table::render(&report)),
    }
    Ok(())
}

/// Progress on stderr.
struct Shown {
    bar: ProgressBar,
    rounds: u32,
    /// When something was said last, where no terminal shows the bar.
    said: Option<Instant>,
}

impl Shown {
    fn of(rounds: u32) -> Result<Self, Failure> {
        let bar = ProgressBar::new(rounds.into());
        bar.set_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} {elapsed} {wide_msg}")?);
        Ok(Self { bar, rounds, said: (!std::io::stderr().is_terminal()).then(Instant::now) })
    }

    fn show(&mut self, progress: Progress) {
        let message = match progress {
            Progress::Building(scenario) => format!("setting up {scenario}"),
            Progress::Measured(rounds) => {
                self.bar.set_position(rounds.into());
                format!("{rounds} of {} rounds", self.rounds)
            }
        };
        if let Some(said) = &mut self.said
            && said.elapsed() >= SIGN_OF_LIFE
        {
            eprintln!("bench: {message}");
            *said = Instant::now();
        }
        self.bar.set_message(message);
    }
}

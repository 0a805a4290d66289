//! `cargo xtask e2e`: policies on a real cluster, probed with real tools.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use postern_cluster::e2e::{self, Options, Report};
use postern_cluster::kept::Kept;
use postern_cluster::{api, image};
use postern_lab::{netns, table::Table};
use tokio::signal::unix::{SignalKind, signal};

use super::status::Output;

/// What a user's cluster can pull.
const NETSHOOT: &str = "nicolaka/netshoot";
/// Where no terminal says otherwise.
const WIDTH: usize = 160;

/// Try policies on a cluster: pods in three namespaces on two nodes, seventeen steps, real probes.
///
/// Without --kubeconfig on the cluster that `cargo xtask cluster up` brought up. After each step: what
/// passes (+) and what does not (-); a * is where that is not what the policies say. Whatever enforces
/// policy there is tried; with nothing that does, most steps differ. Makes namespaces called
/// postern-e2e-*, and deletes them, also when interrupted.
///
/// Examples:
///   cargo xtask cluster up && cargo xtask e2e
///   cargo xtask e2e --kubeconfig ~/.kube/config
///   cargo xtask e2e --patience 20 -o json
///
/// Exit status: 0 all as expected, 1 differences, 3 it could not be tried, 130 interrupted.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Another cluster's kubeconfig; its current context is used.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The pods' image, with the tools of nicolaka/netshoot [default: that, or postern.test/netshoot:1 on our own cluster].
    #[arg(long)]
    image: Option<String>,
    /// Seconds that the cluster may take to be as expected after a change.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
    /// Only the first so many steps.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    steps: usize,
    /// Ask pods' addresses alone, and no Services: for a cluster where nothing does them.
    #[arg(long)]
    no_services: bool,
    /// How to print; JSON is one object a step.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Tries.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    match try_it(arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn try_it(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (kubeconfig, default_image) = if let Some(file) = arguments.kubeconfig {
        (file, NETSHOOT)
    } else {
        let kept = Kept::find()?;
        netns::enter(&kept.netns)?;
        (kept.kubeconfig, image::TOOLS)
    };
    let image = arguments.image.unwrap_or_else(|| default_image.to_owned());
    let patience = Duration::from_secs(arguments.patience);
    let options = Options { image, patience, steps: arguments.steps, services: !arguments.no_services };
    let output = arguments.output;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = api::client(&kubeconfig).await?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut steps = 0;
        let result = tokio::select! {
            result = e2e::run(&client, &options, |report| {
                steps = report.of;
                print(&report, output);
            }) => Some(result),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let wrong = match result {
            Some(Ok(wrong)) => wrong,
            Some(Err(error)) => {
                // The first failure is the one to report.
                let _ = e2e::clean_up(&client).await;
                return Err(error.into());
            }
            None => {
                eprintln!("e2e: interrupted; cleaning up");
                e2e::clean_up(&client).await.context("clean up")?;
                return Ok(ExitCode::from(130));
            }
        };
        if wrong > 0 {
            eprintln!("e2e: {wrong} cells are not as expected");
            return Ok(ExitCode::FAILURE);
        }
        eprintln!("e2e: all {steps} steps as expected");
        Ok(ExitCode::SUCCESS)
    })
}

fn print(report: &Report, output: Output) {
    match output {
        // A report holds nothing that JSON cannot say.
        Output::Json => println!("{}", serde_json::to_string(report).unwrap_or_default()),
        Output::Table => {
            let Report { step, of, title, seconds, expected, observed, differences } = report;
            let verdict = if differences.is_empty() { "as expected" } else { "NOT as expected" };
            println!("Step {step} of {of}: {title}: {verdict} ({seconds:.1} s)\n");
            let width =
                std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH);
            println!(
                "{}",
                Table { matrix: observed, before: Some(expected), colours: super::colours(), width }
            );
            for difference in differences {
                println!("  {difference}");
            }
        }
    }
}

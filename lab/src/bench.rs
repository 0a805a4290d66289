//! `cargo xtask bench traffic`: what enforcing policy costs packets, connections and streams, against no policy at all, and
//! against rule sets of nft and iptables that say the same.
//!
//! [`site`] builds a node with two pods for each scenario, where [`floors`] attaches programs that enforce nothing;
//! [`sockets`] opens what stays open, [`rounds`] has [`workload`] and [`server`] measure all of them in turn, [`checks`]
//! makes sure that each enforces what it should, before and after, and [`report`] sums up.

mod checks;
mod enforcer;
mod floors;
mod manifests;
mod policy;
mod processor;
mod report;
mod rounds;
mod rules;
mod server;
mod site;
mod sockets;
mod statistics;
mod workload;

use std::io;
use std::path::PathBuf;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::lab::Programs;
use crate::{agent, netns, run, scenario, sysctl, topology, working_copy};
use enforcer::Enforcer;
pub use processor::Processors;
pub use report::{Figure, Report, ScenarioReport, Skipped};
use site::{Site, Sites};
pub use workload::Workload;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often everything is measured.
    pub rounds: u32,
    /// Only scenarios whose name holds one of these, beside those without policy. None: all.
    pub only: Vec<String>,
    /// Of the order in which sites are visited.
    pub seed: u64,
    /// Client and server on a processor each, where there are two.
    pub apart: bool,
}

/// How far it is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// This scenario is being set up.
    Building(String),
    /// So many rounds are measured.
    Measured(u32),
}

/// The benchmark failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The wires.
    #[error(transparent)]
    Topology(#[from] topology::Error),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// Our own manifests.
    #[error(transparent)]
    Scenario(#[from] scenario::Error),
    /// Their files.
    #[error(transparent)]
    Files(#[from] working_copy::Error),
    /// Their fingerprint.
    #[error("fingerprint of {path}: {error}", path = .path.display())]
    Digest {
        /// Where they are.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// An agent.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// No agent to run.
    #[error("the benchmark needs the postern binary")]
    NoAgent,
    /// A namespace that should be there.
    #[error("{scenario}: a namespace is missing")]
    NoNamespace {
        /// The scenario.
        scenario: String,
    },
    /// A program that enforces nothing.
    #[error("{scenario}: {error}")]
    Floor {
        /// The scenario.
        scenario: String,
        /// What is wrong with it.
        error: floors::Error,
    },
    /// A rule set.
    #[error("{scenario}: {error}")]
    Rules {
        /// The scenario.
        scenario: String,
        /// What is wrong with it.
        error: rules::Error,
    },
    /// A scenario is not what it is taken for.
    #[error(transparent)]
    Checks(#[from] checks::Error),
    /// Measuring.
    #[error(transparent)]
    Rounds(#[from] rounds::Error),
    /// Nothing to compare with no policy.
    #[error("no scenario's name holds {}; there are: {}", .asked.join(" or "), .known.join(", "))]
    NoScenario {
        /// What was asked for.
        asked: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The measuring thread.
    #[error("the thread that measures: {error}")]
    Thread {
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
}

/// Builds all scenarios, measures, and takes everything down.
///
/// # Errors
/// Something cannot be built, does not enforce what it should, or fails while it is measured.
pub async fn run(
    programs: &Programs,
    options: &Options,
    mut progress: impl FnMut(Progress),
) -> Result<Report, Error> {
    let enforcers = chosen(&options.only)?;
    let Sites { ready: sites, skipped, held } =
        Sites::build(programs, &enforcers, |enforcer| progress(Progress::Building(enforcer.to_string())))
            .await?;
    checks::enforcement(&sites)?;
    let (done, mut rounds) = mpsc::unbounded_channel();
    let (finished, result) = oneshot::channel();
    let of_thread = options.clone();
    // Not this thread: it stays where it is while the other one moves through the pods' namespaces.
    let measuring = thread::Builder::new().name("client".to_owned()).spawn(move || {
        // Where nobody listens any more, the benchmark is being taken down.
        let samples = rounds::run(&sites, &of_thread, |round| {
            let _ = done.send(round);
        });
        let _ = finished.send((samples, sites));
    });
    measuring.map_err(|error| Error::Thread { error })?;
    while let Some(round) = rounds.recv().await {
        progress(Progress::Measured(round));
    }
    let ended = |_| Error::Thread { error: io::ErrorKind::BrokenPipe.into() };
    let (samples, sites) = result.await.map_err(ended)?;
    let samples = samples?;
    checks::enforcement(&sites)?;
    checks::conntrack(&sites)?;
    let report = summary(&sites, &samples, options.rounds, skipped);
    drop(held);
    Ok(report)
}

fn chosen(only: &[String]) -> Result<Vec<Enforcer>, Error> {
    let (open, policies): (Vec<_>, Vec<_>) =
        Enforcer::all().into_iter().partition(|scenario| scenario.is_nobody());
    let known = || policies.iter().map(ToString::to_string).collect();
    let wanted = |scenario: &&Enforcer| {
        only.is_empty() || only.iter().any(|part| scenario.to_string().contains(&**part))
    };
    let chosen: Vec<Enforcer> = policies.iter().filter(wanted).copied().collect();
    if chosen.is_empty() {
        return Err(Error::NoScenario { asked: only.to_owned(), known: known() });
    }
    Ok(open.into_iter().chain(chosen).collect())
}

fn summary(sites: &[Site], samples: &rounds::Samples, rounds: u32, skipped: Vec<Skipped>) -> Report {
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let scenarios = report::scenarios(sites, samples);
    Report {
        kernel: kernel.unwrap_or_default(),
        processors: samples.processors,
        rounds,
        rules: enforcer::RULES,
        iptables: rules::iptables_version(),
        noise_floor: report::noise_floor(sites, &scenarios),
        scenarios,
        skipped,
    }
}

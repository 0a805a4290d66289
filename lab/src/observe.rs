//! Probing everything at once, so that a busy machine never reads as "denied".
//!
//! Phases, with all sources in step:
//! 1. every probe once, started at a bounded rate, with little patience;
//! 2. those without an answer again, with more: by now only denied traffic is left, which costs nobody anything;
//! 3. once more, with much more, but only if phase 2 found that phase 1 had been hasty, or a helper was woken late.
//!
//! Services come after that, when all neighbours are known: see [`services`].

mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::feed;
use crate::helper::{self, Helper};
use futures::future::join_all;
use postern_policy::matrix::IpFamily;

use crate::matrix::{Key, Matrix, Reach};
use crate::party::{Party, PartyId};
use crate::prober::{Outcome, Reply, Request, Target};
use crate::services::Row;

/// Probes started per second, over all sources. What two cores do with ease.
const PROBES_PER_SECOND: usize = 8_000;
/// The second is longer than the kernel takes to ask again for a neighbour (1 s): one lost ARP packet is no denial.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(1200), Duration::from_secs(2)];

/// Observation failed: the lab's fault, never policy's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A helper failed.
    #[error(transparent)]
    Helper(#[from] helper::Error),
    /// Session affinity could not be forgotten.
    #[error(transparent)]
    Forget(#[from] feed::Error),
    /// Probes failed in a way that policy cannot make them fail.
    #[error("{count} probes failed, the first {}: {}", .first.len(), .first.join("; "))]
    Probes {
        /// How many.
        count: usize,
        /// The first of them.
        first: Vec<String>,
    },
    /// There is no helper for a source.
    #[error("{party} has no helper")]
    NoHelper {
        /// The source.
        party: PartyId,
    },
}

/// A probe to make.
#[derive(Clone, Debug)]
struct Probe {
    key: Key,
    target: Target,
}

/// What came of all probes.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Allowed, denied or mixed.
    pub matrix: Matrix,
    /// Who answered under a Service's name.
    pub answered: BTreeMap<Key, BTreeSet<String>>,
    /// Cells that count as allowed although nobody listened.
    pub refused: Vec<Key>,
}

/// Probes every party, and every row of a Service, from every party. `forget` makes the nodes forget session affinity.
///
/// # Errors
/// A helper or a probe fails in a way that policy cannot explain.
pub async fn observe(
    parties: &[Party],
    rows: &[Row],
    helpers: &mut BTreeMap<PartyId, Helper>,
    forget: &dyn Fn() -> Result<(), feed::Error>,
) -> Result<Observation, Error> {
    let mut observation = Observation::default();
    let mut open: BTreeMap<PartyId, Vec<Probe>> =
        parties.iter().map(|source| (source.id.clone(), probes(source, parties))).collect();
    let mut failures = Vec::new();
    for (phase, patience) in PATIENCE.into_iter().enumerate() {
        let round = round(&open, helpers, (patience, PROBES_PER_SECOND)).await?;
        let rescued = phase > 0 && round.results.iter().any(|(_, outcome)| *outcome != Outcome::Dropped);
        let hasty = rescued || round.worst_lag > patience / 4;
        let last = phase == PATIENCE.len() - 1 || (phase > 0 && !hasty);
        open = BTreeMap::new();
        for ((source, probe), outcome) in round.results {
            let allowed = match outcome {
                Outcome::Allowed | Outcome::Answered(_) => true,
                Outcome::Refused => {
                    observation.refused.push(probe.key.clone());
                    true
                }
                Outcome::Dropped if last => false,
                Outcome::Dropped => {
                    open.entry(source).or_default().push(probe);
                    continue;
                }
                Outcome::Failed(why) => {
                    failures.push(format!("{}: {why}", probe.key));
                    continue;
                }
            };
            // Several addresses of one family share a cell: it is allowed when all of them are.
            let reach = observation.matrix.entry(probe.key).or_insert(Reach::Allowed);
            *reach = (*reach).min(allowed.into());
        }
        if open.is_empty() {
            break;
        }
    }
    fail(failures)?;
    services::observe(parties, rows, helpers, forget, &mut observation).await?;
    Ok(observation)
}

/// The first of some failures, where there are any.
fn fail(mut failures: Vec<String>) -> Result<(), Error> {
    let count = failures.len();
    failures.truncate(5);
    if failures.is_empty() { Ok(()) } else { Err(Error::Probes { count, first: failures }) }
}

fn probes(source: &Party, parties: &[Party]) -> Vec<Probe> {
    let at = |destination: &Party| {
        let (from, to) = (source.id.to_string(), destination.id.to_string());
        source.targets(destination).into_iter().map(move |target| Probe {
            key: Key {
                from: from.clone(),
                to: to.clone(),
                port: target.destination.port(),
                protocol: target.protocol,
                ip_family: family(target.destination.ip()),
            },
            target,
        })
    };
    parties.iter().flat_map(at).collect()
}

fn family(address: IpAddr) -> IpFamily {
    if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}

/// What one phase found.
struct Round {
    results: Vec<((PartyId, Probe), Outcome)>,
    worst_lag: Duration,
}

async fn round(
    open: &BTreeMap<PartyId, Vec<Probe>>,
    helpers: &mut BTreeMap<PartyId, Helper>,
    (patience, per_second): (Duration, usize),
) -> Result<Round, Error> {
    let per_source = u32::try_from(per_second / open.len().max(1)).unwrap_or(u32::MAX).max(20);
    let mut asked = Vec::new();
    let mut waiting = Vec::new();
    if let Some(party) = open.keys().find(|party| !helpers.contains_key(party)) {
        return Err(Error::NoHelper { party: party.clone() });
    }
    for (party, helper) in helpers.iter_mut() {
        let Some(probes) = open.get(party).filter(|probes| !probes.is_empty()) else { continue };
        let request = Request::Probe {
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            per_second: per_source,
            targets: probes.iter().map(|probe| probe.target.clone()).collect(),
        };
        asked.push((party, probes));
        waiting.push(async move { helper.request(&request).await });
    }
    let mut round = Round { results: Vec::new(), worst_lag: Duration::ZERO };
    for ((party, probes), reply) in asked.into_iter().zip(join_all(waiting).await) {
        let Reply::Outcomes { outcomes, worst_lag_ms } = reply? else { continue };
        round.worst_lag = round.worst_lag.max(Duration::from_millis(worst_lag_ms));
        let sources = probes.iter().map(|probe| (party.clone(), probe.clone()));
        round.results.extend(sources.zip(outcomes));
    }
    Ok(round)
}

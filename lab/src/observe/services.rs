//! Probing Services often enough to see every backend.
//!
//! Each connection is one choice of a backend, and waits less than TCP does before it sends again: what is dropped before
//! conntrack knows it would be sent to another backend the second time, and a denied one would never be seen. Since nobody
//! can say afterwards which backend a lost connection was for, a busy machine is told from a denial by how late the
//! helpers were woken: then everything is asked again.
//!
//! With session affinity, only a client's first connection is a choice. Such rows are asked once, then the nodes forget who
//! keeps what, and they are asked again. That takes many rounds, so each waits no longer than it has to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Error, Observation, PROBES_PER_SECOND, Probe, fail, round};
use crate::feed;
use crate::helper::Helper;
use crate::matrix::{Key, Reach};
use crate::party::{Party, PartyId};
use crate::prober::{Outcome, Target};
use crate::services::{Audience, Row};

/// How a round asks.
struct Pace {
    /// Connections for a cell.
    connections: usize,
    /// Below TCP's first repetition, after one second.
    patience: Duration,
    /// A helper that was woken later than this may have missed answers.
    late: Duration,
}

/// One of three backends is missed with a probability below 10^-7.
const FREE: Pace =
    Pace { connections: 48, patience: Duration::from_millis(800), late: Duration::from_millis(300) };
const KEPT: Pace =
    Pace { connections: 1, patience: Duration::from_millis(300), late: Duration::from_millis(100) };
/// Rounds of [`KEPT`]. One of two backends is missed with a probability near 10^-7.
const CHOICES: usize = 24;
/// Rounds until one is not late.
const ROUNDS: usize = 5;

/// Adds the cells of Services.
pub(super) async fn observe(
    parties: &[Party],
    rows: &[Row],
    helpers: &mut BTreeMap<PartyId, Helper>,
    forget: &dyn Fn() -> Result<(), feed::Error>,
    observation: &mut Observation,
) -> Result<(), Error> {
    let (kept, free): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.kept);
    ask(parties, &free, &FREE, helpers, observation).await?;
    let choices = if kept.is_empty() { 0 } else { CHOICES };
    for _ in 0..choices {
        forget()?;
        ask(parties, &kept, &KEPT, helpers, observation).await?;
    }
    observation.refused.dedup();
    Ok(())
}

async fn ask(
    parties: &[Party],
    rows: &[&Row],
    pace: &Pace,
    helpers: &mut BTreeMap<PartyId, Helper>,
    observation: &mut Observation,
) -> Result<(), Error> {
    let ask = |source: &Party| (source.id.clone(), probes(source, rows, pace.connections));
    let probes: BTreeMap<PartyId, Vec<Probe>> = parties.iter().map(ask).collect();
    if probes.values().all(Vec::is_empty) {
        return Ok(());
    }
    let mut per_second = PROBES_PER_SECOND;
    let mut found = round(&probes, helpers, (pace.patience, per_second)).await?;
    for _ in 1..ROUNDS {
        if found.worst_lag < pace.late {
            break;
        }
        // Maybe it is not busy but slow: an emulated one.
        per_second /= 4;
        found = round(&probes, helpers, (pace.patience, per_second)).await?;
    }
    let unserved = |key: &Key| rows.iter().any(|row| is_of(row, key) && !row.served);
    let mut failures = Vec::new();
    for ((_, Probe { key, .. }), outcome) in found.results {
        let passed = match outcome {
            Outcome::Allowed => true,
            Outcome::Answered(name) => {
                observation.answered.entry(key.clone()).or_default().insert(name);
                true
            }
            // By the node, which has nobody to send it to.
            Outcome::Refused if unserved(&key) => false,
            Outcome::Refused => {
                observation.refused.push(key.clone());
                true
            }
            Outcome::Dropped => false,
            Outcome::Failed(why) => {
                failures.push(format!("{key}: {why}"));
                continue;
            }
        };
        let passed = Reach::from(passed);
        let reach = observation.matrix.entry(key).or_insert(passed);
        *reach = reach.and(passed);
    }
    fail(failures)
}

fn is_of(row: &Row, key: &Key) -> bool {
    (&row.to, row.port, row.protocol, row.ip_family) == (&key.to, key.port, key.protocol, key.ip_family)
}

fn probes(source: &Party, rows: &[&Row], connections: usize) -> Vec<Probe> {
    let is_outside = matches!(source.id, PartyId::External(_));
    let rows = rows.iter().filter(|row| !is_outside || row.audience == Audience::Everyone);
    let once = rows.flat_map(|row| {
        let key = Key {
            from: source.id.to_string(),
            to: row.to.clone(),
            port: row.port,
            protocol: row.protocol,
            ip_family: row.ip_family,
        };
        row.destinations.iter().flat_map(move |destination| {
            let key = key.clone();
            let sources = source.addresses.iter().filter(|it| it.is_ipv4() == destination.is_ipv4());
            sources.map(move |address| Probe {
                key: key.clone(),
                target: Target {
                    source: *address,
                    destination: *destination,
                    protocol: row.protocol,
                    answerer: None,
                },
            })
        })
    });
    let once: Vec<Probe> = once.collect();
    (0..connections).flat_map(|_| once.iter().cloned()).collect()
}

//! Probing Services often enough to see every backend.
//!
//! Each connection is one choice of a backend, and waits less than TCP does before it sends again: what is dropped before
//! conntrack knows it would be sent to another backend the second time, and a denied one would never be seen. Since nobody
//! can say afterwards which backend a lost connection was for, a busy machine is told from a denial by how late the
//! helpers were woken: then everything is asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Error, Observation, Probe, fail, round};
use crate::helper::Helper;
use crate::matrix::{Key, Reach};
use crate::party::{Party, PartyId};
use crate::prober::{Outcome, Target};
use crate::services::{Audience, Row};

/// Connections for a cell. One of three backends is missed with a probability below 10^-7.
const CONNECTIONS: usize = 48;
/// Below TCP's first repetition, after one second.
const PATIENCE: Duration = Duration::from_millis(800);
/// A helper that was woken later than this may have missed answers.
const LATE: Duration = Duration::from_millis(300);
const ROUNDS: usize = 5;

/// Adds the cells of Services.
pub(super) async fn observe(
    parties: &[Party],
    rows: &[Row],
    helpers: &mut BTreeMap<PartyId, Helper>,
    observation: &mut Observation,
) -> Result<(), Error> {
    let probes: BTreeMap<PartyId, Vec<Probe>> =
        parties.iter().map(|source| (source.id.clone(), probes(source, rows))).collect();
    if probes.values().all(Vec::is_empty) {
        return Ok(());
    }
    let mut found = round(&probes, helpers, PATIENCE).await?;
    for _ in 1..ROUNDS {
        if found.worst_lag < LATE {
            break;
        }
        found = round(&probes, helpers, PATIENCE).await?;
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
    observation.refused.dedup();
    fail(failures)
}

fn is_of(row: &Row, key: &Key) -> bool {
    (&row.to, row.port, row.protocol, row.ip_family) == (&key.to, key.port, key.protocol, key.ip_family)
}

fn probes(source: &Party, rows: &[Row]) -> Vec<Probe> {
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
    (0..CONNECTIONS).flat_map(|_| once.iter().cloned()).collect()
}

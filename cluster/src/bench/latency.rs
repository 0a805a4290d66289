//! From creating a policy through the API until packets show it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use postern_lab::party::PartyId;
use postern_lab::prober::{Sample, monotonic_ns};
use postern_policy::model::NamespacedName;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::objects::{self, WATCHED};
use crate::world::World;

/// Time between two probes.
const EVERY: Duration = Duration::from_millis(1);
/// Probes before the change, and after it was heard of.
const AROUND: Duration = Duration::from_millis(80);

/// Median and worst, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of all are below.
    pub median_ms: f64,
    /// One in twenty is above.
    pub p95_ms: f64,
    /// The worst.
    pub max_ms: f64,
}

/// How long changes take, from the request on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Until another client's watch tells of it: what the API server itself takes.
    pub heard: Spread,
    /// Until the first packet shows it.
    pub enforced: Spread,
    /// From the one to the other, round by round: what the agent adds.
    pub beyond: Spread,
}

/// When what happened, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Round {
    asked: u64,
    heard: u64,
    shown: u64,
}

/// Creates and deletes a policy again and again while packets are sent every millisecond.
pub(super) async fn measure(
    world: &mut World<'_>,
    client: &Client,
    rounds: usize,
    say: &dyn Fn(&str),
) -> Result<(Latency, Latency)> {
    let ear = Ear::open(client).await?;
    let policies = objects::policies(client);
    let parties = world.lab.parties();
    let find = |name: &str| {
        let wanted = format!("{WATCHED}/{name}");
        parties
            .iter()
            .find(|party| party.id.to_string() == wanted)
            .with_context(|| format!("{wanted} is not in the lab"))
    };
    let target =
        find("client")?.targets(find("server")?).into_iter().find(|target| target.destination.port() == 80);
    let target = target.context("server has no port 80")?;
    let from = PartyId::Pod(NamespacedName::new(WATCHED, "client"));
    let admit = json!({ "podSelector": { "matchLabels": { "app": "server" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }], "ports": [{ "port": 80 }] }] });
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        say(&format!("policy {} of {rounds}", round + 1));
        let name = format!("admit-{round}");
        let policy: NetworkPolicy = serde_json::from_value(objects::policy(WATCHED, &name, &admit))?;

        world.lab.watch(&from, target.clone(), EVERY).await?;
        tokio::time::sleep(AROUND).await;
        let asked = monotonic_ns();
        policies.create(&PostParams::default(), &policy).await?;
        let heard = ear.of(&name, false).await?;
        tokio::time::sleep(AROUND).await;
        let samples = world.lab.end_watch(&from).await?;
        created.push(Round { asked, heard, shown: turned(&samples, true)? });

        world.lab.watch(&from, target.clone(), EVERY).await?;
        tokio::time::sleep(AROUND).await;
        let asked = monotonic_ns();
        policies.delete(&name, &DeleteParams::default()).await?;
        let heard = ear.of(&name, true).await?;
        tokio::time::sleep(AROUND).await;
        let samples = world.lab.end_watch(&from).await?;
        deleted.push(Round { asked, heard, shown: turned(&samples, false)? });
    }
    Ok((Latency::of(&created), Latency::of(&deleted)))
}

/// When packets began to pass, or ceased to: once, and for good.
fn turned(samples: &[Sample], to: bool) -> Result<u64> {
    let at = samples.iter().position(|sample| sample.passed == to).context("the change never showed")?;
    ensure!(at > 10, "the change showed before it was made");
    ensure!(samples[at..].iter().all(|sample| sample.passed == to), "the change came and went");
    Ok(samples[at].sent_ns)
}

/// Another client, which notes when it heard of which policy.
struct Ear(watch::Receiver<HashMap<(String, bool), u64>>);

impl Ear {
    async fn open(client: &Client) -> Result<Self> {
        let policies = objects::policies(client);
        let version = policies.list(&kube::api::ListParams::default()).await?.metadata.resource_version;
        let version = version.context("a list without a version")?;
        let (sender, heard) = watch::channel(HashMap::new());
        tokio::spawn(async move {
            // The server ends a watch after some minutes: go on from there.
            let mut version = version;
            while !sender.is_closed() {
                let Ok(events) = policies.watch(&WatchParams::default(), &version).await else { return };
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    let now = monotonic_ns();
                    let (policy, gone) = match event {
                        WatchEvent::Added(policy) | WatchEvent::Modified(policy) => (policy, false),
                        WatchEvent::Deleted(policy) => (policy, true),
                        WatchEvent::Bookmark(mark) => {
                            version = mark.metadata.resource_version;
                            continue;
                        }
                        WatchEvent::Error(_) => return,
                    };
                    version = policy.metadata.resource_version.unwrap_or(version);
                    let name = policy.metadata.name.unwrap_or_default();
                    sender.send_modify(|heard| {
                        heard.entry((name, gone)).or_insert(now);
                    });
                }
            }
        });
        Ok(Self(heard))
    }

    async fn of(&self, name: &str, gone: bool) -> Result<u64> {
        let mut heard = self.0.clone();
        let key = (name.to_owned(), gone);
        let waiting = heard.wait_for(|heard| heard.contains_key(&key));
        let heard =
            tokio::time::timeout(Duration::from_secs(10), waiting).await.context("nothing was heard")??;
        heard.get(&key).copied().context("nothing was heard")
    }
}

impl Latency {
    fn of(rounds: &[Round]) -> Self {
        let spread = |of: fn(&Round) -> (u64, u64)| {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds, with some digits")]
            let span = |round| match of(round) {
                // Packets may show it before the other client is told.
                (from, to) if to < from => -((from - to) as f64) / 1e6,
                (from, to) => (to - from) as f64 / 1e6,
            };
            Spread::of(rounds.iter().map(span).collect())
        };
        Self {
            heard: spread(|round| (round.asked, round.heard)),
            enforced: spread(|round| (round.asked, round.shown)),
            beyond: spread(|round| (round.heard, round.shown)),
        }
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: usize| {
            values.get((values.len().saturating_sub(1)) * part / 100).copied().unwrap_or(f64::NAN)
        };
        Self { median_ms: at(50), p95_ms: at(95), max_ms: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(passed: &[bool]) -> Vec<Sample> {
        (1..).zip(passed).map(|(sent_ns, passed)| Sample { sent_ns, passed: *passed }).collect()
    }

    #[test]
    fn a_change_shows_once_and_for_good() {
        let before = [false; 20];
        assert_eq!(turned(&samples(&[&before[..], &[true; 5]].concat()), true).unwrap(), 21);
        assert!(turned(&samples(&before), true).is_err(), "never");
        assert!(turned(&samples(&[true; 20]), true).is_err(), "from the start");
        assert!(turned(&samples(&[&before[..], &[true, false, true]].concat()), true).is_err(), "and went");
    }

    #[test]
    fn spreads_are_order_statistics() {
        let spread = Spread::of((0..=100).rev().map(f64::from).collect());
        assert_eq!(spread, Spread { median_ms: 50.0, p95_ms: 95.0, max_ms: 100.0 });
    }
}

//! Endpoint slices that change all the time, and what that takes of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use postern::control::Status;
use postern::datapath::maps::Maps;
use postern::datapath::object::map_folder;
use postern::datapath::pins;
use postern::datapath::tables::read_frontends;
use serde::Serialize;
use serde_json::json;

use super::Options;
use super::cpu::Meter;
use super::services::{self, State};
use crate::world::World;

/// Updates a second.
pub(super) const RATE: u32 = 100;
/// Requests under way at once at most: each may take 160 ms before the rate suffers.
const WRITERS: usize = 16;
/// What the agent may take, in percent of a core.
pub(super) const TARGET: f64 = 5.0;
/// How long the agent is looked at before anything changes.
const IDLE: Duration = Duration::from_secs(5);

/// Endpoint slices changed through the API, and the agent's time for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Churn {
    /// Updates written; the agent heard of each.
    pub updates: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Updates a second really reached.
    pub per_second: f64,
    /// User and system time of all the agent's threads, until it had enforced the last update.
    pub agent_cpu_percent_of_a_core: f64,
    /// The same in the five seconds before, when nothing changed.
    pub idle_cpu_percent_of_a_core: f64,
    /// What it should be below.
    pub target_cpu_percent_of_a_core: f64,
    /// Services whose slices are empty in the end, whose frontends the agent has removed.
    pub emptied: usize,
    /// Frontends that are in the agent's maps in the end.
    pub frontends: usize,
}

/// Changes slices, and compares the agent's maps with them at the end.
pub(super) async fn measure(
    world: &mut World<'_>,
    client: &Client,
    options: Options,
    say: &dyn Fn(&str),
) -> Result<Churn> {
    let pid = world.agents[0].pid().context("the agent has ended")?;
    let heard = events(&world.agents[0].status().context("the agent does not answer")?);
    say("watching the idle agent");
    let meter = Meter::start(pid)?;
    tokio::time::sleep(IDLE).await;
    let idle = meter.percent()?;

    say(&format!("changing {RATE} endpoint slices a second"));
    let (begun, meter) = (Instant::now(), Meter::start(pid)?);
    let writers = WRITERS.min(options.services);
    let written = (0..writers).map(|writer| write(client, writer, writers, options, begun));
    let written = try_join_all(written).await?;
    let seconds = begun.elapsed();
    let updates: u64 = written.iter().map(|(updates, _)| updates).sum();
    // Who answers questions has carried out what it heard before.
    world.agents[0].wait_until(|status| status.ready && events(status) >= heard + updates).await?;
    let taken = meter.percent()?;

    let less: BTreeSet<usize> = written.into_iter().flat_map(|(_, less)| less).collect();
    let emptied: BTreeSet<_> = less.into_iter().filter(|index| services::is_emptied(*index)).collect();
    let frontends = compare(world, client, options.services, &emptied).await?;
    #[expect(clippy::cast_precision_loss, reason = "not that many updates")]
    let per_second = updates as f64 / seconds.as_secs_f64();
    Ok(Churn {
        updates,
        seconds: seconds.as_secs_f64(),
        per_second,
        agent_cpu_percent_of_a_core: taken,
        idle_cpu_percent_of_a_core: idle,
        target_cpu_percent_of_a_core: TARGET,
        emptied: emptied.len(),
        frontends,
    })
}

/// How many changes of endpoint slices the agent has heard of.
fn events(status: &Status) -> u64 {
    status.watches.iter().filter(|watch| watch.kind == "EndpointSlice").map(|watch| watch.events).sum()
}

/// Every `writers`th update, of slices that nobody else writes, so that those of one slice come in order. Returns how many
/// there were, and the slices that are [`State::Less`] now.
async fn write(
    client: &Client,
    writer: usize,
    writers: usize,
    options: Options,
    begun: Instant,
) -> Result<(u64, BTreeSet<usize>)> {
    let mut less = BTreeSet::new();
    let mut updates = 0;
    let mut slices = (writer..options.services).step_by(writers).cycle();
    for update in (writer..).step_by(writers) {
        // Points in time, not spans: what was late does not put off what comes after.
        let due = Duration::from_secs(1) / RATE * u32::try_from(update)?;
        if due >= options.churn {
            break;
        }
        tokio::time::sleep_until((begun + due).into()).await;
        let Some(index) = slices.next() else { break };
        let state = if less.remove(&index) { State::Full } else { State::Less };
        if state == State::Less {
            less.insert(index);
        }
        let api = Api::<EndpointSlice>::namespaced(client.clone(), &services::namespace(index));
        let patch = json!({ "endpoints": services::endpoints(index, options.pods, state) });
        let name = services::slice_name(index);
        api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("change endpoint slice {name}"))?;
        updates += 1;
    }
    Ok((updates, less))
}

/// That the agent's maps hold the frontends of all Services but those that are without endpoints. Returns how many they hold.
async fn compare(
    world: &World<'_>,
    client: &Client,
    services: usize,
    emptied: &BTreeSet<usize>,
) -> Result<usize> {
    let listed = Api::<Service>::all(client.clone()).list(&ListParams::default()).await?;
    let address = |service: Service| {
        let address: IpAddr = service.spec?.cluster_ip?.parse().ok()?;
        Some((service.metadata.name?, address))
    };
    let addresses: BTreeMap<String, IpAddr> = listed.items.into_iter().filter_map(address).collect();

    let pins = pins::find(&world.lab.run().bpffs(world.agents[0].node()))?;
    let maps = Maps::open(&map_folder(&pins))?;
    let epoch = maps.state.get(&0, 0)?.epoch;
    let frontends: BTreeSet<IpAddr> =
        read_frontends(&maps, epoch)?.into_keys().map(|frontend| frontend.address).collect();
    for index in 0..services {
        let name = services::name(index);
        let address = addresses.get(&name).with_context(|| format!("{name} has no address"))?;
        let (known, wanted) = (frontends.contains(address), !emptied.contains(&index));
        ensure!(
            known == wanted,
            "frontend {address} of {name}: in the agent's maps {known}, wanted {wanted}"
        );
    }
    Ok(frontends.len())
}

//! `cargo xtask bench scale`: one agent in a large cluster. The API server is real, and so are the agent, and the pods of
//! its own node and their packets; all other pods are objects alone.

mod churn;
mod cpu;
mod latency;
mod objects;
mod report;
mod services;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use postern_lab::working_copy::Files;

pub use self::churn::Churn;
pub use self::latency::{Latency, Spread};
pub use self::report::Report;
use crate::control_plane;
use crate::world::{Api, Binaries, Via, World};

/// How long the agent is left alone before its memory is read.
const REST: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pods in the API server.
    pub pods: usize,
    /// Policies in the API server.
    pub policies: usize,
    /// Services in the API server, each with a slice of five endpoints.
    pub services: usize,
    /// Policies created and deleted while the wire is watched.
    pub rounds: usize,
    /// How long endpoint slices change.
    pub churn: Duration,
}

/// Measures. `say` is told what is being done.
///
/// # Errors
/// Something does not start, or the wire does not show what it must.
pub fn run(options: Options, binaries: Binaries, say: &dyn Fn(&str)) -> Result<Report> {
    say("starting etcd and kube-apiserver");
    // Creating objects is not what is measured: nobody is to be told to wait.
    let flags = [
        "--max-requests-inflight=0",
        "--max-mutating-requests-inflight=0",
        "--enable-priority-and-fairness=false",
    ];
    let control =
        control_plane::Options { apiserver_flags: flags.map(str::to_owned).into(), ..Default::default() };
    let mut api = Api::start(&control)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&mut api, options, binaries, say))
}

async fn measure(api: &mut Api, options: Options, binaries: Binaries, say: &dyn Fn(&str)) -> Result<Report> {
    let local = objects::local();
    let mut world = World::without_agents(api, binaries, &[&local]).await?;
    let node = world.nodes().pop_first().context("the lab has no node")?;
    let kubeconfig = world.way(&node, Via::Relay)?;
    world.write(&local).await?;
    let mut all = world.with_nodes(&local);
    all.append(&mut objects::elsewhere(options));
    let tell = |done, of| {
        if done % 500 == 0 {
            say(&format!("creating objects: {done} of {of}"));
        }
    };
    world.api.mirror.apply_and_tell(&all, &tell).await?;
    let client = crate::api::client(world.api.relay.kubeconfig()).await?;

    say("starting the agent");
    let before = received(&world);
    let begun = Instant::now();
    world.start_agent(&node, &kubeconfig)?;
    world.agents[0].wait_until(|status| status.ready).await?;
    let ready = begun.elapsed();
    let received = received(&world) - before;
    tokio::time::sleep(REST).await;
    let pid = world.agents[0].pid().context("the agent has ended")?;
    let memory = Memory::of(pid)?;
    let status = world.agents[0].status().context("the agent does not answer")?;
    let objects = status.watches.iter().map(|watch| watch.objects).sum();

    let (create, delete) = latency::measure(&mut world, &client, options.rounds, say).await?;
    // Last: what it leaves behind shall not disturb the rest.
    let churn = match options {
        Options { services: 0, .. } | Options { churn: Duration::ZERO, .. } => None,
        options => Some(churn::measure(&mut world, &client, options, say).await?),
    };
    Ok(Report {
        pods: options.pods,
        policies: options.policies,
        services: options.services,
        endpoints: options.services * services::ENDPOINTS,
        objects,
        local_pods: local_pods(&local),
        ready_ms: ready.as_secs_f64() * 1e3,
        received_bytes: received,
        memory_peak_kib: memory.peak_kib,
        memory_kib: memory.now_kib,
        rounds: options.rounds,
        create,
        delete,
        churn,
    })
}

fn received(world: &World<'_>) -> u64 {
    world.relays.iter().map(crate::relay::Relay::received).sum()
}

fn local_pods(files: &Files) -> usize {
    files.keys().filter(|file| file.starts_with("Pod")).count()
}

/// What a process holds in memory.
struct Memory {
    peak_kib: u64,
    now_kib: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .with_context(|| format!("{name} in {path}"))
        };
        Ok(Self { peak_kib: field("VmHWM:")?, now_kib: field("VmRSS:")? })
    }
}

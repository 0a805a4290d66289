//! One site per scenario: a node's namespace that forwards between a client pod and a server pod, and who enforces there.
//!
//! In: the scenarios. Out: sites that are wired, enforced, and told apart from those that this machine cannot have.

use aya::Ebpf;
use postern::manifests;

use super::enforcer::{Enforcer, Shape};
use super::policy::Pods;
use super::rules::{self, RuleSet};
use super::{Error, Skipped, floors, manifests as cluster};
use crate::agent::{self, Agent, Origin};
use crate::lab::Programs;
use crate::netns::Netns;
use crate::run::Run;
use crate::scenario::{Scenario, Snapshot};
use crate::sysctl;
use crate::topology::Topology;
use crate::working_copy::WorkingCopy;

/// Settings of the pods.
const POD: &[(&str, &str)] = &[
    // Closed connections keep their port for a minute: there must be more ports than connections in that time.
    ("net/ipv4/ip_local_port_range", "10000 65535"),
    // A stream is to run at the path's speed: neither paced by timers, nor started slowly in each slice.
    ("net/ipv4/tcp_congestion_control", "reno"),
    ("net/ipv4/tcp_slow_start_after_idle", "0"),
];

/// A scenario's namespaces.
#[derive(Debug)]
pub(super) struct Site {
    /// Who enforces.
    pub(super) enforcer: Enforcer,
    /// Addresses of its pods.
    pub(super) pods: Pods,
    /// Forwards.
    pub(super) node: Netns,
    /// Where the client is.
    pub(super) client: Netns,
    /// Where the server is.
    pub(super) server: Netns,
}

/// All sites.
#[derive(Debug)]
pub(super) struct Sites {
    /// One per scenario that this machine can have.
    pub(super) ready: Vec<Site>,
    /// The others.
    pub(super) skipped: Vec<Skipped>,
    /// What keeps them up.
    pub(super) held: Held,
}

/// Agents, wires and state of all sites. Dropping it takes everything down, in this order.
#[derive(Debug)]
pub(super) struct Held {
    _agents: Vec<Agent>,
    _floors: Vec<Ebpf>,
    _topology: Topology,
    _run: Run,
}

impl Sites {
    /// Builds a site per scenario, and has the policy enforced everywhere.
    pub(super) async fn build(
        programs: &Programs,
        enforcers: &[Enforcer],
        mut say: impl FnMut(&Enforcer),
    ) -> Result<Self, Error> {
        let run = Run::start()?;
        let named: Vec<(String, Enforcer, Pods)> = (1_u8..)
            .zip(enforcers)
            .map(|(number, enforcer)| (enforcer.to_string(), *enforcer, Pods::of(number)))
            .collect();
        let mut files = cluster::pods(named.iter().map(|(name, _, pods)| (&**name, *pods)));
        let mut copy = WorkingCopy::create(run.directory().join("manifests"))?;
        copy.replace(&files)?;
        let snapshot = Snapshot::read(copy.directory())?;
        let mut topology =
            Topology::build(&run.netns_prefix(), &Scenario::covering(std::slice::from_ref(&snapshot))?)?;
        for pod in snapshot.running_pods() {
            topology.add_pod(pod)?;
        }
        let most = enforcers.iter().map(|enforcer| enforcer.rules()).max().unwrap_or(0);
        files.extend(cluster::policies(most));
        copy.replace(&files)?;
        let (mut ready, mut skipped, mut agents) = (Vec::new(), Vec::new(), Vec::new());
        let mut floors_held = Vec::new();
        for (name, enforcer, pods) in named {
            say(&enforcer);
            let site = Site::find(&topology, &name, enforcer, pods)?;
            let failed = |error| Error::Rules { scenario: name.clone(), error };
            match enforcer {
                Enforcer::Nobody(_) => {}
                Enforcer::Floor(floor) => {
                    let failed = |error| Error::Floor { scenario: name.clone(), error };
                    floors_held.push(floors::attach(&site.node, floor).map_err(failed)?);
                }
                Enforcer::Postern(attach) => {
                    let paths = agent_paths(programs, &run, &copy, &name)?;
                    let mut agent = Agent::start(&name, &site.node, paths, &["--attach", attach.name()])?;
                    let path = copy.directory().to_owned();
                    let digest = manifests::digest(&path).map_err(|error| Error::Digest { path, error })?;
                    agent.wait_for(&digest).await?;
                    agents.push(agent);
                }
                Enforcer::Nftables(shape) => {
                    rules::load_nftables(&site.node, site.rules(shape)).map_err(failed)?;
                }
                Enforcer::Iptables(shape) => match rules::load_iptables(&site.node, site.rules(shape)) {
                    // Kernels need not have ipset; everything else has no excuse.
                    Err(refused @ rules::Error::Refused { .. }) if shape == Shape::Set => {
                        skipped.push(Skipped { scenario: name, reason: refused.to_string() });
                        continue;
                    }
                    loaded => loaded.map_err(failed)?,
                },
            }
            ready.push(site);
        }
        Ok(Self {
            ready,
            skipped,
            held: Held { _agents: agents, _floors: floors_held, _topology: topology, _run: run },
        })
    }
}

impl Site {
    fn find(topology: &Topology, name: &str, enforcer: Enforcer, pods: Pods) -> Result<Self, Error> {
        let missing = || Error::NoNamespace { scenario: name.to_owned() };
        let node = topology.nodes().find(|(node, _)| *node == name).ok_or_else(missing)?.1;
        let pod = |app| topology.pod_netns(&cluster::pod_id(app, name)).ok_or_else(missing);
        let open = |netns: &Netns| Netns::open(netns.name());
        let site = Self {
            enforcer,
            pods,
            node: open(node)?,
            client: open(pod("client")?)?,
            server: open(pod("server")?)?,
        };
        for pod in [&site.client, &site.server] {
            sysctl::apply(pod, POD)?;
        }
        Ok(site)
    }

    fn rules(&self, shape: Shape) -> RuleSet {
        RuleSet { pods: self.pods, shape, rules: self.enforcer.rules() }
    }
}

fn agent_paths(
    programs: &Programs,
    run: &Run,
    copy: &WorkingCopy,
    node: &str,
) -> Result<agent::Paths, Error> {
    let directory = run.directory();
    Ok(agent::Paths {
        program: programs.postern.clone().ok_or(Error::NoAgent)?,
        launcher: programs.lab.clone(),
        origin: Origin::Manifests(copy.directory().to_owned()),
        bpffs: run.bpffs(node),
        socket: directory.join(format!("{node}.sock")),
        log: directory.join(format!("{node}.log")),
    })
}

//! A lab whose agents watch a real API server, into which the lab's manifests are written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern::control::Status;
use postern_cluster::control_plane::{ControlPlane, Options};
use postern_cluster::faulty::Faulty;
use postern_cluster::mirror::Mirror;
use postern_cluster::relay::Relay;
use postern_lab::agent::{Agent, Origin, Paths};
use postern_lab::lab::{Lab, Programs};
use postern_lab::matrix::{Matrix, differences, matrix};
use postern_lab::scenario::{Scenario, Snapshot};
use postern_lab::working_copy::{Files, WorkingCopy};
use serde_json::json;

/// How long the wire may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(40);

/// A control plane, a way to it from here, and what was written through it.
pub(crate) struct Api {
    pub(crate) mirror: Mirror,
    pub(crate) relay: Relay,
    pub(crate) control: ControlPlane,
}

impl Api {
    pub(crate) fn start() -> Self {
        let mut control = ControlPlane::start(&Options::default()).unwrap();
        let relay = control.relay().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(postern_cluster::api::client(relay.kubeconfig())).unwrap();
        Self { mirror: Mirror::new(client), relay, control }
    }

    pub(crate) async fn client(&self) -> kube::Client {
        postern_cluster::api::client(self.relay.kubeconfig()).await.unwrap()
    }
}

/// How agents reach the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Byte by byte.
    Relay,
    /// Through a proxy that can misbehave.
    Faulty,
}

/// Everything that runs. Dropped from top to bottom.
pub(crate) struct World<'a> {
    pub(crate) agents: Vec<Agent>,
    pub(crate) lab: Lab,
    pub(crate) faulty: Vec<Faulty>,
    pub(crate) relays: Vec<Relay>,
    pub(crate) api: &'a mut Api,
}

/// Runs a test that needs a runtime, after a control plane of its own was started.
pub(crate) fn with_api(test: impl AsyncFnOnce(&mut Api)) {
    let mut api = Api::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Connections of the first runtime are gone with it.
    runtime.block_on(async {
        api.mirror = Mirror::new(api.client().await);
        test(&mut api).await;
    });
}

pub(crate) fn binary(name: &str) -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_postern-cluster")).with_file_name(name);
    assert!(binary.exists(), "{} is missing: cargo build", binary.display());
    binary
}

fn snapshot(files: &Files) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    WorkingCopy::create(folder.path().join("copy")).unwrap().replace(files).unwrap();
    Snapshot::read(&folder.path().join("copy")).unwrap()
}

/// What the engine says about files.
pub(crate) fn engine(files: &Files) -> Matrix {
    let snapshot = snapshot(files);
    matrix(postern_policy::matrix::matrix(&snapshot.objects, &snapshot.lab.externals()))
}

impl<'a> World<'a> {
    /// Lays the wires for all these states, and starts an agent on each node.
    pub(crate) async fn up(api: &'a mut Api, states: &[&Files], via: Via) -> Self {
        let programs = Programs { lab: binary("postern-lab"), postern: None };
        let snapshots: Vec<Snapshot> = states.iter().map(|files| snapshot(files)).collect();
        let lab = Lab::up(programs, Scenario::covering(&snapshots).unwrap()).await.unwrap();
        let mut world = Self { agents: Vec::new(), lab, faulty: Vec::new(), relays: Vec::new(), api };
        for node in world.lab.node_names() {
            let kubeconfig = world.way(&node, via);
            world.start_agent(&node, kubeconfig);
        }
        world
    }

    fn way(&mut self, node: &str, via: Via) -> PathBuf {
        let (_, netns) = self.lab.topology().nodes().find(|(name, _)| *name == node).unwrap();
        match via {
            Via::Relay => {
                let relay = self.api.control.relay_from(netns).unwrap();
                let path = relay.kubeconfig().to_owned();
                self.relays.push(relay);
                path
            }
            Via::Faulty => {
                let path = self.lab.run().directory().join(format!("{node}.kubeconfig"));
                let faulty = Faulty::start(netns, self.api.relay.kubeconfig(), path).unwrap();
                let path = faulty.kubeconfig().to_owned();
                self.faulty.push(faulty);
                path
            }
        }
    }

    pub(crate) fn start_agent(&mut self, node: &str, kubeconfig: PathBuf) {
        let directory = self.lab.run().directory();
        let paths = Paths {
            program: binary("postern"),
            launcher: binary("postern-lab"),
            origin: Origin::Kubeconfig(kubeconfig),
            bpffs: self.lab.run().bpffs(node),
            socket: directory.join(format!("{node}.sock")),
            log: directory.join(format!("{node}.log")),
        };
        let (_, netns) = self.lab.topology().nodes().find(|(name, _)| *name == node).unwrap();
        self.agents.push(Agent::start(node, netns, paths, &[]).unwrap());
    }

    /// These files, and the nodes that the lab has and they leave out.
    pub(crate) fn with_nodes(&self, files: &Files) -> Files {
        let mut files = files.clone();
        for (name, _) in self.lab.topology().nodes() {
            let addresses = self.lab.topology().node_addresses(name).iter();
            let addresses: Vec<_> = addresses
                .map(|address| json!({ "type": "InternalIP", "address": address.to_string() }))
                .collect();
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
                "status": { "addresses": addresses } });
            files.entry(format!("node-{name}.json")).or_insert_with(|| node.to_string().into_bytes());
        }
        files
    }

    /// Writes these objects to the API server and brings pods up and down, without waiting for the agents. Returns the
    /// version of the last write of each kind.
    pub(crate) async fn write(&mut self, files: &Files) -> BTreeMap<String, u64> {
        self.lab.follow(files).await.unwrap();
        let files = self.with_nodes(files);
        self.api.mirror.apply(&files).await.unwrap()
    }

    /// The same, and waits until every agent has heard of all of it and enforces it.
    pub(crate) async fn apply(&mut self, files: &Files) {
        let versions = self.write(files).await;
        for agent in &mut self.agents {
            agent.wait_until(|status| status.ready && heard(status, &versions)).await.unwrap();
        }
    }

    /// Compares the wire with the engine, now.
    pub(crate) async fn check(&mut self, files: &Files, when: &str) {
        let differing = self.differing(files).await;
        if !differing.is_empty() {
            self.tell();
        }
        assert!(differing.is_empty(), "{when}: {} cells differ:\n{}", differing.len(), differing.join("\n"));
    }

    /// Waits until the wire agrees with the engine.
    pub(crate) async fn becomes(&mut self, files: &Files, when: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.differing(files).await.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.check(files, when).await;
    }

    async fn differing(&mut self, files: &Files) -> Vec<String> {
        let observed = self.lab.observe().await.unwrap().matrix;
        let expected = engine(files);
        assert!(!observed.is_empty(), "nothing was observed");
        differences(&expected, &observed).iter().map(ToString::to_string).collect()
    }

    /// Prints what helps to understand a failure.
    fn tell(&self) {
        for agent in &self.agents {
            println!("agent of {}: {:#?}\n{}", agent.node(), agent.status(), agent.log());
        }
    }

    /// Waits until the status of the first agent is as wanted.
    pub(crate) async fn status(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        self.agents[0].wait_until(wanted).await.unwrap()
    }

    /// How many lines of the first agent's log hold this.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.agents[0].log().lines().filter(|line| line.contains(text)).count()
    }
}

/// Whether an agent's watches have come to these versions.
fn heard(status: &Status, versions: &BTreeMap<String, u64>) -> bool {
    versions.iter().all(|(kind, wanted)| {
        let watch = status.watches.iter().find(|watch| watch.kind == *kind);
        watch.and_then(|watch| watch.version.parse::<u64>().ok()).is_some_and(|version| version >= *wanted)
    })
}

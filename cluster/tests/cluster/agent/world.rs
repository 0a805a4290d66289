//! A world for tests: what must be so, or the test ends.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern::control::Status;
use postern_cluster::control_plane::Options;
use postern_cluster::world::{self, Binaries, snapshot};
pub(crate) use postern_cluster::world::{Api, Via};
use postern_lab::matrix::{Matrix, differences, matrix};
use postern_lab::working_copy::Files;

/// How long the wire may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs a test beside a control plane of its own.
pub(crate) fn with_api(test: impl AsyncFnOnce(&mut Api)) {
    // Of both families, as the lab's Services are.
    let services = "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112";
    let options = Options { apiserver_flags: vec![services.to_owned()], ..Options::default() };
    let mut api = Api::start(&options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(&mut api));
}

fn binary(name: &str) -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_postern-cluster")).with_file_name(name);
    assert!(binary.exists(), "{} is missing: cargo build", binary.display());
    binary
}

fn binaries() -> Binaries {
    Binaries { postern: binary("postern"), lab: binary("postern-lab") }
}

/// What the engine says about files.
pub(crate) fn engine(files: &Files) -> Matrix {
    let snapshot = snapshot(files).unwrap();
    matrix(postern_policy::matrix::matrix(&snapshot.objects, &snapshot.lab.externals()))
}

/// A world under test.
pub(crate) struct World<'a>(world::World<'a>);

impl<'a> Deref for World<'a> {
    type Target = world::World<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for World<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a> World<'a> {
    pub(crate) async fn up(api: &'a mut Api, states: &[&Files], via: Via) -> Self {
        Self(world::World::up(api, binaries(), states, via).await.unwrap())
    }

    pub(crate) async fn without_agents(api: &'a mut Api, states: &[&Files]) -> Self {
        Self(world::World::without_agents(api, binaries(), states).await.unwrap())
    }

    /// Opens a way from a node to the API server.
    pub(crate) fn way(&mut self, node: &str) {
        self.0.way(node, Via::Relay).unwrap();
    }

    /// Writes these objects to the API server.
    pub(crate) async fn write(&mut self, files: &Files) {
        self.0.write(files).await.unwrap();
    }

    /// Writes these objects to the API server, and waits until they are enforced.
    pub(crate) async fn apply(&mut self, files: &Files) {
        if let Err(error) = self.0.apply(files).await {
            self.tell();
            panic!("{error}");
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

//! End to end, on a cluster with whatever enforces its policies: pods of several namespaces on two nodes, one policy after
//! the other, and probes with real tools through `kubectl exec`'s API.
//!
//! Expected is what the naive evaluator of `postern_policy` says of the objects that the API server has, so it knows the
//! real addresses, labels and defaults. Observed is what curl, nc, iperf3 and nslookup see.

mod cast;
mod expect;
mod objects;
mod probe;
mod story;

use std::time::{Duration, Instant};

use kube::Client;
use postern_lab::matrix::{self, Difference, Key, Matrix};
use serde::Serialize;

/// Between two looks at a cluster that is not as expected yet.
const PAUSE: Duration = Duration::from_millis(500);
/// How often what differs is asked again, however long that takes.
const AT_LEAST: u32 = 2;

/// It could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refuses.
    #[error("{what}: {error}")]
    Api {
        /// What was asked.
        what: String,
        /// What it said.
        #[source]
        error: kube::Error,
    },
    /// A manifest of the story.
    #[error("manifest: {0}")]
    Manifest(#[from] serde_yaml_ng::Error),
    /// An object is none.
    #[error("object: {0}")]
    Object(#[from] serde_json::Error),
    /// No node to use.
    #[error("no node is ready and takes pods")]
    NoNode,
    /// Pods do not start.
    #[error("not ready after {seconds} s: {pods}. Can the nodes get the image {image}?")]
    NotReady {
        /// How long that took.
        seconds: u64,
        /// Which, and what they wait for.
        pods: String,
        /// Their image.
        image: String,
    },
    /// Namespaces of an earlier run stay.
    #[error("namespaces of an earlier run are still being deleted: {0}")]
    Terminating(String),
    /// A pod does not answer.
    #[error("run a command in {pod}: {reason}")]
    Exec {
        /// Its name.
        pod: String,
        /// What went wrong.
        reason: String,
    },
    /// Expectations cannot be computed.
    #[error("{0}")]
    Unreadable(String),
}

/// What to try with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image of all pods: one with the tools of `nicolaka/netshoot`.
    pub image: String,
    /// How long after a change the cluster may take to be as expected.
    pub patience: Duration,
    /// Only so many steps.
    pub steps: usize,
    /// Ask through Services too.
    pub services: bool,
}

/// What one step showed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// From 1.
    pub step: usize,
    /// How many there are.
    pub of: usize,
    /// What was done.
    pub title: &'static str,
    /// From the change to the end of the last look.
    pub seconds: f64,
    /// What should pass.
    #[serde(serialize_with = "as_cells")]
    pub expected: Matrix,
    /// What passed.
    #[serde(serialize_with = "as_cells")]
    pub observed: Matrix,
    /// Where they differ.
    #[serde(serialize_with = "as_text")]
    pub differences: Vec<Difference>,
}

/// Deploys, plays all steps, says of each what it showed, and returns how many cells were not as expected. Whoever drops
/// this half-way calls [`clean_up`].
///
/// # Errors
/// The cluster cannot be used.
pub async fn run(client: &Client, options: &Options, mut report: impl FnMut(Report)) -> Result<usize, Error> {
    clean_up(client).await?;
    let mut cast = cast::deploy(client, &options.image).await?;
    cast.services = options.services;
    let steps: Vec<_> = story::steps().into_iter().take(options.steps).collect();
    let mut wrong = 0;
    for (index, step) in steps.iter().enumerate() {
        let started = Instant::now();
        for action in &step.actions {
            objects::carry_out(client, &cast, action).await?;
        }
        let (expected, observed, differences) = look(client, &cast, started + options.patience).await?;
        wrong += differences.len();
        let (title, seconds) = (step.title, started.elapsed().as_secs_f64());
        report(Report { step: index + 1, of: steps.len(), title, seconds, expected, observed, differences });
    }
    clean_up(client).await?;
    Ok(wrong)
}

/// Looks until all is as expected, or `deadline`. What differs is asked again by itself: a busy machine loses answers. What
/// became as expected only then is looked at once more as a whole, for what has changed beside it.
async fn look(
    client: &Client,
    cast: &cast::Cast,
    deadline: Instant,
) -> Result<(Matrix, Matrix, Vec<Difference>), Error> {
    let mut looks = 0;
    loop {
        looks += 1;
        let expected = expect::matrix(client, cast).await?;
        let mut observed = probe::matrix(client, cast, |_| true).await?;
        let mut differences = matrix::differences(&expected, &observed);
        let clean = differences.is_empty();
        let mut asked = 0;
        while !differences.is_empty() && (asked < AT_LEAST || Instant::now() < deadline) {
            asked += 1;
            tokio::time::sleep(PAUSE).await;
            let differs = |key: &Key| differences.iter().any(|difference| difference.key == *key);
            observed.extend(probe::matrix(client, cast, differs).await?);
            differences = matrix::differences(&expected, &observed);
        }
        if clean || looks > 1 || !differences.is_empty() {
            return Ok((expected, observed, differences));
        }
    }
}

/// Deletes everything that [`run`] makes, and waits until it is gone.
///
/// # Errors
/// The API server refuses.
pub async fn clean_up(client: &Client) -> Result<(), Error> {
    cast::clean_up(client).await
}

fn as_cells<S: serde::Serializer>(matrix: &Matrix, serializer: S) -> Result<S::Ok, S::Error> {
    matrix::cells(matrix).serialize(serializer)
}

fn as_text<S: serde::Serializer>(differences: &[Difference], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(differences.iter().map(ToString::to_string))
}

//! A whole cluster: the control plane and its nodes.
//!
//! ```no_run
//! use postern_cluster::cluster::{Cluster, Options};
//!
//! let options = Options::new("target/debug/postern-cluster".into());
//! let mut cluster = Cluster::up(&options, |step| {
//!     eprintln!("{step}");
//!     std::ops::ControlFlow::Continue(())
//! })?;
//! cluster.import_image("postern.tar".as_ref())?;
//! let relay = cluster.control().relay()?; // a kubeconfig for this process's own network namespace
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod logs;

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{self, ServiceAccount};
use kube::Api;
use kube::api::ListParams;

use crate::control_plane::{self, ControlPlane};
use crate::fabric::MAX_NODES;
use crate::node::{self, Cni, Node, Plan, ProxyMode};
use crate::{api, dns, image, manifest};

/// How long nodes may take until they are ready.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often that is asked.
const POLL: Duration = Duration::from_millis(200);

/// A cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane.
    #[error(transparent)]
    ControlPlane(#[from] control_plane::Error),
    /// A node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The images that every node needs.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// CoreDNS.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// Too many nodes, or none.
    #[error("{0} nodes: there can be 1 to {MAX_NODES}")]
    Nodes(u8),
    /// Nodes do not get ready.
    #[error("not ready after {} s: {waiting}; logs are in {}", PATIENCE.as_secs(), logs::kept())]
    NotReady {
        /// What is missing.
        waiting: String,
    },
    /// The control plane's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] postern_lab::netns::Error),
    /// Whoever was told about progress wants no more of it.
    #[error("interrupted")]
    Interrupted,
}

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: u8,
    /// How pods are attached.
    pub cni: Cni,
    /// How kube-proxy does Services.
    pub proxy_mode: ProxyMode,
    /// Run CoreDNS, and let pods ask it for names.
    pub dns: bool,
    /// More flags for kube-apiserver.
    pub apiserver_flags: Vec<String>,
    /// The `postern-cluster` binary: it is each node's first process.
    pub helper: PathBuf,
}

impl Options {
    /// Two nodes, ptp, iptables, no CoreDNS. `helper` is the `postern-cluster` binary.
    #[must_use]
    pub fn new(helper: PathBuf) -> Self {
        let (cni, proxy_mode) = (Cni::default(), ProxyMode::default());
        Self { nodes: 2, cni, proxy_mode, dns: false, apiserver_flags: Vec::new(), helper }
    }
}

/// How far bringing up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making images, when they are not in the cache.
    Images,
    /// Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
    ControlPlane,
    /// Starting containerd, kubelet and kube-proxy on so many nodes.
    Nodes(u8),
    /// Loading images into the nodes.
    Loading,
    /// Waiting for the API server.
    ApiServer,
    /// Waiting until all nodes are ready.
    Ready,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images => write!(f, "making images, where they are not in the cache"),
            Self::ControlPlane => write!(f, "starting the control plane"),
            Self::Nodes(1) => write!(f, "starting a node"),
            Self::Nodes(nodes) => write!(f, "starting {nodes} nodes"),
            Self::Loading => write!(f, "loading images"),
            Self::ApiServer => write!(f, "waiting for the API server"),
            Self::Ready => write!(f, "waiting until every node is ready"),
        }
    }
}

/// A running cluster. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Cluster {
    // Nodes go first.
    nodes: Vec<Node>,
    control: ControlPlane,
    dns: bool,
}

impl Cluster {
    /// Brings a cluster up, and waits until every node is ready. `progress` hears of each step, and may break it off.
    ///
    /// # Errors
    /// Not root, something is not installed or built, or does not get ready. What was made so far is removed.
    pub fn up(options: &Options, mut progress: impl FnMut(Step) -> ControlFlow<()>) -> Result<Self, Error> {
        let mut say = |step| match progress(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        };
        let mut cluster = Self::begin(options, &mut say)?;
        let ready = cluster.finish(&mut say);
        if ready.is_err() {
            // They would go with everything else.
            logs::save(&cluster.control.state());
        }
        ready.map(|()| cluster)
    }

    fn begin(options: &Options, say: &mut impl FnMut(Step) -> Result<(), Error>) -> Result<Self, Error> {
        if options.nodes == 0 || options.nodes > MAX_NODES {
            return Err(Error::Nodes(options.nodes));
        }
        say(Step::Images)?;
        image::archives()?;
        if options.dns {
            image::coredns()?;
        }
        say(Step::ControlPlane)?;
        let apiserver_flags = options.apiserver_flags.clone();
        let control = ControlPlane::begin(&control_plane::Options { apiserver_flags, controllers: true })?;
        let mut cluster = Self { nodes: Vec::new(), control, dns: options.dns };
        say(Step::Nodes(options.nodes))?;
        for number in 1..=options.nodes {
            let Options { cni, proxy_mode, dns, .. } = *options;
            let plan = Plan { number, cni, proxy_mode, dns, helper: options.helper.clone() };
            cluster.nodes.push(Node::start(&mut cluster.control, &plan)?);
        }
        Ok(cluster)
    }

    fn finish(&mut self, say: &mut impl FnMut(Step) -> Result<(), Error>) -> Result<(), Error> {
        say(Step::ApiServer)?;
        self.control.wait_until_ready()?;
        say(Step::Loading)?;
        for node in &mut self.nodes {
            node.wait_for_containerd()?;
        }
        for archive in &image::archives()? {
            self.import_image(archive)?;
        }
        if self.dns {
            self.import_image(&image::coredns()?)?;
            let kubeconfig = self.control.kubeconfig();
            api::within(self.control.netns(), || async move { dns::deploy(&kubeconfig).await })??;
        }
        say(Step::Ready)?;
        self.wait_until_ready()
    }

    /// Waits until every node is ready, pods can be made, and names are answered, where they are to be.
    ///
    /// # Errors
    /// They are not, after three minutes.
    pub fn wait_until_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (kubeconfig, nodes, dns) = (self.control.kubeconfig(), self.nodes.len(), self.dns);
            let waiting = api::within(self.control.netns(), || async move {
                match missing(&kubeconfig, nodes, dns).await {
                    Ok(missing) => missing,
                    Err(error) => Some(error.to_string()),
                }
            })?;
            let Some(waiting) = waiting else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(Error::NotReady { waiting });
            }
            thread::sleep(POLL);
        }
    }

    /// Loads the images of a docker or OCI archive into every node. Pods that use them want `imagePullPolicy:
    /// IfNotPresent` or `Never`.
    ///
    /// # Errors
    /// containerd refuses.
    pub fn import_image(&self, archive: &Path) -> Result<(), Error> {
        let nodes: Vec<(&str, &Path)> = self.nodes.iter().map(|node| (node.name(), node.socket())).collect();
        Ok(node::import_everywhere(&nodes, archive)?)
    }

    /// The control plane: relays, kubeconfigs, and programs to break.
    pub fn control(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// What there is to wait for.
async fn missing(kubeconfig: &Path, nodes: usize, dns: bool) -> Result<Option<String>, api::Error> {
    let client = api::client(kubeconfig).await?;
    let all = Api::<v1::Node>::all(client.clone()).list(&ListParams::default()).await?;
    let ready = all.iter().filter(|node| is_ready(node)).count();
    if ready < nodes {
        return Ok(Some(format!("{ready} of {nodes} nodes are ready")));
    }
    // One that was not ready a moment ago still keeps pods away.
    let tainted = |node: &&v1::Node| {
        node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_some_and(|taints| !taints.is_empty())
    };
    let repelling = all.iter().filter(tainted).count();
    if repelling > 0 {
        return Ok(Some(format!("{repelling} nodes are ready and take no pods yet")));
    }
    // Pods are refused until it is there.
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    if accounts.get_opt("default").await?.is_none() {
        return Ok(Some("the service account default/default is not there".to_owned()));
    }
    if dns { Ok(dns::missing(client).await?) } else { Ok(None) }
}

/// Whether a node says that it is ready.
#[must_use]
pub fn is_ready(node: &v1::Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

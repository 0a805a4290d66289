//! A scenario: what a directory of manifests and its optional `lab.yaml` ask the lab to build.
//!
//! In: a directory. Out: a [`Snapshot`] per directory, and one [`Scenario`] that covers all snapshots of a run, so that
//! addresses and nodes stay what they are while pods come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use postern::manifests;
pub use postern::manifests::lab::{LabExternal as External, LabFile, LabNode, LabPort as Port, Style};
use postern_policy::model::{Object, Pod};

/// Why a scenario cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Manifests do not parse.
    #[error("{errors}")]
    Manifests {
        /// What the parser says, one line each.
        errors: String,
    },
    /// A pod has an address, but no node.
    #[error("Pod {pod} has an address but no spec.nodeName: the lab cannot place it on a node")]
    Unscheduled {
        /// The pod.
        pod: String,
    },
    /// A pod names a node that `lab.yaml` does not list.
    #[error("Pod {pod} is on node {node}, which is not among the nodes of lab.yaml")]
    UnknownNode {
        /// The pod.
        pod: String,
        /// Its node.
        node: String,
    },
    /// Two directories of one run disagree on a host outside the cluster.
    #[error("external {name} differs between the directories: hosts outside the cluster stay what they are")]
    ExternalChanged {
        /// The external.
        name: String,
    },
    /// There is nothing to build.
    #[error("no pod and no node in {directories}: give Pods with spec.nodeName, or nodes in lab.yaml")]
    Empty {
        /// Where we looked.
        directories: String,
    },
}

/// One directory, read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Everything policy looks at.
    pub objects: Vec<Object>,
    /// `lab.yaml`, or its defaults.
    pub lab: LabFile,
}

impl Snapshot {
    /// Reads a directory.
    ///
    /// # Errors
    /// Something in it does not parse.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let loaded = manifests::load(directory).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Error::Manifests { errors: lines.join("\n") }
        })?;
        Ok(Self { objects: loaded.objects, lab: loaded.lab.unwrap_or_default() })
    }

    /// Pods that run: they have an address and are not finished.
    pub fn running_pods(&self) -> impl Iterator<Item = &Pod> {
        self.objects.iter().filter_map(|object| match object {
            Object::Pod(pod) if !pod.finished && !pod.addresses.is_empty() => Some(pod),
            _ => None,
        })
    }
}

/// A node to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Addresses that the manifests give it; the lab assigns the rest.
    pub addresses: Vec<IpAddr>,
    /// How it attaches its pods.
    pub style: Style,
}

/// What one run needs over all its directories.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// The nodes, in order.
    pub nodes: Vec<NodeSpec>,
    /// Hosts outside the cluster.
    pub externals: Vec<External>,
    /// Every pod that runs in some directory. The same name or address may occur more than once.
    pub pods: Vec<Pod>,
}

impl Scenario {
    /// Covers all snapshots.
    ///
    /// # Errors
    /// They contradict each other, or a pod cannot be placed.
    pub fn covering(snapshots: &[Snapshot]) -> Result<Self, Error> {
        let mut scenario = Self::default();
        for pod in snapshots.iter().flat_map(Snapshot::running_pods) {
            if pod.node.is_none() {
                return Err(Error::Unscheduled { pod: pod.id.to_string() });
            }
            if !scenario.pods.contains(pod) {
                scenario.pods.push(pod.clone());
            }
        }
        for external in snapshots.iter().flat_map(|snapshot| &snapshot.lab.externals) {
            match scenario.externals.iter().find(|known| known.name == external.name) {
                None => scenario.externals.push(external.clone()),
                Some(known) if known == external => {}
                Some(_) => return Err(Error::ExternalChanged { name: external.name.clone() }),
            }
        }
        scenario.nodes = nodes(snapshots, &scenario.pods)?;
        Ok(scenario)
    }
}

fn nodes(snapshots: &[Snapshot], pods: &[Pod]) -> Result<Vec<NodeSpec>, Error> {
    let mut names: Vec<String> = Vec::new();
    for node in snapshots.iter().flat_map(|snapshot| &snapshot.lab.nodes) {
        if !names.contains(&node.name) {
            names.push(node.name.clone());
        }
    }
    let named_by_pods: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
    if names.is_empty() {
        names = named_by_pods.iter().map(ToString::to_string).collect();
    }
    if let Some(pod) =
        pods.iter().find(|pod| pod.node.as_deref().is_some_and(|node| !names.iter().any(|name| name == node)))
    {
        let node = pod.node.as_deref().unwrap_or_default().to_owned();
        return Err(Error::UnknownNode { pod: pod.id.to_string(), node });
    }
    Ok(names.into_iter().enumerate().map(|(index, name)| node(snapshots, pods, index, name)).collect())
}

fn node(snapshots: &[Snapshot], pods: &[Pod], index: usize, name: String) -> NodeSpec {
    let turn = if index.is_multiple_of(2) { Style::Bridge } else { Style::Ptp };
    let mut of_lab =
        snapshots.iter().flat_map(|snapshot| &snapshot.lab.nodes).filter(|node| node.name == name);
    let style = of_lab.find_map(|node| node.style).unwrap_or(turn);
    let of_objects =
        snapshots.iter().flat_map(|snapshot| &snapshot.objects).filter_map(|object| match object {
            Object::Node(node) if *node.name == *name => Some(node.addresses.clone()),
            _ => None,
        });
    let of_host_pods = pods
        .iter()
        .filter(|pod| pod.host_network && pod.node.as_deref() == Some(&*name))
        .map(|pod| pod.addresses.clone());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in of_objects.chain(of_host_pods).flatten() {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    NodeSpec { name, addresses, style }
}

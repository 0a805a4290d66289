//! `lab.yaml`: what a scenario has beside Kubernetes objects. The agent passes it over; the lab and `postern matrix`
//! read it.

use std::net::IpAddr;
use std::path::Path;

use postern_policy::matrix::External;
use postern_policy::model::Protocol;
use serde::Deserialize;

use super::{ManifestError, Place};

/// The file's name.
pub const FILE: &str = "lab.yaml";

/// Contents of `lab.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabFile {
    /// The nodes, in order.
    #[serde(default)]
    pub nodes: Vec<LabNode>,
    /// Hosts outside the cluster.
    #[serde(default)]
    pub externals: Vec<LabExternal>,
}

/// A node: its name alone, or with details.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "NodeEntry")]
pub struct LabNode {
    /// As in `spec.nodeName`.
    pub name: String,
    /// How pods are attached; chosen by the lab when unset.
    pub style: Option<Style>,
}

/// How a node's pods are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Veths into a bridge (CNI plugin `bridge`).
    Bridge,
    /// Routed veths (CNI plugin `ptp`).
    Ptp,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NodeEntry {
    Name(String),
    Detailed { name: String, style: Option<Style> },
}

impl From<NodeEntry> for LabNode {
    fn from(entry: NodeEntry) -> Self {
        match entry {
            NodeEntry::Name(name) => Self { name, style: None },
            NodeEntry::Detailed { name, style } => Self { name, style },
        }
    }
}

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabExternal {
    /// Shown as `external/NAME`.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// What it listens on.
    #[serde(default)]
    pub ports: Vec<LabPort>,
}

/// A port of a host outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabPort {
    /// The port.
    pub port: u16,
    /// TCP when unset.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
}

const fn tcp() -> Protocol {
    Protocol::Tcp
}

impl LabFile {
    /// The hosts outside the cluster, as the policy crate speaks of them.
    #[must_use]
    pub fn externals(&self) -> Vec<External> {
        let external = |it: &LabExternal| External {
            name: it.name.clone(),
            addresses: it.ips.clone(),
            ports: it.ports.iter().map(|port| (port.port, port.protocol)).collect(),
        };
        self.externals.iter().map(external).collect()
    }
}

/// Reads a folder's `lab.yaml`, where there is one.
///
/// # Errors
///
/// The file cannot be read or parsed.
pub fn load(folder: &Path) -> Result<Option<LabFile>, ManifestError> {
    let path = folder.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ManifestError::Unreadable { path, message: error.to_string() }),
    };
    let parsed = serde_path_to_error::deserialize(serde_yaml_ng::Deserializer::from_str(&text));
    parsed.map(Some).map_err(|error| ManifestError::Invalid {
        place: Place { file: path, document: 1, items: Vec::new() },
        object: None,
        message: error.to_string(),
    })
}

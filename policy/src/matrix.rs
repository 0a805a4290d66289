//! Who reaches whom: objects flow in, one cell for each question flows out, answered through the engine's tables.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Object, Protocol};

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Shown as `external/NAME`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports it listens on.
    pub ports: Vec<(u16, Protocol)>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// `namespace/pod` or `external/NAME`
    pub from: String,
    /// `namespace/pod` or `external/NAME`
    pub to: String,
    /// A port that the destination declares.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of both addresses.
    pub ip_family: IpFamily,
    /// Whether the connection is allowed; where an end has several addresses of the family, from and to all of them.
    pub allowed: bool,
}

/// Every source to every destination on each of the destination's declared ports, sorted.
#[must_use]
pub fn matrix(objects: &[Object], externals: &[External]) -> Vec<Cell> {
    let _ = (objects, externals);
    Vec::new()
}

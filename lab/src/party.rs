//! Who can talk to whom: pods and hosts outside the cluster, alike from here on.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use postern_policy::model::{NamespacedName, Pod, Protocol};

use crate::prober::{Listen, Target};
use crate::scenario::External;

/// Names a party, as matrices do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartyId {
    /// A host outside the cluster: `external/NAME`.
    External(String),
    /// A pod: `NAMESPACE/NAME`.
    Pod(NamespacedName),
}

impl fmt::Display for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External(name) => write!(f, "external/{name}"),
            Self::Pod(id) => id.fmt(f),
        }
    }
}

/// A source and destination of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its name.
    pub id: PartyId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it serves.
    pub ports: Vec<(u16, Protocol)>,
}

impl Party {
    /// A pod as a party.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        // Two containers may declare the same port.
        let ports: BTreeSet<_> = pod.ports.iter().map(|port| (port.number, port.protocol)).collect();
        Self {
            id: PartyId::Pod(pod.id.clone()),
            addresses: pod.addresses.clone(),
            ports: ports.into_iter().collect(),
        }
    }

    /// A host outside the cluster as a party.
    #[must_use]
    pub fn of_external(external: &External) -> Self {
        let ports: BTreeSet<_> = external.ports.iter().map(|port| (port.port, port.protocol)).collect();
        Self {
            id: PartyId::External(external.name.clone()),
            addresses: external.ips.clone(),
            ports: ports.into_iter().collect(),
        }
    }

    /// All its ports on all its addresses.
    #[must_use]
    pub fn listens(&self) -> Vec<Listen> {
        let on = |address: &IpAddr| {
            let address = *address;
            self.ports.iter().map(move |(port, protocol)| Listen {
                address: SocketAddr::new(address, *port),
                protocol: *protocol,
            })
        };
        self.addresses.iter().flat_map(on).collect()
    }

    /// Everything that this party can try at `other`: each port, from and to each address, within a family.
    #[must_use]
    pub fn targets(&self, other: &Self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (port, protocol) in &other.ports {
            for destination in &other.addresses {
                let of_family = |source: &&IpAddr| source.is_ipv4() == destination.is_ipv4();
                targets.extend(self.addresses.iter().filter(of_family).map(|source| Target {
                    source: *source,
                    destination: SocketAddr::new(*destination, *port),
                    protocol: *protocol,
                    answerer: Some(other.id.to_string()),
                }));
            }
        }
        targets
    }
}

//! Ways to the addresses of Services. On nodes they only make the address one that can be sent to: the node translates
//! what goes there. Hosts outside reach external addresses through a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::host;
use super::{ETH0, Error, Topology};
use crate::netlink::Route;

/// Where a route stands, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// Position of the node; `None`: every host outside.
    node: Option<usize>,
    destination: IpAddr,
    via: Option<IpAddr>,
}

impl Topology {
    /// Lays the ways to these addresses, and takes back those to others. An external address leads to a node's, where
    /// one takes it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn route_services(
        &mut self,
        cluster: &BTreeSet<IpAddr>,
        external: &BTreeMap<IpAddr, Option<IpAddr>>,
    ) -> Result<(), Error> {
        let of_nodes = (0..self.nodes.len()).flat_map(|node| {
            let all = cluster.iter().chain(external.keys());
            all.map(move |address| Way { node: Some(node), destination: *address, via: None })
        });
        let of_externals = external.iter().filter(|(_, via)| via.is_some());
        let of_externals = of_externals.map(|(to, via)| Way { node: None, destination: *to, via: *via });
        let wanted: BTreeSet<Way> = of_nodes.chain(of_externals).collect();
        let stale: Vec<Way> = self.services.difference(&wanted).copied().collect();
        let new: Vec<Way> = wanted.difference(&self.services).copied().collect();
        for (way, lay) in
            stale.into_iter().map(|way| (way, false)).chain(new.into_iter().map(|way| (way, true)))
        {
            let route = Route { destination: host(way.destination), via: way.via, index: ETH0 };
            let sockets: Vec<_> = match way.node {
                Some(node) => vec![&mut self.nodes[node].netlink],
                None => self.externals.iter_mut().map(|external| &mut external.netlink).collect(),
            };
            for netlink in sockets {
                if lay { netlink.set_route(&route)? } else { netlink.delete_route(&route)? }
            }
        }
        self.services = wanted;
        for link in self.pods.values() {
            link.set_hairpin(&mut self.nodes[link.node])?;
        }
        Ok(())
    }
}

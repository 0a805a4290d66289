//! A lab's Services: what each node translates, and the ways to their addresses.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Lab};
use crate::feed;
use crate::scenario::Snapshot;
use crate::services::{Table, addresses, forget, load, nftables};
use crate::sysctl;
use crate::topology::Topology;

impl Lab {
    /// Has the nodes translate as the snapshot's Services say, and lets everyone know the ways to their addresses.
    ///
    /// # Errors
    /// nft or the kernel refuses.
    pub(super) fn sync_services(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.objects.clone_from(&snapshot.objects);
        let (cluster, external) = addresses(&self.objects);
        // What no Service ever asked for is not set up: nodes stay as bare as the scenarios need them.
        let in_use: BTreeSet<_> = cluster.iter().chain(external.keys()).collect();
        for (name, netns) in self.topology.nodes() {
            let rules = nftables(&self.objects, name);
            let before = self.rules.get(name);
            if before.is_none() && in_use.is_empty() || before == Some(&rules) {
                continue;
            }
            sysctl::apply(netns, sysctl::SERVICES)?;
            load(netns, &rules, before.unwrap_or(&Table::default()))?;
            self.rules.insert(name.to_owned(), rules);
        }
        if !self.rules.is_empty() {
            self.topology.route_services(&cluster, &external)?;
        }
        Ok(())
    }

    /// Has all nodes forget which backends clients keep (session affinity).
    ///
    /// # Errors
    /// nft refuses.
    pub fn forget_affinity(&self) -> Result<(), Error> {
        Ok(forget_affinity(&self.topology, &self.rules)?)
    }
}

/// The same, where other parts of the lab are in use.
pub(super) fn forget_affinity(
    topology: &Topology,
    rules: &BTreeMap<String, Table>,
) -> Result<(), feed::Error> {
    let nodes = topology.nodes().filter_map(|(name, netns)| Some((netns, rules.get(name)?)));
    nodes.into_iter().try_for_each(|(netns, table)| forget(netns, table))
}

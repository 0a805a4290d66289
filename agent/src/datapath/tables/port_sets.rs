//! Port sets that do not fit into a verdict: which number each has, who uses it, and which of its pages are in the map.
//!
//! A number is given once. Pages are noted before they are written, so that a set whose writing failed half way is taken out again,
//! page by page, at once or as soon as the kernel lets go of them.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use postern_common::verdict::PortPageKey;
use postern_policy::{ClassId, PeerClass, PortSet};

use crate::datapath::encode;
use crate::datapath::maps::{Maps, unless_gone};

/// A pair of classes, as `VERDICTS` has it.
pub(super) type Pair = (ClassId, PeerClass);

/// The sets that this agent wrote.
#[derive(Debug)]
pub(super) struct PortSets {
    next: u32,
    shared: BTreeMap<PortSet, Shared>,
    /// Which set a verdict in the map names.
    named: BTreeMap<Pair, PortSet>,
    /// Pages that may be in the map, of sets that no verdict names any more, or never did.
    unused: BTreeSet<PortPageKey>,
}

/// A set whose pages are in the map.
#[derive(Debug)]
struct Shared {
    number: u32,
    /// How many verdicts name it.
    verdicts: usize,
}

impl PortSets {
    /// No sets; the first one gets this number.
    pub(super) fn new(first: u32) -> Self {
        Self { next: first, shared: BTreeMap::new(), named: BTreeMap::new(), unused: BTreeSet::new() }
    }

    /// The numbers in use.
    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        self.shared.values().map(|shared| shared.number).collect()
    }

    /// The number of a set whose pages are in the map, all of them. Zero where it needs none.
    pub(super) fn number(&mut self, maps: &mut Maps, ports: &PortSet) -> Result<u32, MapError> {
        if encode::fits_inline(ports) {
            return Ok(0);
        }
        if let Some(shared) = self.shared.get(ports) {
            return Ok(shared.number);
        }
        let number = self.next;
        self.next += 1;
        self.shared.insert(ports.clone(), Shared { number, verdicts: 0 });
        for (key, page) in encode::pages(ports, number) {
            let written = maps.write(|maps| maps.port_pages.insert(key, page, 0));
            if let Err(error) = written {
                self.drop_unnamed(maps, ports);
                return Err(error);
            }
        }
        Ok(number)
    }

    /// The verdict of a pair names this set from now on, and no other one.
    pub(super) fn name(&mut self, maps: &mut Maps, pair: Pair, ports: &PortSet) {
        if self.named.get(&pair) == Some(ports) {
            return;
        }
        self.unname(maps, pair);
        if let Some(shared) = self.shared.get_mut(ports) {
            shared.verdicts += 1;
            self.named.insert(pair, ports.clone());
        }
    }

    /// The verdict of a pair is gone.
    pub(super) fn unname(&mut self, maps: &mut Maps, pair: Pair) {
        let Some(ports) = self.named.remove(&pair) else { return };
        if let Some(shared) = self.shared.get_mut(&ports) {
            shared.verdicts -= 1;
        }
        self.drop_unnamed(maps, &ports);
    }

    /// Takes a set's pages out, unless a verdict names it.
    pub(super) fn drop_unnamed(&mut self, maps: &mut Maps, ports: &PortSet) {
        let Some(Shared { number, .. }) = self.shared.get(ports).filter(|shared| shared.verdicts == 0) else {
            return;
        };
        self.unused.extend(encode::pages(ports, *number).into_keys());
        self.shared.remove(ports);
        self.remove_unused(maps);
    }

    /// Removes pages that nobody can reach. Those that the kernel refuses to remove stay in nobody's way, and are tried again.
    pub(super) fn remove_unused(&mut self, maps: &mut Maps) {
        self.unused.retain(|key| unless_gone(maps.write(|maps| maps.port_pages.remove(key))).is_err());
    }
}

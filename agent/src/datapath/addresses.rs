//! The pods' own addresses in the maps (`POD_ADDRESSES4`, `POD_ADDRESSES6`), by veth, and once more without: there stands
//! which veth has it, as long as there is one alone. Written here alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::MapError;
use postern_common::endpoint::{ANY_VETH, PodAddress4, PodAddress6};

use super::maps::Maps;

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses(BTreeMap<u32, BTreeSet<IpAddr>>);

impl PodAddresses {
    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn read(maps: &Maps) -> Result<Self, MapError> {
        let mut held: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for key in maps.pod_addresses4.keys() {
            let PodAddress4 { ifindex, address } = key?;
            held.entry(ifindex).or_default().insert(address.into());
        }
        for key in maps.pod_addresses6.keys() {
            let PodAddress6 { ifindex, address } = key?;
            held.entry(ifindex).or_default().insert(address.into());
        }
        held.remove(&ANY_VETH);
        Ok(Self(held))
    }

    /// By interface index of the veth.
    #[must_use]
    pub fn by_veth(&self) -> &BTreeMap<u32, BTreeSet<IpAddr>> {
        &self.0
    }

    /// Adds what is missing of a veth's addresses; others stay, so that nothing sent meanwhile is taken for spoofed.
    pub(super) fn add(
        &mut self,
        maps: &mut Maps,
        ifindex: u32,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<(), MapError> {
        for address in wanted {
            if self.0.get(&ifindex).is_some_and(|held| held.contains(address)) {
                continue;
            }
            let is_others = self.0.iter().any(|(other, held)| *other != ifindex && held.contains(address));
            maps.set_owner(*address, (!is_others).then_some(ifindex))?;
            maps.add_pod_address(ifindex, *address)?;
            self.0.entry(ifindex).or_default().insert(*address);
        }
        Ok(())
    }

    /// Removes what a veth has beyond `wanted`.
    pub(super) fn retain(
        &mut self,
        maps: &mut Maps,
        ifindex: u32,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<(), MapError> {
        let Some(held) = self.0.get(&ifindex) else { return Ok(()) };
        let stale: Vec<IpAddr> = held.difference(wanted).copied().collect();
        for address in stale {
            let others = self.0.iter().filter(|(other, held)| **other != ifindex && held.contains(&address));
            match others.map(|(other, _)| *other).collect::<Vec<_>>()[..] {
                [] => maps.remove_pod_address(ANY_VETH, address)?,
                [owner] => maps.set_owner(address, Some(owner))?,
                _ => {}
            }
            maps.remove_pod_address(ifindex, address)?;
            if let Some(held) = self.0.get_mut(&ifindex) {
                held.remove(&address);
            }
        }
        self.0.retain(|_, held| !held.is_empty());
        Ok(())
    }
}

//! The pods' own addresses in the maps (`POD_ADDRESSES4`, `POD_ADDRESSES6`), by veth. Written here alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::MapError;
use postern_common::endpoint::{PodAddress4, PodAddress6};

use super::maps::Maps;

/// `BPF_ANY`: insert or replace.
const ANY: u64 = 0;
/// What stands beside an address: being there is what counts.
const PRESENT: u32 = 1;

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
        let held = self.0.entry(ifindex).or_default();
        for address in wanted {
            if held.contains(address) {
                continue;
            }
            match *address {
                IpAddr::V4(it) => {
                    maps.pod_addresses4.insert(
                        PodAddress4 { ifindex, address: it.octets() },
                        PRESENT,
                        ANY,
                    )?;
                }
                IpAddr::V6(it) => {
                    maps.pod_addresses6.insert(
                        PodAddress6 { ifindex, address: it.octets() },
                        PRESENT,
                        ANY,
                    )?;
                }
            }
            held.insert(*address);
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
        let Some(held) = self.0.get_mut(&ifindex) else { return Ok(()) };
        let stale: Vec<IpAddr> = held.difference(wanted).copied().collect();
        for address in stale {
            let removed = match address {
                IpAddr::V4(it) => maps.pod_addresses4.remove(&PodAddress4 { ifindex, address: it.octets() }),
                IpAddr::V6(it) => maps.pod_addresses6.remove(&PodAddress6 { ifindex, address: it.octets() }),
            };
            match removed {
                // Gone already is as good as removed.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            held.remove(&address);
        }
        if held.is_empty() {
            self.0.remove(&ifindex);
        }
        Ok(())
    }
}

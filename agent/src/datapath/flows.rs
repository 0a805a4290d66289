//! What programs know of a veth's flows, for when it carries none any more.

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use postern_common::conntrack::{DIRECTORY_ROWS, DirectoryRow, Flow, RowKey};
use postern_common::service::{HAIRPIN_SLOTS, HairpinSlot};

use super::half_open;
use super::maps::{Maps, unless_gone};

/// Removes all flows of a veth, and their room; nothing may be judged by programs of this veth any more. Datagrams in fragments are left
/// to [`super::expiry`], as is what stays behind here.
///
/// # Errors
///
/// The kernel refused.
pub fn remove(maps: &mut Maps, ifindex: u32) -> Result<(), MapError> {
    remove_established(&mut maps.flows4, &mut maps.directory4, ifindex)?;
    remove_established(&mut maps.flows6, &mut maps.directory6, ifindex)?;
    for number in 0..HAIRPIN_SLOTS {
        unless_gone(maps.hairpins.remove(&HairpinSlot { ifindex, number }))?;
    }
    half_open::give_back(maps, ifindex)
}

fn remove_established<K: Pod + Default + PartialEq>(
    flows: &mut HashMap<MapData, K, Flow>,
    directory: &mut HashMap<MapData, RowKey, DirectoryRow<K>>,
    ifindex: u32,
) -> Result<(), MapError> {
    for number in 0..DIRECTORY_ROWS {
        let key = RowKey { ifindex, number };
        let row = match directory.get(&key, 0) {
            Ok(row) => row,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error),
        };
        for flow in row.flows.iter().filter(|flow| **flow != K::default()) {
            unless_gone(flows.remove(flow))?;
        }
        unless_gone(directory.remove(&key))?;
    }
    Ok(())
}

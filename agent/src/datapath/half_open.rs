//! Rows for half-open flows: the room that a veth has while it carries programs. The first rows are made here, since getting
//! memory packet by packet costs more than all else that a new flow takes; those beyond are made by the programs.

use std::collections::BTreeMap;

use aya::maps::MapError;
use postern_common::conntrack::{HALF_OPEN_ROWS, OVERFLOW_ROWS, Row, RowKey};

use super::maps::{Maps, unless_gone};

/// `BPF_NOEXIST`: what is there already has flows in it.
const NEW: u64 = 1;

/// Sets a veth's rows aside. Those that are there already, from an earlier agent, keep their flows.
///
/// # Errors
///
/// The kernel has no memory, or the map is full.
pub fn make_room(maps: &mut Maps, ifindex: u32) -> Result<(), MapError> {
    make_rows(maps, ifindex, HALF_OPEN_ROWS)
}

/// The same for programs that were loaded to use another number of rows.
///
/// # Errors
///
/// As [`make_room`].
pub fn make_rows(maps: &mut Maps, ifindex: u32, rows: u32) -> Result<(), MapError> {
    let empty = Row { ifindex, ..Row::default() };
    for number in 0..rows {
        loop {
            let made = maps.half_open.insert(RowKey { ifindex, number }, empty, NEW);
            match made.as_ref().err().and_then(errno) {
                Some(libc::EEXIST) => {}
                Some(libc::E2BIG) if take_from_floods(maps)? => continue,
                _ => made?,
            }
            break;
        }
    }
    Ok(())
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}

/// Removes the overflow rows of the veth that has most. Says whether there were any.
fn take_from_floods(maps: &mut Maps) -> Result<bool, MapError> {
    let mut floods: BTreeMap<u32, Vec<RowKey>> = BTreeMap::new();
    for key in maps.half_open.keys() {
        let key = key?;
        if key.number >= HALF_OPEN_ROWS {
            floods.entry(key.ifindex).or_default().push(key);
        }
    }
    let Some(most) = floods.values().max_by_key(|rows| rows.len()) else { return Ok(false) };
    for key in most {
        unless_gone(maps.half_open.remove(key))?;
    }
    Ok(true)
}

/// Gives a veth's rows back, with all half-open flows in them; nothing may be judged by programs of this veth any more.
///
/// # Errors
///
/// The kernel refused.
pub fn give_back(maps: &mut Maps, ifindex: u32) -> Result<(), MapError> {
    for number in 0..HALF_OPEN_ROWS + OVERFLOW_ROWS {
        unless_gone(maps.half_open.remove(&RowKey { ifindex, number }))?;
    }
    Ok(())
}

//! Rows for half-open flows: the room that a veth has while it carries programs. The programs make none of their own, since getting
//! memory packet by packet costs more than all else that a new flow takes.

use aya::maps::MapError;
use postern_common::conntrack::{HALF_OPEN_ROWS, Row, RowKey};

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
        match maps.half_open.insert(RowKey { ifindex, number }, empty, NEW) {
            Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Gives a veth's rows back, with all half-open flows in them; nothing may be judged by programs of this veth any more.
///
/// # Errors
///
/// The kernel refused.
pub fn give_back(maps: &mut Maps, ifindex: u32) -> Result<(), MapError> {
    for number in 0..HALF_OPEN_ROWS {
        unless_gone(maps.half_open.remove(&RowKey { ifindex, number }))?;
    }
    Ok(())
}

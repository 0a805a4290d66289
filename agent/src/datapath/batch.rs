//! Reading maps of many entries: bucket by bucket, not key by key. A key that a program removes meanwhile makes nothing start over.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for reading several entries at once")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData};

use super::bpf::bpf;

/// `BPF_MAP_LOOKUP_BATCH`
const MAP_LOOKUP_BATCH: libc::c_int = 24;

/// Entries that are read in one go, to begin with.
const ROOM: usize = 1 << 12;

/// What the command reads of `union bpf_attr`.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads all entries of a hash map. What is written meanwhile may be missed, or come twice. Minimum kernel version: 5.6.
///
/// # Errors
///
/// The map cannot be read.
pub(super) fn for_each<K: Pod + Default, V: Pod + Default>(
    map: &HashMap<MapData, K, V>,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut keys = vec![K::default(); ROOM];
    let mut values = vec![V::default(); ROOM];
    // Numbers of buckets.
    let (mut here, mut next) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut batch = Batch {
            from: if is_first { 0 } else { (&raw const here) as u64 },
            to: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).map_err(io::Error::other)?,
            map_fd: map.map().fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute is what the command reads, and there is room for as many entries as it says.
        let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut batch) };
        let is_last = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                // One bucket has more.
                keys.resize(keys.len() * 2, K::default());
                values.resize(values.len() * 2, V::default());
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = usize::try_from(batch.count).map_err(io::Error::other)?;
        keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
        if is_last {
            return Ok(());
        }
        (here, is_first) = (next, false);
    }
}

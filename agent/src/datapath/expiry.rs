//! Removes fragments that have expired, or whose veth is gone.
//!
//! The programs write these into a plain hash map, where an entry stays until its slot is written again. Here alone the
//! agent writes there. A thread of its own: a flood through many pods leaves some ten thousand entries, and the
//! controller must not wait for them to be read.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use postern_common::conntrack::{Datagram, MAX_FRAGMENTS, SECOND, Slot};
use tracing::{debug, warn};

use super::maps::Maps;

/// Entries to look at in one go. The kernel starts over where the last one read has just been removed by a program: what
/// is not reached is looked at next time.
const MOST: usize = 2 * MAX_FRAGMENTS;

/// Why nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum ExpiryError {
    /// No second handle of the map.
    #[error("opening the map of fragments once more: {0}")]
    Map(#[from] MapError),
    /// No thread.
    #[error("starting the thread that removes expired fragments: {0}")]
    Thread(#[from] std::io::Error),
}

/// The thread that removes. It ends when this is dropped.
#[derive(Debug)]
pub struct Expiry(SyncSender<BTreeSet<u32>>);

impl Expiry {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The kernel gives no second handle of the map, or no thread.
    pub fn start(maps: &Maps) -> Result<Self, ExpiryError> {
        // Of the descriptor: asking for the map by its id takes CAP_SYS_ADMIN.
        let descriptor = maps.fragments.map().fd().as_fd().try_clone_to_owned()?;
        let fragments = Map::from_map_data(MapData::from_fd(descriptor)?)?.try_into()?;
        // One is waiting at the most: while the thread is busy, asking again would say nothing new.
        let (sender, asked) = sync_channel(1);
        thread::Builder::new().name("expiry".to_owned()).spawn(move || run(fragments, &asked))?;
        Ok(Self(sender))
    }

    /// Has the thread remove what has expired, and everything of veths that are not among these. Does not wait.
    pub fn remove_expired(&self, veths: BTreeSet<u32>) {
        // Busy is fine. Its end is not, but then there is nobody left to tell.
        let _ = self.0.try_send(veths);
    }
}

fn run(mut fragments: HashMap<MapData, Slot, Datagram>, asked: &Receiver<BTreeSet<u32>>) {
    while let Ok(veths) = asked.recv() {
        match remove_expired(&mut fragments, &veths, now()) {
            Ok(0) => {}
            Ok(entries) => debug!(entries, "removed fragments that had expired"),
            Err(error) => warn!(%error, "removing expired fragments failed; trying again later"),
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn now() -> u64 {
    // A clock that does not answer makes nothing expire.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * SECOND + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}

/// Removes the entries that have expired at `now`, and those of veths that are not among `veths`. Returns how many.
///
/// # Errors
///
/// The map cannot be read or written.
pub fn remove_expired(
    fragments: &mut HashMap<MapData, Slot, Datagram>,
    veths: &BTreeSet<u32>,
    now: u64,
) -> Result<usize, MapError> {
    let is_stale = |slot: &Slot, value: &Datagram| value.expires <= now || !veths.contains(&slot.ifindex);
    let mut stale = Vec::new();
    for item in fragments.iter().take(MOST) {
        let (slot, value) = item?;
        if is_stale(&slot, &value) {
            stale.push(slot);
        }
    }
    let mut removed = 0;
    for slot in stale {
        // The slot may have been taken again since. That this happens between these two calls, too, is very unlikely,
        // and costs a datagram.
        match fragments.get(&slot, 0) {
            Ok(value) if is_stale(&slot, &value) => {}
            Ok(_) | Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error),
        }
        match fragments.remove(&slot) {
            Ok(()) => removed += 1,
            Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

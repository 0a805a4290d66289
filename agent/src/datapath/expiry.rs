//! Removes half-open flows and fragments that have expired, or whose veth is gone.
//!
//! The programs write these into plain hash maps, where an entry stays until its slot is written again. Here alone the
//! agent writes into them. A thread of its own: a flood through many pods leaves some hundred thousand entries, and the
//! controller must not wait for them to be read.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use postern_common::conntrack::{Datagram, HalfOpen, MAX_HALF_OPEN, SECOND, Slot};
use tracing::{debug, warn};

use super::maps::Maps;

/// Entries to look at in one go. The kernel starts over where the last one read has just been removed by a program: what
/// is not reached is looked at next time.
const MOST: usize = 2 * MAX_HALF_OPEN;

/// Why nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum ExpiryError {
    /// No second handles of the maps.
    #[error("opening the maps of half-open flows and fragments once more: {0}")]
    Map(#[from] MapError),
    /// No thread.
    #[error("starting the thread that removes expired flows: {0}")]
    Thread(#[from] std::io::Error),
}

/// A value that stops counting at some time.
trait Expires: Pod {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    fn expires(&self) -> u64;
}

impl Expires for HalfOpen {
    fn expires(&self) -> u64 {
        self.flow.expires
    }
}

impl Expires for Datagram {
    fn expires(&self) -> u64 {
        self.expires
    }
}

/// The thread that removes. It ends when this is dropped.
#[derive(Debug)]
pub struct Expiry(SyncSender<BTreeSet<u32>>);

impl Expiry {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The kernel gives no second handles of the maps, or no thread.
    pub fn start(maps: &Maps) -> Result<Self, ExpiryError> {
        let half_open = another_handle(&maps.half_open)?;
        let fragments = another_handle(&maps.fragments)?;
        // One is waiting at the most: while the thread is busy, asking again would say nothing new.
        let (sender, asked) = sync_channel(1);
        let run = move || run(half_open, fragments, &asked);
        thread::Builder::new().name("expiry".to_owned()).spawn(run)?;
        Ok(Self(sender))
    }

    /// Has the thread remove what has expired, and everything of veths that are not among these. Does not wait.
    pub fn remove_expired(&self, veths: BTreeSet<u32>) {
        // Busy is fine. Its end is not, but then there is nobody left to tell.
        let _ = self.0.try_send(veths);
    }
}

fn another_handle<V: Pod>(map: &HashMap<MapData, Slot, V>) -> Result<HashMap<MapData, Slot, V>, MapError> {
    // Of the descriptor: asking for the map by its id takes CAP_SYS_ADMIN.
    let descriptor = map.map().fd().as_fd().try_clone_to_owned()?;
    Map::from_map_data(MapData::from_fd(descriptor)?)?.try_into()
}

fn run(
    mut half_open: HashMap<MapData, Slot, HalfOpen>,
    mut fragments: HashMap<MapData, Slot, Datagram>,
    asked: &Receiver<BTreeSet<u32>>,
) {
    while let Ok(veths) = asked.recv() {
        match remove_expired(&mut half_open, &mut fragments, &veths, now()) {
            Ok(0) => {}
            Ok(entries) => debug!(entries, "removed half-open flows and fragments that had expired"),
            Err(error) => {
                warn!(%error, "removing expired half-open flows and fragments failed; trying again later");
            }
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
/// A map cannot be read or written.
pub fn remove_expired(
    half_open: &mut HashMap<MapData, Slot, HalfOpen>,
    fragments: &mut HashMap<MapData, Slot, Datagram>,
    veths: &BTreeSet<u32>,
    now: u64,
) -> Result<usize, MapError> {
    Ok(remove(half_open, veths, now)? + remove(fragments, veths, now)?)
}

fn remove<V: Expires>(
    map: &mut HashMap<MapData, Slot, V>,
    veths: &BTreeSet<u32>,
    now: u64,
) -> Result<usize, MapError> {
    let is_stale = |slot: &Slot, value: &V| value.expires() <= now || !veths.contains(&slot.ifindex);
    let mut stale = Vec::new();
    for item in map.iter().take(MOST) {
        let (slot, value) = item?;
        if is_stale(&slot, &value) {
            stale.push(slot);
        }
    }
    let mut removed = 0;
    for slot in stale {
        // The slot may have been taken again since. That this happens between these two calls, too, is very unlikely,
        // and costs a flow one repeated packet.
        match map.get(&slot, 0) {
            Ok(value) if is_stale(&slot, &value) => {}
            Ok(_) | Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error),
        }
        match map.remove(&slot) {
            Ok(()) => removed += 1,
            Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

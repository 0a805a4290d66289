//! Removes what has expired of what programs write, or whose veth is gone.
//!
//! The programs write into plain hash maps, where an entry stays until something else takes its place. Here alone the
//! agent writes there. A thread of its own: floods through many pods leave some hundred thousand entries, and the
//! controller must not wait for them to be read.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};
use aya::programs::SchedClassifier;
use nix::time::{ClockId, clock_gettime};
use postern_common::conntrack::{
    Datagram, DirectoryRow, Flow, Flow4, Flow6, HALF_OPEN_ROWS, MAX_DIRECTORY_ROWS, MAX_FRAGMENTS, MAX_ROWS,
    Row, RowKey, SECOND, Slot,
};
use postern_common::endpoint::Endpoint;
use postern_common::service::{Hairpin, HairpinSlot, MAX_HAIRPINS};
use tracing::{debug, warn};

use super::batch;
use super::maps::{Maps, unless_gone};
use super::object::{self, LoadError};

/// Why nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum ExpiryError {
    /// No second handle of a map, or it cannot be read.
    #[error("maps that hold what expires: {0}")]
    Map(#[from] MapError),
    /// A map cannot be read.
    #[error("reading maps that hold what expires: {0}")]
    Read(std::io::Error),
    /// The kernel does not tell its ticks.
    #[error("asking for the kernel's ticks: {0}")]
    Ticks(#[from] LoadError),
    /// No thread.
    #[error("starting the thread that removes what has expired: {0}")]
    Thread(std::io::Error),
}

/// The thread that removes. It ends when this is dropped.
#[derive(Debug)]
pub struct Expiry(SyncSender<BTreeSet<u32>>);

impl Expiry {
    /// Starts the thread, with the program that tells the kernel's ticks ([`object::TICKS`]).
    ///
    /// # Errors
    ///
    /// See [`ExpiryError`].
    pub fn start(ticks: &SchedClassifier, maps: &Maps) -> Result<Self, ExpiryError> {
        let expiring = Expiring::of(maps)?;
        // Both go on alike, and stand still while the machine sleeps.
        let offset = object::ticks(ticks)?.wrapping_sub(monotonic());
        // One is waiting at the most: while the thread is busy, asking again would say nothing new.
        let (sender, asked) = sync_channel(1);
        let thread = thread::Builder::new().name("expiry".to_owned());
        thread.spawn(move || run(expiring, offset, &asked)).map_err(ExpiryError::Thread)?;
        Ok(Self(sender))
    }

    /// Has the thread remove what has expired, and everything of veths that are not among these. Does not wait.
    pub fn remove_expired(&self, veths: BTreeSet<u32>) {
        // Busy is fine. Its end is not, but then there is nobody left to tell.
        let _ = self.0.try_send(veths);
    }
}

fn run(mut expiring: Expiring, offset: u64, asked: &Receiver<BTreeSet<u32>>) {
    while let Ok(veths) = asked.recv() {
        let monotonic = monotonic();
        let now = Now { monotonic, ticks: monotonic.wrapping_add(offset) };
        match expiring.remove(&veths, now) {
            Ok(removed) if removed == Removed::default() => {}
            Ok(removed) => debug!(?removed, "removed what had expired"),
            Err(error) => warn!(%error, "removing what has expired failed; trying again later"),
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn monotonic() -> u64 {
    // A clock that does not answer makes nothing expire.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * SECOND + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}

/// The time, by both clocks that programs go by.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic: u64,
    /// Nanoseconds by the kernel's ticks.
    pub ticks: u64,
}

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Datagrams in fragments, and packets on their way back to who sent them.
    pub slots: usize,
    /// Established flows.
    pub flows: usize,
    /// Rows of their directories.
    pub directory_rows: usize,
    /// Rows of half-open flows.
    pub rows: usize,
}

/// Handles of the maps that hold what expires.
#[derive(Debug)]
pub struct Expiring {
    endpoints: HashMap<MapData, u32, Endpoint>,
    fragments: HashMap<MapData, Slot, Datagram>,
    hairpins: HashMap<MapData, HairpinSlot, Hairpin>,
    flows4: HashMap<MapData, Flow4, Flow>,
    flows6: HashMap<MapData, Flow6, Flow>,
    directory4: HashMap<MapData, RowKey, DirectoryRow<Flow4>>,
    directory6: HashMap<MapData, RowKey, DirectoryRow<Flow6>>,
    half_open: HashMap<MapData, RowKey, Row>,
}

/// A second handle of a map. Of the descriptor: asking for the map by its id takes `CAP_SYS_ADMIN`.
fn again<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<HashMap<MapData, K, V>, ExpiryError> {
    let descriptor = map.map().fd().as_fd().try_clone_to_owned().map_err(ExpiryError::Read)?;
    Ok(Map::from_map_data(MapData::from_fd(descriptor)?)?.try_into()?)
}

/// A key that says which veth it is of.
trait OfVeth {
    fn ifindex(&self) -> u32;
}

macro_rules! of_veth {
    ($($key:ty),+) => {$(
        impl OfVeth for $key {
            fn ifindex(&self) -> u32 {
                self.ifindex
            }
        }
    )+};
}

of_veth!(Slot, HairpinSlot, Flow4, Flow6, RowKey);

impl Expiring {
    /// Handles of their own.
    ///
    /// # Errors
    ///
    /// The kernel gives none.
    pub fn of(maps: &Maps) -> Result<Self, ExpiryError> {
        Ok(Self {
            endpoints: again(&maps.endpoints)?,
            fragments: again(&maps.fragments)?,
            hairpins: again(&maps.hairpins)?,
            flows4: again(&maps.flows4)?,
            flows6: again(&maps.flows6)?,
            directory4: again(&maps.directory4)?,
            directory6: again(&maps.directory6)?,
            half_open: again(&maps.half_open)?,
        })
    }

    /// Removes what has expired, and what is of veths that are not among `veths` and have no endpoint.
    ///
    /// # Errors
    ///
    /// A map cannot be read or written.
    pub fn remove(&mut self, veths: &BTreeSet<u32>, now: Now) -> Result<Removed, ExpiryError> {
        let endpoints = &self.endpoints;
        // A veth that got its programs since these were counted has an endpoint.
        let is_gone = |ifindex: u32| {
            !veths.contains(&ifindex) && matches!(endpoints.get(&ifindex, 0), Err(MapError::KeyNotFound))
        };
        let mut removed = Removed::default();
        let has_expired = |datagram: &Datagram| datagram.expires <= now.monotonic;
        removed.slots += remove_from(&mut self.fragments, 2 * MAX_FRAGMENTS, is_gone, has_expired)?;
        let has_expired = |hairpin: &Hairpin| hairpin.expires <= now.monotonic;
        removed.slots += remove_from(&mut self.hairpins, 2 * MAX_HAIRPINS, is_gone, has_expired)?;
        remove_flows(&mut self.flows4, &mut self.directory4, is_gone, now.ticks, &mut removed)?;
        remove_flows(&mut self.flows6, &mut self.directory6, is_gone, now.ticks, &mut removed)?;
        removed.rows += remove_rows(&mut self.half_open, is_gone, now.ticks)?;
        Ok(removed)
    }
}

/// Removes entries that have expired, or whose veth is gone. Returns how many.
fn remove_from<K: Pod + Default + OfVeth, V: Pod + Default>(
    map: &mut HashMap<MapData, K, V>,
    most: usize,
    is_gone: impl Fn(u32) -> bool,
    has_expired: impl Fn(&V) -> bool,
) -> Result<usize, ExpiryError> {
    let mut stale = Vec::new();
    let is_stale = |key: &K, value: &V| has_expired(value) || is_gone(key.ifindex());
    batch::for_each(map, |key, value| {
        if stale.len() < most && is_stale(key, value) {
            stale.push(*key);
        }
    })
    .map_err(ExpiryError::Read)?;
    remove_all(map, &stale, is_stale)
}

/// Removes entries that were found to be stale, and still are. That one is written between these two calls is very unlikely, and costs
/// a datagram, or a flow.
fn remove_all<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    stale: &[K],
    is_stale: impl Fn(&K, &V) -> bool,
) -> Result<usize, ExpiryError> {
    let mut removed = 0;
    for key in stale {
        match map.get(key, 0) {
            Ok(value) if is_stale(key, &value) => {
                unless_gone(map.remove(key))?;
                removed += 1;
            }
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// Removes established flows, and rows of directories that hold none any more.
fn remove_flows<K: Pod + Default + OfVeth + PartialEq>(
    flows: &mut HashMap<MapData, K, Flow>,
    directory: &mut HashMap<MapData, RowKey, DirectoryRow<K>>,
    is_gone: impl Fn(u32) -> bool,
    now: u64,
    removed: &mut Removed,
) -> Result<(), ExpiryError> {
    let mut stale = Vec::new();
    let mut used = HashSet::new();
    let is_stale = |key: &K, flow: &Flow| flow.expires <= now || is_gone(key.ifindex());
    batch::for_each(flows, |key, flow| {
        if is_stale(key, flow) {
            stale.push(*key);
        } else {
            used.insert(RowKey { ifindex: key.ifindex(), number: flow.directory_row.into() });
        }
    })
    .map_err(ExpiryError::Read)?;
    removed.flows += remove_all(flows, &stale, is_stale)?;
    // Only the agent removes rows, so that nothing makes this start over.
    let rows = directory.keys().take(2 * MAX_DIRECTORY_ROWS).collect::<Result<Vec<_>, _>>()?;
    for key in rows.iter().filter(|key| !used.contains(key)) {
        let row = match directory.get(key, 0) {
            Ok(row) => row,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error.into()),
        };
        // Flows may have come since.
        let is_in_use = row.flows.iter().any(|flow| *flow != K::default() && flows.get(flow, 0).is_ok());
        if !is_in_use {
            unless_gone(directory.remove(key))?;
            removed.directory_rows += 1;
        }
    }
    Ok(())
}

/// Removes overflow rows of half-open flows in which everything has expired, and all rows of veths that are gone.
fn remove_rows(
    half_open: &mut HashMap<MapData, RowKey, Row>,
    is_gone: impl Fn(u32) -> bool,
    now: u64,
) -> Result<usize, ExpiryError> {
    let keys = half_open.keys().take(2 * MAX_ROWS).collect::<Result<Vec<_>, _>>()?;
    let mut removed = 0;
    for key in keys {
        let is_stale = if key.number < HALF_OPEN_ROWS {
            is_gone(key.ifindex)
        } else {
            match half_open.get(&key, 0) {
                Ok(row) => row.flows.iter().all(|flow| flow.expires <= now) || is_gone(key.ifindex),
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if is_stale {
            unless_gone(half_open.remove(&key))?;
            removed += 1;
        }
    }
    Ok(removed)
}

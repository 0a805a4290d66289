//! Typed handles of all maps, and a check that a pinned map is what this version works with.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya::sys::SyscallError;
use postern_common::conntrack::{Datagram, DirectoryRow, Flow, Flow4, Flow6, Row, RowKey, Slot};
use postern_common::endpoint::{ANY_VETH, Endpoint, PodAddress4, PodAddress6};
use postern_common::peer::{EPOCH_BITS, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6};
use postern_common::service::{Crossing, Frontend, FrontendKey4, FrontendKey6, Hairpin, HairpinSlot};
use postern_common::state::State;
use postern_common::verdict::{PortPage, PortPageKey, Verdict, VerdictKey};

use super::object::LoadError;

/// Size of keys and values of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The map's name, in the object and as a pin.
    pub name: &'static str,
    key: u32,
    value: u32,
}

const fn shape<K, V>(name: &'static str) -> Shape {
    // Sizes are tens of bytes.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    Shape { name, key: size_of::<K>() as u32, value: size_of::<V>() as u32 }
}

const fn trie<K, V>(name: &'static str) -> Shape {
    let mut shape = shape::<K, V>(name);
    // The prefix length stands before the address (`struct bpf_lpm_trie_key`).
    shape.key += EPOCH_BITS / 8;
    shape
}

/// All pinned maps.
pub const SHAPES: &[Shape] = &[
    shape::<u32, Endpoint>("ENDPOINTS"),
    shape::<PeerKey4, Peer>("PEERS4"),
    shape::<PeerKey6, Peer>("PEERS6"),
    trie::<PrefixAddress4, Peer>("PREFIXES4"),
    trie::<PrefixAddress6, Peer>("PREFIXES6"),
    shape::<VerdictKey, Verdict>("VERDICTS"),
    shape::<PortPageKey, PortPage>("PORT_PAGES"),
    shape::<u32, State>("STATE"),
    shape::<FrontendKey4, Frontend>("FRONTENDS4"),
    shape::<FrontendKey6, Frontend>("FRONTENDS6"),
    shape::<u32, u64>("TUNNEL_PORTS"),
    shape::<u32, Crossing>("CROSSINGS"),
    shape::<HairpinSlot, Hairpin>("HAIRPINS"),
    shape::<Flow4, Flow>("FLOWS4"),
    shape::<Flow6, Flow>("FLOWS6"),
    shape::<RowKey, DirectoryRow<Flow4>>("DIRECTORY4"),
    shape::<RowKey, DirectoryRow<Flow6>>("DIRECTORY6"),
    shape::<PodAddress4, u32>("POD_ADDRESSES4"),
    shape::<PodAddress6, u32>("POD_ADDRESSES6"),
    shape::<RowKey, Row>("HALF_OPEN"),
    shape::<Slot, Datagram>("FRAGMENTS"),
    shape::<u32, u64>("COUNTERS"),
];

/// A pinned map that this version cannot work with.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pinned map {} has keys of {} and values of {} bytes where this version has {} and {}; it was not made by this \
     version of Postern: stop whatever made it, remove it, and start again",
    path.display(), found.0, found.1, expected.0, expected.1
)]
pub struct MapMismatch {
    path: PathBuf,
    found: (u32, u32),
    expected: (u32, u32),
}

/// Checks the map pinned at a path, where there is one: the kernel would hand out any.
///
/// # Errors
///
/// It has another shape, or cannot be opened.
pub fn check_pinned(path: &Path, shape: &Shape) -> Result<(), LoadError> {
    if !path.exists() {
        return Ok(());
    }
    let info = MapData::from_pin(path)?.info()?;
    let found = (info.key_size(), info.value_size());
    let expected = (shape.key, shape.value);
    if found == expected {
        Ok(())
    } else {
        Err(MapMismatch { path: path.to_owned(), found, expected }.into())
    }
}

/// What came of removing an element: gone already is as good as removed.
pub(super) fn unless_gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        removed => removed,
    }
}

/// Handles of all maps that the agent reads or writes.
pub struct Maps {
    /// See `ebpf/src/maps.rs` for this and the others.
    pub endpoints: HashMap<MapData, u32, Endpoint>,
    /// Exact IPv4 addresses.
    pub peers4: HashMap<MapData, PeerKey4, Peer>,
    /// Exact IPv6 addresses.
    pub peers6: HashMap<MapData, PeerKey6, Peer>,
    /// IPv4 CIDRs.
    pub prefixes4: LpmTrie<MapData, PrefixAddress4, Peer>,
    /// IPv6 CIDRs.
    pub prefixes6: LpmTrie<MapData, PrefixAddress6, Peer>,
    /// Verdicts.
    pub verdicts: HashMap<MapData, VerdictKey, Verdict>,
    /// Ports of verdicts with many ranges.
    pub port_pages: HashMap<MapData, PortPageKey, PortPage>,
    /// Generation and epoch.
    pub state: Array<MapData, State>,
    /// IPv4 frontends.
    pub frontends4: HashMap<MapData, FrontendKey4, Frontend>,
    /// IPv6 frontends.
    pub frontends6: HashMap<MapData, FrontendKey6, Frontend>,
    /// UDP ports where tunnels end.
    pub tunnel_ports: Array<MapData, u64>,
    /// Packets on their way to the choice of a backend.
    pub crossings: Array<MapData, Crossing>,
    /// Packets on their way back to who sent them.
    pub hairpins: HashMap<MapData, HairpinSlot, Hairpin>,
    /// IPv4 flows.
    pub flows4: HashMap<MapData, Flow4, Flow>,
    /// IPv6 flows.
    pub flows6: HashMap<MapData, Flow6, Flow>,
    /// Which of them each veth has.
    pub directory4: HashMap<MapData, RowKey, DirectoryRow<Flow4>>,
    /// The same for IPv6.
    pub directory6: HashMap<MapData, RowKey, DirectoryRow<Flow6>>,
    /// Addresses of pods, by veth.
    pub pod_addresses4: HashMap<MapData, PodAddress4, u32>,
    /// Addresses of pods, by veth.
    pub pod_addresses6: HashMap<MapData, PodAddress6, u32>,
    /// Flows that are not established yet.
    pub half_open: HashMap<MapData, RowKey, Row>,
    /// Datagrams in fragments.
    pub fragments: HashMap<MapData, Slot, Datagram>,
    /// Packets by direction and reason.
    pub counters: PerCpuArray<MapData, u64>,
    /// How many changes are going on, one inside the other.
    changes: u32,
    /// Which writes are refused, as far as a test has it so.
    refusal: Option<Refusal>,
}

/// Which of the writes to come are refused in the kernel's place: it does so when memory is short, which a test cannot have at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// So many writes are carried out first.
    pub after: usize,
    /// How many are refused then.
    pub count: usize,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// The object lacks one, or it is of another type: the build is broken.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Self::collect(|name| {
            ebpf.take_map(name)
                .ok_or_else(|| MapError::InvalidName { name: format!("{name} (not in the object)") })
        })
    }

    /// Opens the maps that an agent pinned.
    ///
    /// # Errors
    ///
    /// One is not there, or is not what this version works with.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        for shape in SHAPES {
            check_pinned(&folder.join(shape.name), shape)?;
        }
        Ok(Self::collect(|name| Map::from_map_data(MapData::from_pin(folder.join(name))?))?)
    }

    fn collect(mut map: impl FnMut(&str) -> Result<Map, MapError>) -> Result<Self, MapError> {
        Ok(Self {
            endpoints: map("ENDPOINTS")?.try_into()?,
            peers4: map("PEERS4")?.try_into()?,
            peers6: map("PEERS6")?.try_into()?,
            prefixes4: map("PREFIXES4")?.try_into()?,
            prefixes6: map("PREFIXES6")?.try_into()?,
            verdicts: map("VERDICTS")?.try_into()?,
            port_pages: map("PORT_PAGES")?.try_into()?,
            state: map("STATE")?.try_into()?,
            frontends4: map("FRONTENDS4")?.try_into()?,
            frontends6: map("FRONTENDS6")?.try_into()?,
            tunnel_ports: map("TUNNEL_PORTS")?.try_into()?,
            crossings: map("CROSSINGS")?.try_into()?,
            hairpins: map("HAIRPINS")?.try_into()?,
            flows4: map("FLOWS4")?.try_into()?,
            flows6: map("FLOWS6")?.try_into()?,
            directory4: map("DIRECTORY4")?.try_into()?,
            directory6: map("DIRECTORY6")?.try_into()?,
            pod_addresses4: map("POD_ADDRESSES4")?.try_into()?,
            pod_addresses6: map("POD_ADDRESSES6")?.try_into()?,
            half_open: map("HALF_OPEN")?.try_into()?,
            fragments: map("FRAGMENTS")?.try_into()?,
            counters: map("COUNTERS")?.try_into()?,
            changes: 0,
            refusal: None,
        })
    }

    /// Has writes of policy refused, for tests. Returns what is left of the last refusal.
    pub fn refuse(&mut self, refusal: Option<Refusal>) -> Option<Refusal> {
        std::mem::replace(&mut self.refusal, refusal)
    }

    /// One write of policy.
    ///
    /// # Errors
    ///
    /// The kernel refused it, or a test does.
    pub(super) fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, MapError>,
    ) -> Result<T, MapError> {
        match &mut self.refusal {
            None | Some(Refusal { count: 0, .. }) => {}
            Some(Refusal { after: 0, count }) => {
                *count -= 1;
                let io_error = std::io::Error::from_raw_os_error(libc::ENOMEM);
                return Err(SyscallError { call: "bpf_map_update_elem", io_error }.into());
            }
            Some(Refusal { after, .. }) => *after -= 1,
        }
        write(self)
    }

    /// Announces that elements of endpoints, pod addresses, peers, frontends, or verdicts in use are about to be written or removed,
    /// until [`Self::end`]: programs look twice as long as that lasts, and forget what they kept (see `ebpf/src/seqcount.rs` and
    /// `policy/cache.rs` beside it).
    ///
    /// # Errors
    ///
    /// The kernel refused the write: nothing is announced.
    pub fn begin(&mut self) -> Result<(), MapError> {
        if self.changes == 0 {
            // Odd already where somebody was killed in between.
            self.set_state(|state| state.changes |= 1)?;
        }
        self.changes += 1;
        Ok(())
    }

    /// Ends what [`Self::begin`] announced.
    ///
    /// # Errors
    ///
    /// The kernel refused the write: programs go on looking twice.
    pub fn end(&mut self) -> Result<(), MapError> {
        self.changes -= 1;
        if self.changes == 0 {
            self.set_state(|state| state.changes = state.changes.wrapping_add(1))?;
        }
        Ok(())
    }

    /// One change, announced and ended.
    ///
    /// # Errors
    ///
    /// Those of the change, or the kernel refused to note it.
    pub fn change<T, E>(
        &mut self,
        failed: impl Fn(MapError) -> E,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin().map_err(&failed)?;
        let result = change(self);
        self.end().map_err(&failed)?;
        result
    }

    /// Says what the programs on a veth are to go by.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn set_endpoint(&mut self, ifindex: u32, endpoint: Endpoint) -> Result<(), MapError> {
        self.change(|error| error, |maps| maps.write(|maps| maps.endpoints.insert(ifindex, endpoint, 0)))
    }

    /// Takes that away: programs on the veth drop everything.
    ///
    /// # Errors
    ///
    /// There is none, or the kernel refused the write.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> Result<(), MapError> {
        self.change(|error| error, |maps| maps.endpoints.remove(&ifindex))
    }

    /// Notes an address that a pod may send from, by its veth.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn add_pod_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), MapError> {
        // Being there is what counts.
        self.write_pod_address(ifindex, address, 1)
    }

    /// Notes that an address is some pod's of this node, and the veth that has it, if there is exactly one.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn set_owner(&mut self, address: IpAddr, owner: Option<u32>) -> Result<(), MapError> {
        self.write_pod_address(ANY_VETH, address, owner.unwrap_or(ANY_VETH))
    }

    fn write_pod_address(&mut self, ifindex: u32, address: IpAddr, value: u32) -> Result<(), MapError> {
        self.change(
            |error| error,
            |maps| match address {
                IpAddr::V4(it) => {
                    let key = PodAddress4 { ifindex, address: it.octets() };
                    maps.pod_addresses4.insert(key, value, 0)
                }
                IpAddr::V6(it) => {
                    let key = PodAddress6 { ifindex, address: it.octets() };
                    maps.pod_addresses6.insert(key, value, 0)
                }
            },
        )
    }

    /// Takes an address away.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn remove_pod_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), MapError> {
        let remove = |maps: &mut Self| match address {
            IpAddr::V4(it) => maps.pod_addresses4.remove(&PodAddress4 { ifindex, address: it.octets() }),
            IpAddr::V6(it) => maps.pod_addresses6.remove(&PodAddress6 { ifindex, address: it.octets() }),
        };
        unless_gone(self.change(|error| error, remove))
    }

    /// Changes the state of the whole data path. Programs on other CPUs see all writes before it before they see it, and it before all
    /// writes after it, on machines too that do not keep the order of stores (`ebpf/src/seqcount.rs` has the readers' side): calls of
    /// bpf(2) are no barriers.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn set_state(&mut self, change: impl FnOnce(&mut State)) -> Result<(), MapError> {
        let mut state = self.state.get(&0, 0)?;
        change(&mut state);
        fence(Ordering::SeqCst);
        let written = self.write(|maps| maps.state.set(0, state, 0));
        fence(Ordering::SeqCst);
        written
    }
}

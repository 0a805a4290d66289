//! Plans into the maps, and the maps back into tables.
//!
//! The agent is the only writer of these maps. Every value is replaced as a whole by the kernel, so that a packet sees
//! either the old one or the new one; the order of a plan's actions does the rest.

mod port_sets;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use aya::maps::{MapError, lpm_trie};
use aya::sys::SyscallError;
use ipnet::IpNet;
use postern_common::peer::{EPOCH_BITS, MAX_PREFIXES, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6};
use postern_common::service::{BEHIND_NAT, Frontend as Value, FrontendKey4, FrontendKey6};
use postern_common::state::State;
use postern_common::verdict::{MAX_PORT_PAGES, MAX_VERDICTS, VerdictKey};
use postern_policy::services::Frontend;
use postern_policy::tables::FIRST_TRANSITIONAL;
use postern_policy::{Action, Budget, ClassId, FrontendEntry, PeerClass, PeerEntry, PortSet, Tables};

use self::port_sets::PortSets;
pub use self::read::{read_frontends, read_peers, read_verdicts};
use super::encode;
use super::maps::Maps;

/// `BPF_ANY`: insert or replace.
const ANY: u64 = 0;

/// What one namespace may take of the maps: an eighth. Tenants with more than that want more nodes, or fewer rules.
pub const BUDGET: Budget = Budget {
    verdicts: MAX_VERDICTS / 8,
    pages: MAX_PORT_PAGES / 8,
    prefixes: MAX_PREFIXES / 8,
    pages_of: encode::page_count,
};

/// A map refused a write. What was enforced before still is.
#[derive(Debug, thiserror::Error)]
#[error("writing to map {map} failed: {source}{}", remedy(source))]
pub struct WriteError {
    map: &'static str,
    source: MapError,
}

impl WriteError {
    /// The same of endpoints, which others write.
    #[must_use]
    pub fn endpoints(source: MapError) -> Self {
        Self { map: "ENDPOINTS", source }
    }
}

impl WriteError {
    /// Whether a map of verdicts is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let no_room = |call: &SyscallError| call.io_error.raw_os_error() == Some(libc::E2BIG);
        matches!(self.map, "VERDICTS" | "PORT_PAGES")
            && matches!(&self.source, MapError::SyscallError(call) if no_room(call))
    }
}

fn remedy(error: &MapError) -> &'static str {
    match error {
        MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::E2BIG) => {
            " (the map is full: the last good state stays enforced until fewer policies or peers are in use)"
        }
        MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::ENOMEM) => {
            " (out of memory: the last good state stays enforced)"
        }
        _ => "",
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> WriteError {
    move |source| WriteError { map, source }
}

/// Gone already is as good as removed.
fn removed(map: &'static str, result: Result<(), MapError>) -> Result<(), WriteError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(WriteError { map, source }),
    }
}

/// Writes peers, verdicts and the policy generation.
#[derive(Debug)]
pub struct Writer {
    epoch: u32,
    generation: u32,
    behind_nat: bool,
    /// What the maps held already is below these: classes of the engine's, and those of a plan alone.
    first_class: ClassId,
    first_transitional: ClassId,
    port_sets: PortSets,
}

impl Writer {
    /// Starts a new epoch beside whatever the maps hold: nothing of it is touched until [`Self::sweep`].
    ///
    /// Returns the first class number that no entry of the maps uses, too.
    ///
    /// # Errors
    ///
    /// The maps cannot be read, or the new epoch cannot be noted.
    pub fn begin(maps: &mut Maps) -> Result<(Self, ClassId), WriteError> {
        let state = maps.state.get(&0, 0).map_err(failed("STATE"))?;
        let epoch = state.epoch.wrapping_add(1);
        maps.set_state(|state| state.epoch = epoch).map_err(failed("STATE"))?;
        let mut classes = BTreeSet::new();
        let mut port_set = 0;
        for item in &maps.verdicts {
            let (key, verdict) = item.map_err(failed("VERDICTS"))?;
            classes.extend([key.subject, key.peer]);
            port_set = port_set.max(verdict.port_set);
        }
        for endpoint in &maps.endpoints {
            let (_, endpoint) = endpoint.map_err(failed("ENDPOINTS"))?;
            classes.extend([endpoint.ingress_class, endpoint.egress_class]);
        }
        for key in maps.port_pages.keys() {
            port_set = port_set.max(key.map_err(failed("PORT_PAGES"))?.port_set);
        }
        let highest = classes.range(..FIRST_TRANSITIONAL).next_back().copied().unwrap_or_default();
        // The last ones are no classes: quarantine, and frontends that are judged behind NAT.
        let mut transitional = classes.range(FIRST_TRANSITIONAL..u32::from_be_bytes([255, 255, 255, 0]));
        let transitional = transitional.next_back().map_or(FIRST_TRANSITIONAL, |class| class + 1);
        let writer = Self {
            epoch,
            generation: state.generation,
            behind_nat: state.behind_nat != 0,
            first_class: ClassId(highest + 1),
            first_transitional: ClassId(transitional),
            port_sets: PortSets::new(port_set + 1),
        };
        let first_class = writer.first_class;
        Ok((writer, first_class))
    }

    /// The first class number for plans alone that no entry of the maps uses: see
    /// [`Engine::number_transitional_from`](postern_policy::Engine::number_transitional_from).
    #[must_use]
    pub fn first_transitional(&self) -> ClassId {
        self.first_transitional
    }

    /// What this agent wrote into the maps, as they hold it; subjects are another module's. What earlier agents left is not
    /// this one's to change before [`Self::sweep`]: veths may still be judged by it.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn recorded(&self, maps: &Maps) -> Result<Tables, MapError> {
        let mut verdicts = read_verdicts(maps)?;
        verdicts.retain(|(subject, _), _| self.is_own(*subject));
        Ok(Tables {
            subjects: BTreeMap::new(),
            peers: read_peers(maps, self.epoch)?,
            frontends: read_frontends(maps, self.epoch)?,
            verdicts,
        })
    }

    fn is_own(&self, subject: ClassId) -> bool {
        let first = if subject.0 < FIRST_TRANSITIONAL { self.first_class } else { self.first_transitional };
        subject >= first
    }

    /// The epoch that endpoints must name.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The policy generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Executes one action, other than those on subjects: endpoints are another module's.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn execute(&mut self, maps: &mut Maps, action: &Action) -> Result<(), WriteError> {
        match action {
            Action::InstallVerdict { subject, peer, ports } => self.install(maps, *subject, *peer, ports),
            Action::RemoveVerdict { subject, peer } => {
                maps.change(failed("STATE"), |maps| self.remove(maps, *subject, *peer))
            }
            Action::SetPeer { prefix, entry } => {
                maps.change(failed("STATE"), |maps| self.set_peer(maps, *prefix, *entry))
            }
            Action::RemovePeer { prefix } => {
                maps.change(failed("STATE"), |maps| self.remove_peer(maps, *prefix))
            }
            Action::AdvanceGeneration => {
                self.remove_unused(maps);
                self.write_state(maps, self.generation.wrapping_add(1), self.behind_nat)
            }
            Action::SetFrontend { frontend, entry } => {
                maps.change(failed("STATE"), |maps| self.set_frontend(maps, *frontend, *entry))
            }
            Action::RemoveFrontend { frontend } => {
                maps.change(failed("STATE"), |maps| self.remove_frontend(maps, *frontend))
            }
            Action::SetSubject { .. } | Action::RemoveSubject { .. } => Ok(()),
        }
    }

    /// Says whether packets are judged behind the choice of a Service's backend. As long as they are not, nothing that is left to
    /// that passes.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn set_behind_nat(&mut self, maps: &mut Maps, behind_nat: bool) -> Result<(), WriteError> {
        if self.behind_nat == behind_nat {
            return Ok(());
        }
        self.write_state(maps, self.generation, behind_nat)
    }

    /// Believed once the kernel has it.
    fn write_state(&mut self, maps: &mut Maps, generation: u32, behind_nat: bool) -> Result<(), WriteError> {
        let change = |state: &mut State| {
            state.generation = generation;
            state.behind_nat = behind_nat.into();
        };
        maps.set_state(change).map_err(failed("STATE"))?;
        (self.generation, self.behind_nat) = (generation, behind_nat);
        Ok(())
    }

    fn install(
        &mut self,
        maps: &mut Maps,
        subject: ClassId,
        peer: PeerClass,
        ports: &PortSet,
    ) -> Result<(), WriteError> {
        let port_set = self.port_sets.number(maps, ports).map_err(failed("PORT_PAGES"))?;
        let key = VerdictKey { subject: subject.0, peer: peer.0 };
        let verdict = encode::verdict(ports, port_set);
        match maps.write(|maps| maps.verdicts.insert(key, verdict, ANY)) {
            Ok(()) => self.port_sets.name(maps, (subject, peer), ports),
            Err(source) => {
                self.port_sets.drop_unnamed(maps, ports);
                return Err(failed("VERDICTS")(source));
            }
        }
        Ok(())
    }

    fn remove(&mut self, maps: &mut Maps, subject: ClassId, peer: PeerClass) -> Result<(), WriteError> {
        let key = VerdictKey { subject: subject.0, peer: peer.0 };
        removed("VERDICTS", maps.write(|maps| maps.verdicts.remove(&key)))?;
        self.port_sets.unname(maps, (subject, peer));
        Ok(())
    }

    /// Removes pages of port sets that the kernel did not let go of when the last verdict that named them went. They are in nobody's way.
    pub fn remove_unused(&mut self, maps: &mut Maps) {
        self.port_sets.remove_unused(maps);
    }

    fn set_peer(&self, maps: &mut Maps, prefix: IpNet, entry: PeerEntry) -> Result<(), WriteError> {
        let value = encode::peer(entry);
        match Place::of(prefix, self.epoch) {
            Place::Exact4(key) => {
                maps.write(|maps| maps.peers4.insert(key, value, ANY)).map_err(failed("PEERS4"))
            }
            Place::Exact6(key) => {
                maps.write(|maps| maps.peers6.insert(key, value, ANY)).map_err(failed("PEERS6"))
            }
            Place::Prefix4(key) => {
                maps.write(|maps| maps.prefixes4.insert(&key, value, ANY)).map_err(failed("PREFIXES4"))
            }
            Place::Prefix6(key) => {
                maps.write(|maps| maps.prefixes6.insert(&key, value, ANY)).map_err(failed("PREFIXES6"))
            }
        }
    }

    fn remove_peer(&self, maps: &mut Maps, prefix: IpNet) -> Result<(), WriteError> {
        match Place::of(prefix, self.epoch) {
            Place::Exact4(key) => removed("PEERS4", maps.write(|maps| maps.peers4.remove(&key))),
            Place::Exact6(key) => removed("PEERS6", maps.write(|maps| maps.peers6.remove(&key))),
            Place::Prefix4(key) => removed("PREFIXES4", maps.write(|maps| maps.prefixes4.remove(&key))),
            Place::Prefix6(key) => removed("PREFIXES6", maps.write(|maps| maps.prefixes6.remove(&key))),
        }
    }

    fn set_frontend(
        &self,
        maps: &mut Maps,
        frontend: Frontend,
        entry: FrontendEntry,
    ) -> Result<(), WriteError> {
        let class = match entry {
            FrontendEntry::BehindNat => BEHIND_NAT,
            FrontendEntry::Together(class) => class.0,
        };
        let value = Value { class };
        match FrontendKey::of(frontend, self.epoch) {
            FrontendKey::V4(key) => {
                maps.write(|maps| maps.frontends4.insert(key, value, ANY)).map_err(failed("FRONTENDS4"))
            }
            FrontendKey::V6(key) => {
                maps.write(|maps| maps.frontends6.insert(key, value, ANY)).map_err(failed("FRONTENDS6"))
            }
        }
    }

    fn remove_frontend(&self, maps: &mut Maps, frontend: Frontend) -> Result<(), WriteError> {
        match FrontendKey::of(frontend, self.epoch) {
            FrontendKey::V4(key) => removed("FRONTENDS4", maps.write(|maps| maps.frontends4.remove(&key))),
            FrontendKey::V6(key) => removed("FRONTENDS6", maps.write(|maps| maps.frontends6.remove(&key))),
        }
    }

    /// Removes what earlier agents left: peers and frontends of other epochs, and verdicts and port sets that are not `wanted`.
    /// To be called once no endpoint refers to them any more.
    ///
    /// # Errors
    ///
    /// The kernel refused a write.
    pub fn sweep(
        &self,
        maps: &mut Maps,
        wanted: impl Fn(ClassId, PeerClass) -> bool,
    ) -> Result<usize, WriteError> {
        maps.change(failed("STATE"), |maps| self.remove_stale(maps, wanted))
    }

    fn remove_stale(
        &self,
        maps: &mut Maps,
        wanted: impl Fn(ClassId, PeerClass) -> bool,
    ) -> Result<usize, WriteError> {
        let mut swept = 0;
        for key in stale("PEERS4", maps.peers4.keys(), |key| key.epoch != self.epoch)? {
            removed("PEERS4", maps.write(|maps| maps.peers4.remove(&key)))?;
            swept += 1;
        }
        for key in stale("PEERS6", maps.peers6.keys(), |key| key.epoch != self.epoch)? {
            removed("PEERS6", maps.write(|maps| maps.peers6.remove(&key)))?;
            swept += 1;
        }
        let epoch = self.epoch.to_be_bytes();
        for key in stale("PREFIXES4", maps.prefixes4.keys(), |key| key.data().epoch != epoch)? {
            removed("PREFIXES4", maps.write(|maps| maps.prefixes4.remove(&key)))?;
            swept += 1;
        }
        for key in stale("PREFIXES6", maps.prefixes6.keys(), |key| key.data().epoch != epoch)? {
            removed("PREFIXES6", maps.write(|maps| maps.prefixes6.remove(&key)))?;
            swept += 1;
        }
        for key in stale("FRONTENDS4", maps.frontends4.keys(), |key| key.epoch != self.epoch)? {
            removed("FRONTENDS4", maps.write(|maps| maps.frontends4.remove(&key)))?;
            swept += 1;
        }
        for key in stale("FRONTENDS6", maps.frontends6.keys(), |key| key.epoch != self.epoch)? {
            removed("FRONTENDS6", maps.write(|maps| maps.frontends6.remove(&key)))?;
            swept += 1;
        }
        for key in
            stale("VERDICTS", maps.verdicts.keys(), |key| !wanted(ClassId(key.subject), PeerClass(key.peer)))?
        {
            removed("VERDICTS", maps.write(|maps| maps.verdicts.remove(&key)))?;
            swept += 1;
        }
        let used = self.port_sets.numbers();
        for key in stale("PORT_PAGES", maps.port_pages.keys(), |key| !used.contains(&key.port_set))? {
            removed("PORT_PAGES", maps.write(|maps| maps.port_pages.remove(&key)))?;
            swept += 1;
        }
        Ok(swept)
    }
}

/// Keys to remove, collected first: removing while iterating makes the kernel's iteration start over.
fn stale<K>(
    map: &'static str,
    keys: impl Iterator<Item = Result<K, MapError>>,
    is_stale: impl Fn(&K) -> bool,
) -> Result<Vec<K>, WriteError> {
    let keys: Vec<K> = keys.collect::<Result<_, _>>().map_err(failed(map))?;
    Ok(keys.into_iter().filter(is_stale).collect())
}

/// Which map holds a prefix, under which key.
enum Place {
    Exact4(PeerKey4),
    Exact6(PeerKey6),
    Prefix4(Key<PrefixAddress4>),
    Prefix6(Key<PrefixAddress6>),
}

impl Place {
    fn of(prefix: IpNet, epoch: u32) -> Self {
        let bits = EPOCH_BITS + u32::from(prefix.prefix_len());
        let exact = prefix.prefix_len() == prefix.max_prefix_len();
        match (prefix.network(), exact) {
            (IpAddr::V4(address), true) => Self::Exact4(PeerKey4 { epoch, address: address.octets() }),
            (IpAddr::V6(address), true) => Self::Exact6(PeerKey6 { epoch, address: address.octets() }),
            (IpAddr::V4(address), false) => Self::Prefix4(lpm_trie::Key::new(
                bits,
                PrefixAddress4 { epoch: epoch.to_be_bytes(), address: address.octets() },
            )),
            (IpAddr::V6(address), false) => Self::Prefix6(lpm_trie::Key::new(
                bits,
                PrefixAddress6 { epoch: epoch.to_be_bytes(), address: address.octets() },
            )),
        }
    }
}

/// A frontend's key in the map of its family.
enum FrontendKey {
    V4(FrontendKey4),
    V6(FrontendKey6),
}

impl FrontendKey {
    fn of(frontend: Frontend, epoch: u32) -> Self {
        let (port, protocol) = (frontend.port, encode::number(frontend.protocol).into());
        match frontend.address {
            IpAddr::V4(it) => Self::V4(FrontendKey4 { epoch, address: it.octets(), port, protocol }),
            IpAddr::V6(it) => Self::V6(FrontendKey6 { epoch, address: it.octets(), port, protocol }),
        }
    }
}

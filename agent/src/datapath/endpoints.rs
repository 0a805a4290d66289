//! Which veth is which pod, and what it carries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::TcAttachType;
use postern_common::direction;
use postern_common::endpoint::{Endpoint, QUARANTINE, TAGGED};
use postern_policy::ClassId;
use postern_policy::model::NamespacedName;
use tracing::{info, warn};

use super::addresses::PodAddresses;
use super::attach::{self, AttachError, Layer, Mode, Spot};
use super::maps::Maps;
use super::object::{GUARD, LoadError, PROGRAMS};
use super::programs::Programs;
use super::readback::{Expected, Foreign, Reader};
use super::wanted::{Guarding, Policy, Role, Wanted};
use super::{flows, grace, half_open};
use crate::{causes, links};

/// Where what the pod gets is judged: TC's directions are the node's.
const TO_POD: TcAttachType = TcAttachType::Egress;
/// Where what the pod sends is judged.
const FROM_POD: TcAttachType = TcAttachType::Ingress;

/// The TC hooks of a host-side veth with the direction that the pod sees there.
const HOOKS: [(TcAttachType, u8); 2] = [(TO_POD, direction::INGRESS), (FROM_POD, direction::EGRESS)];

/// Why a veth does not carry what it should.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Programs.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map.
    #[error("writing to map {map} for interface {interface}: {}", causes::in_one_line(source))]
    Map {
        /// The map.
        map: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: MapError,
    },
}

/// The veths that carry programs.
#[derive(Debug)]
pub struct Endpoints {
    mode: Mode,
    /// Where TCX links are pinned.
    links: PathBuf,
    carried: BTreeMap<u32, Wanted>,
    /// Addresses in the maps.
    addresses: PodAddresses,
    /// Veths that may have programs, left by an earlier agent.
    adopted: BTreeSet<u32>,
    /// Veths that may have other programs than what is carried says: a swap has begun, or failed half way.
    unsure: BTreeSet<u32>,
    /// Veths that had no such programs before: what was sent through them may still be on its way, without a tag.
    fresh: BTreeMap<u32, (String, Policy)>,
}

impl Endpoints {
    /// Takes stock of what earlier agents left.
    ///
    /// # Errors
    ///
    /// The folder for links cannot be read, or the map cannot.
    pub fn begin(mode: Mode, links: &Path, maps: &Maps) -> std::io::Result<Self> {
        let links = links.to_owned();
        let mut adopted: BTreeSet<u32> = attach::pinned(&links)?.into_iter().collect();
        adopted.extend(maps.endpoints.keys().filter_map(Result::ok));
        // A veth with nothing but the guard has no endpoint, and with clsact no pinned link either.
        let addresses = PodAddresses::read(maps).map_err(std::io::Error::other)?;
        adopted.extend(addresses.by_veth().keys());
        let (carried, unsure, fresh) = Default::default();
        Ok(Self { mode, links, carried, addresses, adopted, unsure, fresh })
    }

    /// How programs are attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What is carried, by interface index.
    #[must_use]
    pub fn carried(&self) -> &BTreeMap<u32, Wanted> {
        &self.carried
    }

    /// Veths whose flows are of use to somebody.
    #[must_use]
    pub fn enforcing(&self) -> BTreeSet<u32> {
        let carried = self.carried.iter().filter(|(_, it)| it.policy().is_some()).map(|(ifindex, _)| ifindex);
        carried.chain(&self.adopted).chain(&self.unsure).copied().collect()
    }

    /// The pods' own addresses, as the maps hold them.
    #[must_use]
    pub fn addresses(&self) -> &PodAddresses {
        &self.addresses
    }

    /// The veths that an earlier run left with programs, as far as they still exist, open.
    pub fn left_behind(&self) -> impl Iterator<Item = (u32, Wanted)> {
        self.adopted.iter().filter_map(|ifindex| Some((*ifindex, Wanted::open(links::name(*ifindex)?))))
    }

    /// Takes a pod's veths to be those of one whose object is gone: they keep what they carry until they are told
    /// otherwise themselves.
    pub fn depart(&mut self, pod: &NamespacedName) {
        for (_, carried) in veths_of(&mut self.carried, pod) {
            carried.departed = true;
        }
    }

    /// Changes the classes of a pod's veths that carry the programs already, each in one write.
    ///
    /// # Errors
    ///
    /// The kernel refused the write.
    pub fn set_classes(
        &mut self,
        maps: &mut Maps,
        epoch: u32,
        pod: &NamespacedName,
        (ingress, egress): (ClassId, ClassId),
    ) -> Result<(), EndpointError> {
        for (ifindex, carried) in veths_of(&mut self.carried, pod) {
            let Role::Policy(policy) = carried.role else { continue };
            let next = Policy { ingress, egress, ..policy };
            let is_unsure = self.unsure.contains(&ifindex) || self.fresh.contains_key(&ifindex);
            let tags = if is_unsure { Tags::Unsure } else { Tags::All };
            write(maps, ifindex, &carried.interface, (next, tags), epoch)?;
            carried.role = Role::Policy(next);
        }
        Ok(())
    }

    /// Opens a pod's veths that carry the programs, since no policy isolates it any more. Where it is to be guarded
    /// all the same, the guard goes on first: open programs do not ask who sends.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn release(
        &mut self,
        programs: &mut Programs,
        maps: &mut Maps,
        epoch: u32,
        pod: &NamespacedName,
    ) -> Result<(), EndpointError> {
        for (ifindex, carried) in veths_of(&mut self.carried, pod) {
            let Role::Policy(policy) = carried.role else { continue };
            if policy.guarding == Guarding::Always {
                // The guard tags nothing.
                write(maps, ifindex, &carried.interface, (policy, Tags::Unsure), epoch)?;
                let from_pod = spot(ifindex, &carried.interface, FROM_POD);
                match attach::attach(programs.get(GUARD)?, self.mode, &self.links, from_pod) {
                    Ok(()) | Err(AttachError::Gone(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                self.unsure.insert(ifindex);
            }
            let next = Policy { ingress: ClassId::NOT_ISOLATED, egress: ClassId::NOT_ISOLATED, ..policy };
            write(maps, ifindex, &carried.interface, (next, Tags::Unsure), epoch)?;
            carried.role = Role::Policy(next);
        }
        Ok(())
    }

    /// Changes what veths are to carry to what they can while a plan has failed, since the verdicts of new classes may not be in the maps:
    /// a pod stays in the classes that its veth has, and one whose veth has none yet gets and sends nothing new where policy
    /// isolates it.
    pub fn hold_back(&self, wanted: &mut BTreeMap<u32, Wanted>) {
        for (ifindex, want) in wanted {
            let Role::Policy(policy) = &mut want.role else { continue };
            let carried =
                self.carried.get(ifindex).filter(|it| it.pod == want.pod && it.departed == want.departed);
            let classes = carried.and_then(Wanted::policy).map(|policy| (policy.ingress, policy.egress));
            let is_isolated = |(ingress, egress): &(ClassId, ClassId)| {
                *ingress != ClassId::NOT_ISOLATED || *egress != ClassId::NOT_ISOLATED
            };
            let closed = |class: ClassId| {
                if class == ClassId::NOT_ISOLATED { class } else { ClassId(QUARANTINE) }
            };
            (policy.ingress, policy.egress) = classes
                .filter(is_isolated)
                .unwrap_or_else(|| (closed(policy.ingress), closed(policy.egress)));
        }
    }

    /// Makes the veths carry what they are to: attaches, changes and takes off. Goes on after errors; what failed is
    /// tried again by the next call. With `hold`, what an earlier agent left stays just as it is.
    ///
    /// Returns whether anything changed, and what failed.
    pub fn reconcile(
        &mut self,
        programs: &mut Programs,
        maps: &mut Maps,
        epoch: u32,
        wanted: &BTreeMap<u32, Wanted>,
        hold: bool,
    ) -> (bool, Vec<EndpointError>) {
        let mut changed = false;
        let mut errors = Vec::new();
        for (ifindex, want) in wanted {
            let is_carried = self.carried.get(ifindex) == Some(want) && !self.unsure.contains(ifindex);
            if is_carried || (hold && self.adopted.contains(ifindex)) {
                continue;
            }
            match self.put(programs, maps, epoch, *ifindex, want) {
                Ok(()) => changed = true,
                Err(error) => {
                    // A program may be on, or another one than before: whatever comes next, it must not be forgotten.
                    self.unsure.insert(*ifindex);
                    // Deleted between our look and our hand is no error; the next look will not show it.
                    if !matches!(error, EndpointError::Attach(AttachError::Gone(_))) {
                        errors.push(error);
                    }
                }
            }
        }
        let adopted = self.adopted.iter().filter(|_| !hold);
        let leaving: BTreeSet<u32> =
            self.carried.keys().chain(&self.unsure).chain(adopted).copied().collect();
        for ifindex in leaving.into_iter().filter(|ifindex| !wanted.contains_key(ifindex)) {
            match self.take_off(maps, epoch, ifindex) {
                Ok(()) => changed = true,
                Err(error) => errors.push(error),
            }
        }
        if let Err(error) = self.expect_tags(maps, epoch) {
            errors.push(error);
        }
        (changed, errors)
    }

    /// Has nothing pass behind NAT that comes from an isolated pod without a tag, now that the programs write them: what was sent before
    /// is behind NAT by now, or was dropped.
    fn expect_tags(&mut self, maps: &mut Maps, epoch: u32) -> Result<(), EndpointError> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        grace::wait();
        while let Some((ifindex, (interface, policy))) = self.fresh.pop_first() {
            let carried = self.carried.get(&ifindex).filter(|_| !self.unsure.contains(&ifindex));
            let now = carried.and_then(Wanted::policy).unwrap_or(policy);
            if let Err(error) = write(maps, ifindex, &interface, (now, Tags::All), epoch) {
                self.fresh.insert(ifindex, (interface, policy));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads back what the kernel has on the hooks of the veths that carry programs: what others have there, and what is wrong. A veth that
    /// lacks a program is not sure to have any from then on.
    pub(super) fn read_back(&mut self) -> (Vec<Foreign>, Vec<String>) {
        let (mut foreign, mut problems) = (Vec::new(), Vec::new());
        let mut reader = match Reader::open(self.mode, &self.links) {
            Ok(reader) => reader,
            Err(error) => {
                return (foreign, vec![format!("reading back what veths carry: {error}")]);
            }
        };
        let carried = self.carried.iter().filter(|(ifindex, _)| !self.unsure.contains(ifindex));
        let mut lacking = BTreeSet::new();
        for (ifindex, it) in carried {
            let hooks = HOOKS.iter();
            let hooks =
                hooks.filter(|(hook, _)| it.policy().is_some() || matches!(hook, TcAttachType::Ingress));
            for (hook, _) in hooks {
                let spot = spot(*ifindex, &it.interface, *hook);
                let expected = Expected { spot, pod: it.pod.as_ref().map(ToString::to_string) };
                match reader.read(&expected) {
                    Ok(found) => {
                        foreign.extend(found.foreign);
                        problems.extend(found.problems);
                        if !found.is_there && links::name(*ifindex).as_ref() == Some(&it.interface) {
                            lacking.insert(*ifindex);
                            problems.push(lacks(spot));
                        }
                    }
                    // It is gone.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                    Err(error) => {
                        problems
                            .push(format!("reading back what interface {} carries: {error}", it.interface));
                    }
                }
            }
        }
        self.unsure.extend(lacking);
        (foreign, problems)
    }

    fn put(
        &mut self,
        programs: &mut Programs,
        maps: &mut Maps,
        epoch: u32,
        ifindex: u32,
        want: &Wanted,
    ) -> Result<(), EndpointError> {
        let failed = |source| map_error("POD_ADDRESSES", &want.interface, source);
        self.addresses.add(maps, ifindex, &want.addresses).map_err(failed)?;
        let before = self.carried.get(&ifindex).filter(|_| !self.unsure.contains(&ifindex)).cloned();
        match (want.role, before.as_ref().map(|before| before.role)) {
            (Role::Policy(policy), Some(Role::Policy(_))) => {
                write(maps, ifindex, &want.interface, (policy, Tags::All), epoch)?;
            }
            (Role::Guard, Some(Role::Guard)) => {}
            (Role::Policy(policy), _) => self.enforce(programs, maps, epoch, (ifindex, want), policy)?,
            (Role::Guard, _) => self.guard(programs, maps, epoch, (ifindex, want))?,
        }
        self.addresses.retain(maps, ifindex, &want.addresses).map_err(failed)?;
        announce(want, before.as_ref());
        self.adopted.remove(&ifindex);
        self.unsure.remove(&ifindex);
        self.carried.insert(ifindex, want.clone());
        Ok(())
    }

    /// Puts the programs that enforce policy on both hooks; the guard, where it is there, goes with that.
    fn enforce(
        &mut self,
        programs: &mut Programs,
        maps: &mut Maps,
        epoch: u32,
        (ifindex, want): (u32, &Wanted),
        policy: Policy,
    ) -> Result<(), EndpointError> {
        // Classes and room first: a program without an endpoint drops everything, one without room everything new. It enforces all
        // the same.
        write(maps, ifindex, &want.interface, (policy, Tags::Unsure), epoch)?;
        let room = half_open::make_room(maps, ifindex);
        let mut attached = Ok(());
        for (hook, direction) in HOOKS {
            let spot = spot(ifindex, &want.interface, hook);
            let program = programs.get(PROGRAMS[usize::from(direction)])?;
            // Where one hook cannot be had, the other one is better than none.
            attached = attached.and(attach::attach(program, self.mode, &self.links, spot));
        }
        attached?;
        self.fresh.insert(ifindex, (want.interface.clone(), policy));
        room.map_err(|source| map_error("HALF_OPEN", &want.interface, source))
    }

    /// Puts the guard in the place of whatever judges what the pod sends, then takes off what judges what it gets.
    fn guard(
        &mut self,
        programs: &mut Programs,
        maps: &mut Maps,
        epoch: u32,
        (ifindex, want): (u32, &Wanted),
    ) -> Result<(), EndpointError> {
        let spot = |hook| spot(ifindex, &want.interface, hook);
        self.fresh.remove(&ifindex);
        if let Some(policy) = self.carried.get(&ifindex).and_then(Wanted::policy) {
            // The guard tags nothing.
            write(maps, ifindex, &want.interface, (policy, Tags::Unsure), epoch)?;
        }
        attach::attach(programs.get(GUARD)?, self.mode, &self.links, spot(FROM_POD))?;
        write(maps, ifindex, &want.interface, (Policy::open(), Tags::Unsure), epoch)?;
        for mode in [Mode::Tcx, Mode::Clsact] {
            attach::detach(mode, &self.links, spot(TO_POD))?;
        }
        forget(maps, self.mode, ifindex);
        Ok(())
    }

    fn take_off(&mut self, maps: &mut Maps, epoch: u32, ifindex: u32) -> Result<(), EndpointError> {
        let carried = self.carried.get(&ifindex).cloned();
        self.fresh.remove(&ifindex);
        // An earlier agent's veth has no name here; one that still exists is found by its index.
        let interface =
            carried.as_ref().map_or_else(|| links::name(ifindex), |carried| Some(carried.interface.clone()));
        let interface = interface.unwrap_or_default();
        // Open first: between here and the last program's removal, nothing allowed may be dropped.
        write(maps, ifindex, &interface, (Policy::open(), Tags::Unsure), epoch)?;
        for (hook, _) in HOOKS {
            for mode in [Mode::Tcx, Mode::Clsact] {
                attach::detach(mode, &self.links, spot(ifindex, &interface, hook))?;
            }
        }
        forget(maps, self.mode, ifindex);
        // A guard without addresses would drop everything, so they go last.
        let failed = |source| map_error("POD_ADDRESSES", &interface, source);
        self.addresses.retain(maps, ifindex, &BTreeSet::new()).map_err(failed)?;
        if let Some(pod) = carried.and_then(|carried| carried.pod) {
            info!(%pod, interface, "pod is not isolated any more, or gone: its veth carries no program");
        }
        self.carried.remove(&ifindex);
        self.adopted.remove(&ifindex);
        self.unsure.remove(&ifindex);
        Ok(())
    }
}

/// A hook of a pod's veth, for the pod's own programs.
fn spot(ifindex: u32, interface: &str, hook: TcAttachType) -> Spot<'_> {
    Spot { ifindex, interface, hook, layer: Layer::Pod }
}

/// The veths that earlier agents left with policy in their endpoints, quarantined ones among them.
pub(super) fn left_closed(maps: &Maps) -> BTreeSet<u32> {
    let endpoints = maps.endpoints.iter().filter_map(Result::ok);
    let is_open = |endpoint: &Endpoint| endpoint.ingress_class == 0 && endpoint.egress_class == 0;
    endpoints.filter(|(_, endpoint)| !is_open(endpoint)).map(|(ifindex, _)| ifindex).collect()
}

fn announce(want: &Wanted, before: Option<&Wanted>) {
    let Wanted { interface, pod, role, .. } = want;
    let was_isolated = before.is_some_and(|before| before.policy().is_some());
    match (pod, role) {
        (Some(pod), Role::Policy(_)) if !was_isolated => info!(%pod, interface, "pod is isolated"),
        (Some(pod), Role::Guard) => {
            info!(%pod, interface, "pod is not isolated, and may send from its own addresses alone");
        }
        (None, Role::Policy(_)) if want.departed => {
            warn!(
                interface,
                "veth of an isolated pod that is gone, from before this agent: nothing passes until it goes"
            );
        }
        (None, Role::Policy(_)) if want.is_quarantine() => {
            warn!(interface, "veth of a pod that is not known yet: nothing passes for now");
        }
        (None, Role::Guard) => {
            warn!(interface, "veth that several pods claim: only their addresses may be sent from");
        }
        _ => {}
    }
}

/// The veths of a pod among those that carry programs.
fn veths_of<'a>(
    carried: &'a mut BTreeMap<u32, Wanted>,
    pod: &'a NamespacedName,
) -> impl Iterator<Item = (u32, &'a mut Wanted)> {
    let of_pod = carried.iter_mut().filter(move |(_, it)| !it.departed && it.pod.as_ref() == Some(pod));
    of_pod.map(|(ifindex, it)| (*ifindex, it))
}

fn write(
    maps: &mut Maps,
    ifindex: u32,
    interface: &str,
    (policy, tags): (Policy, Tags),
    epoch: u32,
) -> Result<(), EndpointError> {
    let failed = |source| map_error("ENDPOINTS", interface, source);
    let mut endpoint = policy.endpoint(epoch);
    if tags == Tags::All {
        endpoint.flags |= TAGGED;
    }
    maps.set_endpoint(ifindex, endpoint).map_err(failed)
}

/// What is known of the tags of what a pod sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tags {
    /// The programs that enforce policy write them, and have for a while.
    All,
    /// They may not be there yet, or any more.
    Unsure,
}

/// Removes what is known of a veth that carries no program any more: the endpoint last, by which the next agent finds the rest.
fn forget(maps: &mut Maps, mode: Mode, ifindex: u32) {
    if mode == Mode::Clsact {
        // Its filters go, but nobody waits for packets that they are judging, as detaching from TCX does. Those may be writing there.
        grace::wait();
    }
    // What stays behind is in nobody's way: an interface index never comes back while the node runs.
    let _ = flows::remove(maps, ifindex);
    let _ = maps.remove_endpoint(ifindex);
}

fn lacks(spot: Spot<'_>) -> String {
    format!(
        "interface {}, {}: Postern's program was taken off by somebody; it is attached again",
        spot.interface,
        spot.hook_name()
    )
}

fn map_error(map: &'static str, interface: &str, source: MapError) -> EndpointError {
    EndpointError::Map { map, interface: interface.to_owned(), source }
}

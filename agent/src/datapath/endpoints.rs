//! Which veth is which pod, and what it carries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::MapError;
use aya::programs::TcAttachType;
use postern_common::direction;
use postern_common::endpoint::{Endpoint, QUARANTINE};
use postern_policy::model::NamespacedName;
use postern_policy::{ClassId, Subject};
use tracing::{info, warn};

use super::attach::{self, AttachError, Mode, Spot};
use super::maps::Maps;
use super::object::{LoadError, PROGRAMS, program};

/// `BPF_ANY`: insert or replace.
const ANY: u64 = 0;

/// The TC hooks of a host-side veth with the direction that the pod sees there.
const HOOKS: [(TcAttachType, u8); 2] =
    [(TcAttachType::Egress, direction::INGRESS), (TcAttachType::Ingress, direction::EGRESS)];

/// What a veth is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The host-side veth's name.
    pub interface: String,
    /// The pod behind it; unknown for a veth in quarantine.
    pub pod: Option<NamespacedName>,
    /// Classes of what the pod gets and sends.
    pub ingress: ClassId,
    /// Classes of what the pod sends.
    pub egress: ClassId,
}

impl Wanted {
    /// What a known, isolated pod's veth is to carry.
    #[must_use]
    pub fn subject(interface: String, pod: NamespacedName, subject: &Subject) -> Self {
        Self { interface, pod: Some(pod), ingress: subject.ingress, egress: subject.egress }
    }

    /// What a veth carries while nobody knows whose it is.
    #[must_use]
    pub fn quarantine(interface: String) -> Self {
        Self { interface, pod: None, ingress: ClassId(QUARANTINE), egress: ClassId(QUARANTINE) }
    }

    /// A veth that carries programs which pass everything.
    #[must_use]
    pub fn open(interface: String) -> Self {
        Self { interface, pod: None, ingress: ClassId::NOT_ISOLATED, egress: ClassId::NOT_ISOLATED }
    }

    /// Whether this is a quarantine.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        self.ingress == ClassId(QUARANTINE)
    }

    fn endpoint(&self, epoch: u32) -> Endpoint {
        Endpoint { ingress_class: self.ingress.0, egress_class: self.egress.0, epoch, flags: 0, netns: 0 }
    }
}

/// Why a veth does not carry what it should.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Programs.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The map.
    #[error("writing to map ENDPOINTS for interface {interface}: {source}")]
    Map {
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
    /// Veths that may have programs, left by an earlier agent or by an attempt that failed half way.
    adopted: BTreeSet<u32>,
}

impl Endpoints {
    /// Takes stock of what earlier agents left.
    ///
    /// # Errors
    ///
    /// The folder for links cannot be made or read, or the map cannot.
    pub fn begin(mode: Mode, pins: &Path, maps: &Maps) -> std::io::Result<Self> {
        let links = pins.join("links");
        std::fs::create_dir_all(&links)?;
        let mut adopted: BTreeSet<u32> = attach::pinned(&links)?.into_iter().collect();
        adopted.extend(maps.endpoints.keys().filter_map(Result::ok));
        Ok(Self { mode, links, carried: BTreeMap::new(), adopted })
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
        self.carried.keys().chain(&self.adopted).copied().collect()
    }

    /// The veths that an earlier run left with programs, as far as they still exist, open.
    pub fn left_behind(&self) -> impl Iterator<Item = (u32, Wanted)> {
        self.adopted.iter().filter_map(|ifindex| Some((*ifindex, Wanted::open(name_of(*ifindex)?))))
    }

    /// Changes the classes of a pod's veths that carry programs already, each in one write.
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
        for (ifindex, carried) in
            self.carried.iter_mut().filter(|(_, carried)| carried.pod.as_ref() == Some(pod))
        {
            let next = Wanted { ingress, egress, ..carried.clone() };
            write(maps, *ifindex, &next, epoch)?;
            *carried = next;
        }
        Ok(())
    }

    /// Makes the veths carry what they are to: attaches, changes and takes off. Goes on after errors; what failed is
    /// tried again by the next call. With `hold`, what an earlier agent left stays just as it is.
    ///
    /// Returns whether anything changed, and what failed.
    pub fn reconcile(
        &mut self,
        ebpf: &mut Ebpf,
        maps: &mut Maps,
        epoch: u32,
        wanted: &BTreeMap<u32, Wanted>,
        hold: bool,
    ) -> (bool, Vec<EndpointError>) {
        let mut changed = false;
        let mut errors = Vec::new();
        for (ifindex, want) in wanted {
            if self.carried.get(ifindex) == Some(want) || (hold && self.adopted.contains(ifindex)) {
                continue;
            }
            match self.put(ebpf, maps, epoch, *ifindex, want) {
                Ok(()) => changed = true,
                Err(error) => {
                    // One of the two programs may be on: whatever comes next, it must not be forgotten.
                    self.adopted.insert(*ifindex);
                    // Deleted between our look and our hand is no error; the next look will not show it.
                    if !matches!(error, EndpointError::Attach(AttachError::Gone(_))) {
                        errors.push(error);
                    }
                }
            }
        }
        let adopted = self.adopted.iter().filter(|_| !hold);
        let leaving: Vec<u32> = self.carried.keys().chain(adopted).copied().collect();
        for ifindex in leaving.into_iter().filter(|ifindex| !wanted.contains_key(ifindex)) {
            match self.take_off(maps, epoch, ifindex) {
                Ok(()) => changed = true,
                Err(error) => errors.push(error),
            }
        }
        (changed, errors)
    }

    fn put(
        &mut self,
        ebpf: &mut Ebpf,
        maps: &mut Maps,
        epoch: u32,
        ifindex: u32,
        want: &Wanted,
    ) -> Result<(), EndpointError> {
        // The classes first: a program without an endpoint drops everything.
        write(maps, ifindex, want, epoch)?;
        let carried = self.carried.contains_key(&ifindex);
        if !carried {
            for (hook, direction) in HOOKS {
                let spot = Spot { ifindex, interface: &want.interface, hook };
                let program = program(ebpf, PROGRAMS[usize::from(direction)])?;
                attach::attach(program, self.mode, &self.links, spot)?;
            }
        }
        match &want.pod {
            Some(pod) if !carried => info!(%pod, interface = want.interface, "pod is isolated"),
            None if want.is_quarantine() => {
                warn!(
                    interface = want.interface,
                    "veth of a pod that is not known yet: nothing passes for now"
                );
            }
            _ => {}
        }
        self.adopted.remove(&ifindex);
        self.carried.insert(ifindex, want.clone());
        Ok(())
    }

    fn take_off(&mut self, maps: &mut Maps, epoch: u32, ifindex: u32) -> Result<(), EndpointError> {
        let carried = self.carried.get(&ifindex).cloned();
        // An earlier agent's veth has no name here; one that still exists is found by its index.
        let interface =
            carried.as_ref().map_or_else(|| name_of(ifindex), |carried| Some(carried.interface.clone()));
        let interface = interface.unwrap_or_default();
        // Open first: between here and the last program's removal, nothing allowed may be dropped.
        write(maps, ifindex, &Wanted::open(interface.clone()), epoch)?;
        for (hook, _) in HOOKS {
            for mode in [Mode::Tcx, Mode::Clsact] {
                attach::detach(mode, &self.links, Spot { ifindex, interface: &interface, hook })?;
            }
        }
        // It was written above.
        let _ = maps.endpoints.remove(&ifindex);
        if let Some(pod) = carried.and_then(|carried| carried.pod) {
            info!(%pod, interface, "pod is not isolated any more, or gone");
        }
        self.carried.remove(&ifindex);
        self.adopted.remove(&ifindex);
        Ok(())
    }
}

fn write(maps: &mut Maps, ifindex: u32, want: &Wanted, epoch: u32) -> Result<(), EndpointError> {
    let written = maps.endpoints.insert(ifindex, want.endpoint(epoch), ANY);
    written.map_err(|source| EndpointError::Map { interface: want.interface.clone(), source })
}

fn name_of(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()
}

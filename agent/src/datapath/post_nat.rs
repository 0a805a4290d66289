//! The program that judges packets to Services on the devices that they leave by, where the kernel has no netfilter programs: behind
//! the choice of a backend, whoever chose.
//!
//! Every device may be one: pods' veths, bridges, tunnels, uplinks. It is on all of them before anything is left to it, and on a new one
//! as soon as the kernel tells of that: a packet to a backend behind a device that came this moment may pass unjudged, which takes a Service
//! that has such a backend already.
//!
//! Minimum kernel version: 5.12, as all programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;

use super::attach::{self, AttachError, Layer, Mode, POST_NAT_PIN, Spot};
use super::link;
use super::object::{LoadError, POST_NAT};
use super::programs::Programs;
use super::readback::Reader;
use crate::links;

/// The program, and the devices that carry it.
#[derive(Debug)]
pub struct PostNat {
    mode: Mode,
    /// Where TCX links are pinned.
    links: PathBuf,
    /// Devices that carry this agent's program.
    attached: BTreeSet<u32>,
    /// Whether any may carry it, or an earlier agent's.
    is_on: bool,
}

/// Why the program is not on a device.
#[derive(Debug, thiserror::Error)]
pub enum PostNatError {
    /// The program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Attaching it.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A pin, or the folder of pins.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PostNat {
    /// For a pin folder's links. What an earlier agent attached goes on.
    #[must_use]
    pub fn new(mode: Mode, links: &Path) -> Self {
        Self { mode, links: links.to_owned(), attached: BTreeSet::new(), is_on: true }
    }

    /// Puts the program on all of these devices that lack it, or in the place of an earlier agent's. Names by index.
    ///
    /// # Errors
    ///
    /// See [`PostNatError`]: at least one device lacks it. A device that is gone by now does not.
    pub fn attach(
        &mut self,
        programs: &mut Programs,
        devices: &BTreeMap<u32, String>,
    ) -> Result<(), PostNatError> {
        let mut result = Ok(());
        self.is_on = true;
        self.attached.retain(|ifindex| devices.contains_key(ifindex));
        for (ifindex, name) in devices {
            if self.attached.contains(ifindex) {
                continue;
            }
            let program = programs.get(POST_NAT)?;
            match attach::attach(program, self.mode, &self.links, spot(*ifindex, name)) {
                Ok(()) => {
                    self.attached.insert(*ifindex);
                }
                // The next look will not show it.
                Err(AttachError::Gone(_)) => {}
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result.and_then(|()| self.unpin_gone(devices))
    }

    /// Removes the pins of devices that are gone.
    fn unpin_gone(&self, devices: &BTreeMap<u32, String>) -> Result<(), PostNatError> {
        for (pin, ifindex) in pins(&self.links)? {
            if !devices.contains_key(&ifindex) && links::name(ifindex).is_none() {
                remove(&pin)?;
            }
        }
        Ok(())
    }

    /// Takes it off these devices, and whatever is pinned.
    ///
    /// # Errors
    ///
    /// See [`PostNatError`].
    pub fn detach(&mut self, devices: &BTreeMap<u32, String>) -> Result<(), PostNatError> {
        if self.is_on {
            self.attached.clear();
            Self::forget(&self.links, devices)?;
            self.is_on = false;
        }
        Ok(())
    }

    /// Takes off these devices what any agent attached, and whatever is pinned.
    ///
    /// # Errors
    ///
    /// See [`PostNatError`].
    pub fn forget(links: &Path, devices: &BTreeMap<u32, String>) -> Result<(), PostNatError> {
        for (pin, _) in pins(links)? {
            remove(&pin)?;
        }
        for (ifindex, name) in devices {
            attach::detach(Mode::Clsact, links, spot(*ifindex, name))?;
        }
        Ok(())
    }

    /// Whether an earlier agent's program is on a device, so that what it left to that is judged.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let Ok(mut reader) = Reader::open(self.mode, &self.links) else { return false };
        let Ok(devices) = nix::net::if_::if_nameindex() else { return false };
        devices.iter().any(|device| {
            let name = device.name().to_str();
            name.is_ok_and(|name| reader.is_there(spot(device.index(), name)).unwrap_or(false))
        })
    }

    /// Reads back whether the devices carry the program. One that does not gets it by the next [`attach`](Self::attach). Returns what is
    /// wrong, for people to read.
    pub fn read_back(&mut self, devices: &BTreeMap<u32, String>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.attached.is_empty() {
            return problems;
        }
        let mut reader = match Reader::open(self.mode, &self.links) {
            Ok(reader) => reader,
            Err(error) => return vec![format!("reading back what devices carry: {error}")],
        };
        self.attached.retain(|ifindex| {
            let Some(name) = devices.get(ifindex) else { return false };
            match reader.is_there(spot(*ifindex, name)) {
                Ok(true) => return true,
                // It is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return false,
                Ok(false) if links::name(*ifindex).as_ref() != Some(name) => return false,
                Ok(false) => problems.push(format!(
                    "interface {name}, egress: the program that judges packets to Services was taken off by somebody; it is attached again"
                )),
                Err(error) => problems.push(format!("reading back what interface {name} carries: {error}")),
            }
            false
        });
        problems
    }
}

fn spot(ifindex: u32, interface: &str) -> Spot<'_> {
    Spot { ifindex, interface, hook: TcAttachType::Egress, layer: Layer::PostNat }
}

/// Pins of links, with their devices' indexes.
fn pins(links: &Path) -> Result<Vec<(PathBuf, u32)>, PostNatError> {
    let failed = |source| PostNatError::Pin { path: links.to_owned(), source };
    let mut pins = Vec::new();
    for entry in std::fs::read_dir(links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(POST_NAT_PIN));
        let ifindex = rest.and_then(|rest| rest.trim_end_matches("-new").parse().ok());
        pins.extend(ifindex.map(|ifindex| (entry.path(), ifindex)));
    }
    Ok(pins)
}

fn remove(pin: &Path) -> Result<(), PostNatError> {
    link::remove(pin).map_err(|source| PostNatError::Pin { path: pin.to_owned(), source })
}

//! Takes everything off a node that agents of any version left: programs, qdiscs, pins.
//!
//! What is looked for is in the kernel, not in anybody's memory: links in the pin folder, and filters of our priority
//! and handle on the interfaces of this network namespace. So this works after a crash, and after pins were lost.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::attach::{self, AttachError, Layer, Mode, Spot};
use super::maps::Maps;
use super::object::map_folder;
use super::qdiscs::{QdiscError, Qdiscs};
use super::wanted::Policy;
use super::{link, pins, programs};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// A pin, or a folder of pins.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder is not on a BPF file system.
    #[error("{} is not on a BPF file system, so it holds no pins; see --bpffs-dir", .0.display())]
    NotBpffs(PathBuf),
    /// The folder holds what no agent pins.
    #[error(
        "{} was not made by Postern, so its folder was left; if nobody needs it, remove it, and run this again",
        .0.display()
    )]
    Foreign(PathBuf),
    /// A clsact filter.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Qdiscs.
    #[error(transparent)]
    Qdiscs(#[from] QdiscError),
    /// A filter is still there.
    #[error(
        "interface {interface} still has Postern's filter; take it off with: tc filter del dev {interface} {hook} pref {}",
        attach::PRIORITY
    )]
    Left {
        /// The interface.
        interface: String,
        /// `ingress` or `egress`.
        hook: &'static str,
    },
}

/// What was taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pinned links: TCX, and netfilter.
    pub links: usize,
    /// clsact filters.
    pub filters: usize,
    /// Devices that lost an empty clsact qdisc: pods' veths, and those that had a filter of ours.
    pub qdiscs: usize,
    /// Pinned maps.
    pub maps: usize,
    /// Pinned programs.
    pub programs: usize,
}

/// Takes everything off the interfaces of this network namespace, and out of a pin folder. What is not there is removed
/// already; run it again after an error.
///
/// No agent may be running: it would put everything back.
///
/// # Errors
///
/// See [`RemovalError`]: something is left.
pub async fn remove(root: &Path) -> Result<Removed, RemovalError> {
    let mut removed = Removed::default();
    let is_there = root.try_exists().map_err(pin_error(root))?;
    if is_there {
        let stat = statfs(root).map_err(|errno| pin_error(root)(errno.into()))?;
        if stat.filesystem_type() != BPF_FS_MAGIC {
            return Err(RemovalError::NotBpffs(root.to_owned()));
        }
    }
    // Those of each boot and namespace; those of agents that knew no such folders are beside them.
    let mut folders = if is_there { pins::all(root).map_err(pin_error(root))? } else { Vec::new() };
    folders.push(root.to_owned());
    for folder in &folders {
        open_endpoints(folder);
        removed.links += remove_links(&folder.join("links"))?;
    }
    (removed.filters, removed.qdiscs) = remove_filters().await?;
    for folder in &folders {
        removed.programs += remove_programs(&folder.join(programs::FOLDER))?;
        removed.maps += remove_maps(folder)?;
    }
    Ok(removed)
}

/// Has the programs pass everything, so that none drops what is allowed while the other one of its veth is gone already.
/// Maps of other versions are not understood; there, that moment stays.
fn open_endpoints(pins: &Path) {
    let Ok(mut maps) = Maps::open(&map_folder(pins)) else { return };
    let endpoints: Vec<_> = maps.endpoints.iter().filter_map(Result::ok).collect();
    for (ifindex, endpoint) in endpoints {
        let open = Policy::open().endpoint(endpoint.epoch);
        // Where it fails, the same moment stays.
        let _ = maps.set_endpoint(ifindex, open);
    }
}

/// TCX and netfilter: each pin is a link, and the pin's removal alone would detach it late.
fn remove_links(folder: &Path) -> Result<usize, RemovalError> {
    let mut links = 0;
    for pin in entries(folder)? {
        link::remove(&pin).map_err(pin_error(&pin))?;
        links += 1;
    }
    remove_folder(folder)?;
    Ok(links)
}

/// clsact: filters are told by their priority and handle, then looked for once more.
async fn remove_filters() -> Result<(usize, usize), RemovalError> {
    let qdiscs = Qdiscs::open()?;
    let mut filters = 0;
    let mut ours = BTreeSet::new();
    for clsact in qdiscs.clsact().await? {
        for (hook, name) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
            if qdiscs.filters(clsact.ifindex, hook).await?.ours == 0 {
                continue;
            }
            for layer in Layer::ALL {
                let spot = Spot { ifindex: clsact.ifindex, interface: &clsact.interface, hook, layer };
                // Links are not pinned with clsact.
                attach::detach(Mode::Clsact, Path::new(""), spot)?;
            }
            ours.insert(clsact.ifindex);
            if qdiscs.filters(clsact.ifindex, hook).await?.ours > 0 {
                return Err(RemovalError::Left { interface: clsact.interface, hook: name });
            }
            filters += 1;
        }
    }
    Ok((filters, qdiscs.remove_empty(&ours).await?))
}

/// Programs of all versions, finished and not.
fn remove_programs(folder: &Path) -> Result<usize, RemovalError> {
    let mut programs = 0;
    for set in entries(folder)? {
        if !set.is_dir() {
            return Err(RemovalError::Foreign(set));
        }
        for pin in entries(&set)? {
            std::fs::remove_file(&pin).map_err(pin_error(&pin))?;
            programs += 1;
        }
        remove_folder(&set)?;
    }
    remove_folder(folder)?;
    Ok(programs)
}

/// Maps of all versions, and the folder itself.
fn remove_maps(pins: &Path) -> Result<usize, RemovalError> {
    let mut maps = 0;
    for folder in entries(pins)? {
        if !is_version(&folder) {
            return Err(RemovalError::Foreign(folder));
        }
        for pin in entries(&folder)? {
            std::fs::remove_file(&pin).map_err(pin_error(&pin))?;
            maps += 1;
        }
        remove_folder(&folder)?;
    }
    remove_folder(pins)?;
    Ok(maps)
}

/// Whether a folder is called as [`map_folder`] calls it, in any version.
fn is_version(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix('v')).is_some_and(|number| number.parse::<u32>().is_ok())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, RemovalError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(pin_error(folder))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(pin_error(folder))).collect()
}

fn remove_folder(folder: &Path) -> Result<(), RemovalError> {
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(pin_error(folder)(error)),
        _ => Ok(()),
    }
}

fn pin_error(path: &Path) -> impl FnOnce(std::io::Error) -> RemovalError {
    move |source| RemovalError::Pin { path: path.to_owned(), source }
}

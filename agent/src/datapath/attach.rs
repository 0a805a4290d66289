//! Programs onto veths.
//!
//! TCX (kernel 6.6 and later): links, pinned, so that programs outlive the agent and the next one swaps them in place.
//! clsact: filters of a fixed priority and handle, which the kernel keeps by itself and the next agent replaces.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;

use super::link;

/// clsact filters of this priority are ours.
pub(super) const PRIORITY: u16 = 0x7050;
/// clsact filters of this handle are ours.
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// TCX links. Minimum kernel version: 6.6.
    Tcx,
    /// Filters of the clsact qdisc. Minimum kernel version: 4.5.
    Clsact,
}

/// Asks the kernel whether it has TCX, without changing anything.
#[must_use]
pub fn probe() -> Mode {
    // An older kernel does not know the attach type (kernel/bpf/syscall.c, bpf_prog_query).
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Mode::Tcx,
        // It lists other programs there, and opening those by their ids takes CAP_SYS_ADMIN.
        Err(error) if errno(&error) == Some(libc::EPERM) => Mode::Tcx,
        Err(_) => Mode::Clsact,
    }
}

/// Why a program is not on a veth.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The veth is gone: its pod was deleted meanwhile.
    #[error("interface {0} is gone")]
    Gone(String),
    /// Attaching or replacing.
    #[error("attaching to interface {interface}: {source}")]
    Program {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The link's pin.
    #[error("link of interface {interface}: {source}")]
    Link {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where a program sits.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// Its name.
    pub interface: &'a str,
    /// TC's direction: the pod's other one.
    pub hook: TcAttachType,
}

impl Spot<'_> {
    fn pin(&self, links: &Path) -> PathBuf {
        let hook = if matches!(self.hook, TcAttachType::Ingress) { "ingress" } else { "egress" };
        links.join(format!("{}-{hook}", self.ifindex))
    }

    fn failed(&self, source: ProgramError) -> AttachError {
        if errno(&source) == Some(libc::ENODEV) {
            return AttachError::Gone(self.interface.to_owned());
        }
        AttachError::Program { interface: self.interface.to_owned(), source }
    }

    fn link_failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> AttachError {
        AttachError::Link { interface: self.interface.to_owned(), source: Box::new(source) }
    }

    /// The filter that an agent attached here.
    fn filter(&self) -> Result<SchedClassifierLink, AttachError> {
        // All that can fail is finding the interface by its name.
        SchedClassifierLink::attached(self.interface, self.hook, PRIORITY, HANDLE, None)
            .map_err(|_| AttachError::Gone(self.interface.to_owned()))
    }
}

/// The system's error at the end of a chain of causes.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref::<std::io::Error>()).find_map(std::io::Error::raw_os_error)
}

/// Attaches a program, or replaces the one that an earlier agent left, by either way. `links` is where links are pinned.
///
/// # Errors
///
/// See [`AttachError`].
pub fn attach(
    program: &mut SchedClassifier,
    mode: Mode,
    links: &Path,
    spot: Spot<'_>,
) -> Result<(), AttachError> {
    match mode {
        Mode::Tcx => {
            attach_tcx(program, links, spot)?;
            detach(Mode::Clsact, links, spot)
        }
        Mode::Clsact => {
            attach_clsact(program, spot)?;
            detach(Mode::Tcx, links, spot)
        }
    }
}

fn attach_tcx(program: &mut SchedClassifier, links: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    let pin = spot.pin(links);
    match PinnedLink::from_pin(&pin) {
        Ok(pinned) => {
            let link: SchedClassifierLink =
                FdLink::from(pinned).try_into().map_err(|error: LinkError| spot.link_failed(error))?;
            let id = program.attach_to_link(link).map_err(|source| spot.failed(source))?;
            // The pin keeps the link; our handle of it may go.
            let _ = program.take_link(id).map_err(|source| spot.failed(source))?;
            Ok(())
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == ErrorKind::NotFound =>
        {
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = program
                .attach_with_options(spot.interface, spot.hook, order)
                .map_err(|source| spot.failed(source))?;
            let link = program.take_link(id).map_err(|source| spot.failed(source))?;
            let link: FdLink = link.try_into().map_err(|error: LinkError| spot.link_failed(error))?;
            link.pin(&pin).map_err(|error| spot.link_failed(error))?;
            Ok(())
        }
        Err(error) => Err(spot.link_failed(error)),
    }
}

fn attach_clsact(program: &mut SchedClassifier, spot: Spot<'_>) -> Result<(), AttachError> {
    match qdisc_add_clsact(spot.interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(spot.failed(error.into())),
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = match program.attach_with_options(spot.interface, spot.hook, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            program.attach_to_link(spot.filter()?).map_err(|source| spot.failed(source))?
        }
        attached => attached.map_err(|source| spot.failed(source))?,
    };
    let link = program.take_link(id).map_err(|source| spot.failed(source))?;
    // Dropping it would remove the filter, which is to outlive this agent.
    std::mem::forget(link);
    Ok(())
}

/// Takes a program off. One that is not there, or whose veth is gone, is off already.
///
/// # Errors
///
/// The kernel refused.
pub fn detach(mode: Mode, links: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    match mode {
        Mode::Tcx => {
            let pin = spot.pin(links);
            match link::detach(&pin) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                // The veth went first, and took the link off with it.
                Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                    return Err(spot.link_failed(error));
                }
                _ => {}
            }
            std::fs::remove_file(pin).map_err(|error| spot.link_failed(error))
        }
        Mode::Clsact => match spot.filter() {
            Ok(filter) => {
                drop(filter);
                Ok(())
            }
            Err(AttachError::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Interface indexes that have pinned links.
///
/// # Errors
///
/// The folder cannot be read.
pub fn pinned(links: &Path) -> std::io::Result<Vec<u32>> {
    let mut pinned = Vec::new();
    for entry in std::fs::read_dir(links)? {
        let name = entry?.file_name();
        let ifindex =
            name.to_str().and_then(|name| name.split_once('-')).and_then(|(it, _)| it.parse::<u32>().ok());
        pinned.extend(ifindex);
    }
    pinned.sort_unstable();
    pinned.dedup();
    Ok(pinned)
}

//! Programs onto veths.
//!
//! TCX (kernel 6.6 and later): links, pinned, so that programs outlive the agent and the next one swaps them in place.
//! clsact: filters of a fixed priority and handle, which the kernel keeps by itself and the next agent replaces.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use aya_obj::generated::bpf_attach_type;
use tracing::{info, warn};

use super::ingress_qdisc::{self, QdiscError};
use super::link;
use crate::causes;

/// clsact filters of this priority are ours: those of a pod's own programs.
pub const PRIORITY: u16 = 0x7050;
/// clsact filters of this handle are ours.
pub const HANDLE: TcHandle = TcHandle::new(0, 1);

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

/// Which of our programs it is, of those that one hook may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// What judges the packets of the pod behind a veth.
    Pod,
    /// What judges packets to Services, of whatever pod, on the device that they leave by ([`super::post_nat`]): in front of what judges
    /// those of the pod behind it, which passes what comes back to its sender.
    PostNat,
}

impl Layer {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Pod, Self::PostNat];

    /// clsact filters of this priority are ours; lower ones come first.
    #[must_use]
    pub const fn priority(self) -> u16 {
        match self {
            Self::Pod => PRIORITY,
            Self::PostNat => PRIORITY - 1,
        }
    }

    /// Where a TCX program goes among those that are there.
    fn order(self) -> LinkOrder {
        match self {
            Self::Pod => LinkOrder::default(),
            Self::PostNat => LinkOrder::first(),
        }
    }
}

/// Why a program is not on a veth.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The veth is gone: its pod was deleted meanwhile.
    #[error("interface {0} is gone")]
    Gone(String),
    /// Attaching or replacing.
    #[error("{what} to {hook} of interface {interface}: {}; {way_out}", causes::in_one_line(&**source))]
    Program {
        /// The interface.
        interface: String,
        /// `ingress` or `egress`.
        hook: &'static str,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
        /// What helps.
        way_out: String,
    },
    /// There is no egress hook on the veth.
    #[error(
        "interface {interface} has an ingress qdisc, beside which what its pod gets cannot be judged, and {source}; take it off (tc qdisc \
         del dev {interface} ingress), or have its filters on a clsact qdisc, behind pref {PRIORITY}; kernel 6.6 and later need none (TCX)"
    )]
    Qdisc {
        /// The interface.
        interface: String,
        /// Why it is not replaced.
        source: QdiscError,
    },
    /// The link's pin.
    #[error(
        "{what} {} for {hook} of interface {interface}: {}; if it stays so, remove the pin, and restart the agent",
        pin.display(),
        causes::in_one_line(&**source)
    )]
    Link {
        /// The interface.
        interface: String,
        /// `ingress` or `egress`.
        hook: &'static str,
        /// What was tried.
        what: &'static str,
        /// The pin.
        pin: PathBuf,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where a program sits.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// Interface index, as a rule of a host-side veth.
    pub ifindex: u32,
    /// Its name.
    pub interface: &'a str,
    /// TC's direction: the pod's other one.
    pub hook: TcAttachType,
    /// Which program.
    pub layer: Layer,
}

impl Spot<'_> {
    pub(super) fn hook_name(&self) -> &'static str {
        if matches!(self.hook, TcAttachType::Ingress) { "ingress" } else { "egress" }
    }

    /// The hook's number in bpf(2), with TCX.
    pub(super) fn hook_number(&self) -> u32 {
        let hook = if matches!(self.hook, TcAttachType::Ingress) {
            bpf_attach_type::BPF_TCX_INGRESS
        } else {
            bpf_attach_type::BPF_TCX_EGRESS
        };
        hook as u32
    }

    pub(super) fn pin(&self, links: &Path) -> PathBuf {
        links.join(self.pin_name())
    }

    /// Where a new link is pinned until it takes the place of one that cannot be used.
    fn pin_beside(&self, links: &Path) -> PathBuf {
        links.join(format!("{}-new", self.pin_name()))
    }

    /// Those of a pod's own programs begin with the index.
    fn pin_name(&self) -> String {
        match self.layer {
            Layer::Pod => format!("{}-{}", self.ifindex, self.hook_name()),
            Layer::PostNat => format!("{POST_NAT_PIN}{}", self.ifindex),
        }
    }

    fn failed(&self, what: &'static str, source: ProgramError) -> AttachError {
        let interface = self.interface.to_owned();
        if errno(&source) == Some(libc::ENODEV) {
            return AttachError::Gone(interface);
        }
        let hook = self.hook_name();
        let way_out = match errno(&source) {
            Some(libc::EINVAL) if what == FILTER => format!(
                "if there is another filter of this priority (tc filter show dev {interface} {hook}), take it off: \
                 tc filter del dev {interface} {hook} pref {}",
                self.layer.priority()
            ),
            Some(libc::EPERM) => "run as root, or with CAP_BPF and CAP_NET_ADMIN".to_owned(),
            Some(libc::ENOMEM) => "the node is short of memory".to_owned(),
            Some(libc::ERANGE) => {
                format!(
                    "there are too many programs on this hook (bpftool net show dev {interface}); take some off"
                )
            }
            _ => "what is on this hook: bpftool net show".to_owned(),
        };
        AttachError::Program { interface, hook, what, source: Box::new(source), way_out }
    }

    fn link_failed(
        &self,
        what: &'static str,
        pin: &Path,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> AttachError {
        if errno(&source) == Some(libc::ENODEV) {
            return AttachError::Gone(self.interface.to_owned());
        }
        let (interface, hook) = (self.interface.to_owned(), self.hook_name());
        AttachError::Link { interface, hook, what, pin: pin.to_owned(), source: Box::new(source) }
    }

    /// The filter that an agent attached here.
    fn filter(&self) -> Result<SchedClassifierLink, AttachError> {
        // All that can fail is finding the interface by its name.
        SchedClassifierLink::attached(self.interface, self.hook, self.layer.priority(), HANDLE, None)
            .map_err(|_| AttachError::Gone(self.interface.to_owned()))
    }
}

/// How pins of links begin of what judges packets to Services.
pub(super) const POST_NAT_PIN: &str = "post-nat-";

/// What is tried with clsact.
const FILTER: &str = "adding a filter (RTM_NEWTFILTER)";

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
    // aya and tc go by names, and another interface may have this one by now.
    if nix::net::if_::if_nametoindex(spot.interface).ok() != Some(spot.ifindex) {
        return Err(AttachError::Gone(spot.interface.to_owned()));
    }
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

/// A pinned link is believed only if the kernel lists it on this hook: it may have been detached by hand, be of another interface
/// that had this index, or be none at all. Then a new one is attached, and takes the pin's place.
///
/// Wherever this is broken off, the next attempt finds the veth's link under one of two names, or none that is alive.
fn attach_tcx(program: &mut SchedClassifier, links: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    let (pin, beside) = (spot.pin(links), spot.pin_beside(links));
    let attached = link::attached(spot.ifindex, spot.hook_number())
        .map_err(|source| spot.failed("listing programs (BPF_PROG_QUERY)", query_failed(source)))?;
    for path in [&pin, &beside] {
        let link = link::tcx(path)
            .map_err(|source| spot.link_failed("opening the pin (BPF_OBJ_GET)", path, source))?;
        if !link.is_some_and(|link| attached.contains(&link.id)) {
            continue;
        }
        match swap(program, path, spot) {
            Ok(()) if *path == pin => return unpin(&beside, spot),
            Ok(()) => return replace(&beside, &pin, spot),
            // Detached at this moment, or of a kind that is never updated.
            Err(error) => warn!(%error, "a pinned link cannot be used again; a new one is attached"),
        }
    }
    // Dead, or somebody else's: in nobody's way.
    unpin(&beside, spot)?;
    let order = TcAttachOptions::TcxOrder(spot.layer.order());
    let id = program
        .attach_with_options(spot.interface, spot.hook, order)
        .map_err(|source| spot.failed("attaching a program (BPF_LINK_CREATE)", source))?;
    let failed = |source| spot.failed("attaching a program (BPF_LINK_CREATE)", source);
    let link: FdLink = program
        .take_link(id)
        .map_err(failed)?
        .try_into()
        .map_err(|error: LinkError| spot.link_failed("pinning", &pin, error))?;
    link.pin(&beside).map_err(|error| spot.link_failed("pinning (BPF_OBJ_PIN)", &beside, error))?;
    replace(&beside, &pin, spot)
}

/// Has a pinned link's hook run this program from now on.
fn swap(program: &mut SchedClassifier, pin: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    let failed = |error: LinkError| spot.link_failed("opening the pin", pin, error);
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(failed)?).try_into().map_err(failed)?;
    let failed = |source| spot.failed("replacing a program (BPF_LINK_UPDATE)", source);
    let id = program.attach_to_link(link).map_err(failed)?;
    // The pin keeps the link; our handle of it may go.
    let _ = program.take_link(id).map_err(failed)?;
    Ok(())
}

/// Gives the link that is pinned beside the place of what is pinned there, which is of no use.
fn replace(beside: &Path, pin: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    unpin(pin, spot)?;
    std::fs::rename(beside, pin).map_err(|error| spot.link_failed("renaming the pin to", pin, error))
}

fn unpin(pin: &Path, spot: Spot<'_>) -> Result<(), AttachError> {
    link::remove(pin).map_err(|error| spot.link_failed("removing the pin (BPF_LINK_DETACH)", pin, error))
}

fn query_failed(io_error: std::io::Error) -> ProgramError {
    SyscallError { call: "bpf_prog_query", io_error }.into()
}

fn attach_clsact(program: &mut SchedClassifier, spot: Spot<'_>) -> Result<(), AttachError> {
    match qdisc_add_clsact(spot.interface) {
        Ok(()) => {}
        Err(TcError::AlreadyAttached) => replace_ingress_qdisc(spot)?,
        Err(error) if errno(&error) == Some(libc::EEXIST) => replace_ingress_qdisc(spot)?,
        Err(error) => return Err(spot.failed("adding a clsact qdisc (RTM_NEWQDISC)", error.into())),
    }
    let options = NlOptions { priority: spot.layer.priority(), handle: HANDLE, classid: None };
    let id = match program.attach_with_options(spot.interface, spot.hook, TcAttachOptions::Netlink(options)) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            program.attach_to_link(spot.filter()?).map_err(|source| spot.failed(FILTER, source))?
        }
        attached => attached.map_err(|source| spot.failed(FILTER, source))?,
    };
    let link = program.take_link(id).map_err(|source| spot.failed(FILTER, source))?;
    // Dropping it would remove the filter, which is to outlive this agent.
    std::mem::forget(link);
    Ok(())
}

/// Makes sure that the qdisc that is there has both hooks. One that cannot be replaced has the one for what the pod sends.
fn replace_ingress_qdisc(spot: Spot<'_>) -> Result<(), AttachError> {
    let interface = spot.interface;
    match ingress_qdisc::replace(spot.ifindex) {
        Ok(None) => {}
        Ok(Some(filters)) => info!(
            interface,
            filters,
            "replaced the veth's ingress qdisc by a clsact one; its filters moved along, behind pref {PRIORITY}"
        ),
        Err(_) if matches!(spot.hook, TcAttachType::Ingress) => {}
        Err(source) => return Err(AttachError::Qdisc { interface: interface.to_owned(), source }),
    }
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
            // The veth may have gone first, and taken its links off.
            unpin(&spot.pin(links), spot)?;
            unpin(&spot.pin_beside(links), spot)
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

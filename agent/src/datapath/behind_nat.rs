//! The programs behind the choice of a Service's backend: loaded and hooked into netfilter here, since aya does not know their type.
//!
//! Minimum kernel version: 6.4, with BTF and `CONFIG_NETFILTER_BPF_LINK`. Elsewhere, and only there ([`probe`]), frontends are judged
//! by all of their backends together.

mod load;

use std::ffi::CStr;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;

pub use self::load::verify;
use self::load::{accept, load, maps};
use super::btf;
use super::link::{self, Hook};
use super::object::OBJECT;

/// `NF_INET_POST_ROUTING`: behind destination NAT for all that a node forwards, whoever chose.
const POST_ROUTING: u32 = 4;
/// In front of `NF_IP_PRI_NAT_SRC` (100), so that packets still carry their pod's address. An agent that takes over from another one
/// takes another number, the first that nobody has: for a moment, both are asked.
const PRIORITIES: RangeInclusive<i32> = 90..=99;

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`, and their program's name.
pub(super) const PROGRAMS: [(u32, &CStr); 2] = [(2, c"postern_behind_nat4"), (10, c"postern_behind_nat6")];

/// Why there are no programs behind NAT.
#[derive(Debug, thiserror::Error)]
pub enum BehindNatError {
    /// The object.
    #[error("the eBPF object: {0}; the build is broken")]
    Object(String),
    /// The kernel has no BTF, or it cannot be used.
    #[error("where the kernel keeps a packet's fields is not known: {0}")]
    Layout(#[source] &'static io::Error),
    /// The verifier refused, or there are no such programs.
    #[error("loading {program} (BPF_PROG_LOAD): {source}{log}")]
    Load {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What the verifier said.
        log: String,
    },
    /// The kernel does not tell of a program.
    #[error("asking the kernel about a program: {0}")]
    Info(#[source] io::Error),
    /// Netfilter refused.
    #[error(
        "hooking a program into netfilter's POST_ROUTING of {family} (BPF_LINK_CREATE, priority {} to {}): {source}",
        PRIORITIES.start(), PRIORITIES.end()
    )]
    Attach {
        /// `IPv4` or `IPv6`
        family: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pin.
    #[error("pin {}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The programs, and whether netfilter calls them.
#[derive(Debug)]
pub struct BehindNat {
    /// The maps that they work on, by name.
    maps: Vec<(String, OwnedFd)>,
    /// None until they are loaded.
    programs: Vec<(u32, OwnedFd)>,
    links: PathBuf,
    /// This agent's pins; none until netfilter calls its programs.
    own: Vec<PathBuf>,
    /// Whether what earlier agents hooked in may still be there.
    earlier: bool,
}

/// Asks the kernel whether it has netfilter programs, without changing anything.
///
/// # Errors
///
/// It has none: what is missing. All else that may be wrong is for [`BehindNat::attach`] to find out.
pub fn probe() -> Result<(), &'static str> {
    match accept() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Err("it has no netfilter programs (they come with 6.4, and CONFIG_NETFILTER_BPF_LINK)");
        }
        _ => {}
    }
    match btf::skb_layout() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("it does not describe its own structs (CONFIG_DEBUG_INFO_BTF)")
        }
        _ => Ok(()),
    }
}

impl BehindNat {
    /// For programs of the object that `ebpf` was loaded from, onto its maps. Nothing calls them yet, other than what an earlier agent
    /// pinned.
    ///
    /// # Errors
    ///
    /// There are too many open files.
    pub fn new(ebpf: &Ebpf, links: &Path) -> io::Result<Self> {
        Ok(Self {
            maps: maps(ebpf)?,
            programs: Vec::new(),
            links: links.to_owned(),
            own: Vec::new(),
            earlier: true,
        })
    }

    /// Loads the programs, where they are not loaded.
    ///
    /// # Errors
    ///
    /// See [`BehindNatError`].
    pub fn load(&mut self) -> Result<(), BehindNatError> {
        if self.programs.is_empty() {
            btf::skb_layout().map_err(BehindNatError::Layout)?;
            self.programs = load(OBJECT, &self.maps)?;
        }
        Ok(())
    }

    /// Has netfilter call the programs, whether this agent lives or not, beside what earlier agents left.
    ///
    /// Wherever this is broken off, the earlier links are all there, and the next agent finds a priority that is free.
    ///
    /// # Errors
    ///
    /// The kernel refused. What an earlier agent left goes on.
    pub fn attach(&mut self) -> Result<(), BehindNatError> {
        self.load()?;
        if !self.own.is_empty() {
            return Ok(());
        }
        let mut own = Vec::new();
        for (pin, link) in self.hook()? {
            // The kernel just gave us its priority: whatever is pinned under this name is called by nobody.
            let pinned = link::remove(&pin).and_then(|()| link::pin(&link, &pin));
            if let Err(source) = pinned {
                // Ours, of the other family.
                remove(&own)?;
                return Err(BehindNatError::Pin { path: pin, source });
            }
            own.push(pin);
        }
        (self.own, self.earlier) = (own, true);
        Ok(())
    }

    /// Takes off what earlier agents left beside this one's links, once nobody relies on it.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn detach_earlier(&mut self) -> Result<(), BehindNatError> {
        if self.earlier && !self.own.is_empty() {
            let earlier: Vec<_> =
                pins(&self.links)?.into_iter().filter(|pin| !self.own.contains(pin)).collect();
            remove(&earlier)?;
            self.earlier = false;
        }
        Ok(())
    }

    /// Has netfilter call none of them.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn detach(&mut self) -> Result<(), BehindNatError> {
        self.own.clear();
        Self::forget(&self.links)
    }

    /// Takes off what any agent pinned.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn forget(links: &Path) -> Result<(), BehindNatError> {
        remove(&pins(links)?)
    }

    /// Whether netfilter calls what is pinned, for both families. Nothing else tells whether a pinned link was detached.
    #[must_use]
    pub fn is_judged(links: &Path) -> bool {
        let Ok(probe) = accept() else { return false };
        let pins = pins(links).unwrap_or_default();
        PROGRAMS.iter().all(|(family, _)| pins.iter().any(|pin| is_called(pin, *family, &probe)))
    }

    /// Links of both families, by where to pin them, with a priority that nobody has.
    fn hook(&self) -> Result<Vec<(PathBuf, OwnedFd)>, BehindNatError> {
        match self.hook_where_free() {
            Err(BehindNatError::Attach { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
            hooked => return hooked,
        }
        // Agents were killed in the middle of this again and again: one link of each family is enough.
        let pins = pins(&self.links)?;
        for (family, program) in &self.programs {
            let of_family = pins.iter().filter(|pin| priority_of(pin, *family).is_some());
            let (called, dead): (Vec<_>, Vec<_>) =
                of_family.cloned().partition(|pin| is_called(pin, *family, program));
            remove(&dead)?;
            remove(called.get(1..).unwrap_or_default())?;
        }
        self.hook_where_free()
    }

    fn hook_where_free(&self) -> Result<Vec<(PathBuf, OwnedFd)>, BehindNatError> {
        let hooked = |priority: i32| {
            let links = self.programs.iter().map(|(family, program)| {
                let link = link::netfilter(program, hook(*family, priority))
                    .map_err(|source| BehindNatError::Attach { family: family_name(*family), source })?;
                Ok((self.links.join(pin_name(*family, priority)), link))
            });
            links.collect::<Result<Vec<_>, BehindNatError>>()
        };
        let mut last = hooked(*PRIORITIES.start());
        for priority in PRIORITIES.skip(1) {
            match &last {
                Err(BehindNatError::Attach { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                    last = hooked(priority);
                }
                _ => break,
            }
        }
        last
    }
}

fn hook(family: u32, priority: i32) -> Hook {
    Hook { family, number: POST_ROUTING, priority }
}

fn family_name(family: u32) -> &'static str {
    if family == PROGRAMS[0].0 { "IPv4" } else { "IPv6" }
}

/// Whether somebody has the priority of a pinned link: no two programs share one.
fn is_called(pin: &Path, family: u32, program: &OwnedFd) -> bool {
    priority_of(pin, family).is_some_and(|priority| {
        let tried = link::netfilter(program, hook(family, priority));
        tried.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
    })
}

/// The priority that a pin of a family's link names.
fn priority_of(pin: &Path, family: u32) -> Option<i32> {
    let name = pin.file_name()?.to_str()?;
    name.strip_prefix(&format!("{PIN_PREFIX}-{family}-"))?.parse().ok()
}

/// What is pinned of these programs in the folder for links.
fn pins(links: &Path) -> Result<Vec<PathBuf>, BehindNatError> {
    let error = |source| BehindNatError::Pin { path: links.to_owned(), source };
    let entries = std::fs::read_dir(links).map_err(error)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PIN_PREFIX))
    };
    Ok(paths.map_err(error)?.into_iter().filter(is_ours).collect())
}

/// How pins of these links begin; those of veths begin with a number.
const PIN_PREFIX: &str = "behind-nat";

fn pin_name(family: u32, priority: i32) -> String {
    format!("{PIN_PREFIX}-{family}-{priority}")
}

fn remove(pins: &[PathBuf]) -> Result<(), BehindNatError> {
    pins.iter().try_for_each(|pin| {
        link::remove(pin).map_err(|source| BehindNatError::Pin { path: pin.clone(), source })
    })
}

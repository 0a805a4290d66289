//! The programs in netfilter's hooks, loaded and hooked in here, since aya does not know their type: those behind the choice of a
//! Service's backend, and those that drop what is denied before conntrack remembers it.
//!
//! Minimum kernel version: 6.4, with BTF and `CONFIG_NETFILTER_BPF_LINK`. Elsewhere, and only there ([`probe`]), frontends are judged
//! by all of their backends together, and what is denied is remembered.

mod load;

use std::ffi::CStr;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;

pub use self::load::verify;
use self::load::{accept, load, maps};
use super::btf;
use super::link::{self, Hook};
use super::object::OBJECT;

/// `NF_INET_POST_ROUTING`: behind destination NAT for all that a node forwards, whoever chose.
const POST_ROUTING: u32 = 4;
/// A place in `POST_ROUTING`, and the programs that belong there.
#[derive(Debug)]
pub struct Place {
    /// How pins of its links begin; those of veths begin with a number.
    prefix: &'static str,
    /// An agent that takes over from another one takes another number, the first that nobody has: for a moment, both are asked.
    priorities: RangeInclusive<i32>,
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`, and their program's name.
    programs: [(u32, &'static CStr); 2],
}

/// In front of `NF_IP_PRI_NAT_SRC` (100), so that packets still carry their pod's address.
pub static BEHIND_NAT: Place = Place {
    prefix: "behind-nat",
    priorities: 90..=99,
    programs: [(2, c"postern_behind_nat4"), (10, c"postern_behind_nat6")],
};

/// The last in front of `NF_IP_PRI_CONNTRACK_CONFIRM` (`INT_MAX`), so that packets are as their pod gets them.
pub static UNCONFIRMED: Place = Place {
    prefix: "unconfirmed",
    priorities: i32::MAX - 10..=i32::MAX - 1,
    programs: [(2, c"postern_unconfirmed4"), (10, c"postern_unconfirmed6")],
};

/// All of them.
static PLACES: [&Place; 2] = [&BEHIND_NAT, &UNCONFIRMED];

/// Why there are no programs in netfilter's hooks.
#[derive(Debug, thiserror::Error)]
pub enum BehindNatError {
    /// The object.
    #[error("the eBPF object: {0}; the build is broken")]
    Object(String),
    /// The kernel has no BTF, or it cannot be used.
    #[error("where the kernel keeps a packet's fields is not known: {0}")]
    Layout(#[source] &'static io::Error),
    /// The kernel does not take the object's types.
    #[error("loading the programs' types (BPF_BTF_LOAD): {0}")]
    Types(#[source] io::Error),
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
        priorities.start(), priorities.end()
    )]
    Attach {
        /// `IPv4` or `IPv6`
        family: &'static str,
        /// Those that were tried.
        priorities: RangeInclusive<i32>,
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

/// The programs of a place, and whether netfilter calls them.
#[derive(Debug)]
pub struct BehindNat {
    place: &'static Place,
    /// The maps that they work on, by name, until they are loaded.
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
        Self::at(&BEHIND_NAT, ebpf, links)
    }

    /// The same for the programs of another place.
    ///
    /// # Errors
    ///
    /// There are too many open files.
    pub fn at(place: &'static Place, ebpf: &Ebpf, links: &Path) -> io::Result<Self> {
        Ok(Self {
            place,
            maps: maps(ebpf)?,
            programs: Vec::new(),
            links: links.to_owned(),
            own: Vec::new(),
            earlier: true,
        })
    }

    /// The same of programs that are loaded, which an earlier agent pinned.
    pub(super) fn loaded(
        place: &'static Place,
        programs: &mut impl Iterator<Item = OwnedFd>,
        links: &Path,
    ) -> Self {
        let programs = place.programs.iter().map(|(family, _)| *family).zip(programs).collect();
        let (maps, own) = Default::default();
        Self { place, maps, programs, links: links.to_owned(), own, earlier: true }
    }

    /// The programs by their names; none until they are loaded.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.place.names().into_iter().zip(self.programs.iter().map(|(_, program)| program.as_fd()))
    }

    /// Loads the programs, where they are not loaded.
    ///
    /// # Errors
    ///
    /// See [`BehindNatError`].
    pub fn load(&mut self) -> Result<(), BehindNatError> {
        if self.programs.is_empty() {
            btf::skb_layout().map_err(BehindNatError::Layout)?;
            self.programs = load(OBJECT, &self.maps, self.place)?;
            // The programs hold them now, and descriptors are few.
            self.maps.clear();
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
                pins(&self.links, self.place)?.into_iter().filter(|pin| !self.own.contains(pin)).collect();
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
        Self::forget(&self.links, self.place)
    }

    /// Takes off what any agent pinned.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn forget(links: &Path, place: &Place) -> Result<(), BehindNatError> {
        remove(&pins(links, place)?)
    }

    /// Whether netfilter calls what is pinned behind NAT, for both families. Nothing else tells whether a pinned link was detached.
    #[must_use]
    pub fn is_judged(links: &Path) -> bool {
        let Ok(probe) = accept() else { return false };
        let (place, pins) = (&BEHIND_NAT, pins(links, &BEHIND_NAT).unwrap_or_default());
        place.programs.iter().all(|(family, _)| pins.iter().any(|pin| place.is_called(pin, *family, &probe)))
    }

    /// Links of both families, by where to pin them, with a priority that nobody has.
    fn hook(&self) -> Result<Vec<(PathBuf, OwnedFd)>, BehindNatError> {
        match self.hook_where_free() {
            Err(BehindNatError::Attach { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
            hooked => return hooked,
        }
        // Agents were killed in the middle of this again and again: one link of each family is enough.
        let pins = pins(&self.links, self.place)?;
        for (family, program) in &self.programs {
            let of_family = pins.iter().filter(|pin| self.place.priority_of(pin, *family).is_some());
            let (called, dead): (Vec<_>, Vec<_>) =
                of_family.cloned().partition(|pin| self.place.is_called(pin, *family, program));
            remove(&dead)?;
            remove(called.get(1..).unwrap_or_default())?;
        }
        self.hook_where_free()
    }

    fn hook_where_free(&self) -> Result<Vec<(PathBuf, OwnedFd)>, BehindNatError> {
        let hooked = |priority: i32| {
            let links = self.programs.iter().map(|(family, program)| {
                let link = link::netfilter(program, hook(*family, priority))
                    .map_err(|source| self.place.refused(*family, source))?;
                Ok((self.links.join(self.place.pin_name(*family, priority)), link))
            });
            links.collect::<Result<Vec<_>, BehindNatError>>()
        };
        let mut last = hooked(*self.place.priorities.start());
        for priority in self.place.priorities.clone().skip(1) {
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

impl Place {
    /// Names of its programs.
    pub(super) fn names(&'static self) -> [&'static str; 2] {
        self.programs.map(|(_, name)| name.to_str().unwrap_or_default())
    }

    fn pin_name(&self, family: u32, priority: i32) -> String {
        format!("{}-{family}-{priority}", self.prefix)
    }

    /// The priority that a pin of a family's link names.
    fn priority_of(&self, pin: &Path, family: u32) -> Option<i32> {
        let name = pin.file_name()?.to_str()?;
        name.strip_prefix(&format!("{}-{family}-", self.prefix))?.parse().ok()
    }

    /// Whether somebody has the priority of a pinned link: no two programs share one.
    fn is_called(&self, pin: &Path, family: u32, program: &OwnedFd) -> bool {
        self.priority_of(pin, family).is_some_and(|priority| {
            let tried = link::netfilter(program, hook(family, priority));
            tried.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        })
    }

    fn refused(&self, family: u32, source: io::Error) -> BehindNatError {
        let name = if family == self.programs[0].0 { "IPv4" } else { "IPv6" };
        BehindNatError::Attach { family: name, priorities: self.priorities.clone(), source }
    }
}

/// What is pinned of a place's programs in the folder for links.
fn pins(links: &Path, place: &Place) -> Result<Vec<PathBuf>, BehindNatError> {
    let error = |source| BehindNatError::Pin { path: links.to_owned(), source };
    let entries = std::fs::read_dir(links).map_err(error)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(place.prefix))
    };
    Ok(paths.map_err(error)?.into_iter().filter(is_ours).collect())
}

fn remove(pins: &[PathBuf]) -> Result<(), BehindNatError> {
    pins.iter().try_for_each(|pin| {
        link::remove(pin).map_err(|source| BehindNatError::Pin { path: pin.clone(), source })
    })
}

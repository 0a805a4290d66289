//! The programs: an earlier agent's, where they are just those that this one would load, else its own.

mod info;
mod pinned;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::SchedClassifier;
use tracing::{info, warn};

pub(super) use self::pinned::{FOLDER, ProgramPins};
use self::pinned::{Found, Names};
use super::SetupError;
use super::behind_nat::{self, BEHIND_NAT, BehindNat, Place, UNCONFIRMED};
use super::maps::Maps;
use super::object::{self, BASE, LoadError, POST_NAT, Settings, map_folder};
use super::services::JudgedAt;

/// The programs for veths.
pub struct Programs(Source);

enum Source {
    /// This agent loaded them.
    Loaded(Box<Ebpf>),
    /// An earlier one did.
    Pinned(BTreeMap<&'static str, SchedClassifier>),
}

impl Programs {
    /// A program by its name.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn get(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        match &mut self.0 {
            Source::Loaded(ebpf) => object::program(ebpf, name),
            Source::Pinned(programs) => programs.get_mut(name).ok_or(LoadError::Missing(name)),
        }
    }

    /// The object that they were loaded from; none of an earlier agent's.
    pub(super) fn loaded(&mut self) -> Option<&mut Ebpf> {
        match &mut self.0 {
            Source::Loaded(ebpf) => Some(ebpf),
            Source::Pinned(_) => None,
        }
    }
}

impl From<Ebpf> for Programs {
    fn from(ebpf: Ebpf) -> Self {
        Self(Source::Loaded(Box::new(ebpf)))
    }
}

/// How an agent came by its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// They are an earlier agent's: the kernel has verified nothing.
    pub reused: bool,
    /// How long that took.
    pub took: Duration,
}

/// All programs of an agent, and the maps that they work on.
pub(super) struct Start {
    pub(super) programs: Programs,
    pub(super) maps: Maps,
    /// Where packets to Services are judged.
    pub(super) judged_at: JudgedAt,
    /// What judges them in netfilter's hooks, where that is done there.
    pub(super) behind_nat: Option<BehindNat>,
    /// `None` where this kernel has none of it, or where it could not tell what comes back to its sender.
    pub(super) unconfirmed: Option<BehindNat>,
    pub(super) pins: ProgramPins,
    pub(super) origin: Origin,
}

/// Goes on with the programs that an earlier agent pinned, or loads them, and pins them. Nothing calls them yet, other than what
/// an earlier agent attached.
///
/// # Errors
///
/// See [`SetupError`].
pub(super) fn start(here: &Path, settings: Settings) -> Result<Start, SetupError> {
    let began = Instant::now();
    let judged_at = settings.services.here();
    let places = places(judged_at);
    let post_nat = (judged_at == JudgedAt::Egress).then_some(POST_NAT);
    let names = Names {
        classifiers: BASE.into_iter().chain(post_nat).collect(),
        netfilter: places.into_iter().flatten().flat_map(Place::names).collect(),
    };
    let mut pins = ProgramPins::new(here);
    // The log of programs comes with the object that they were loaded from.
    let found = if settings.debug { None } else { pins.find(settings, &names) };
    let reused = found.is_some();
    let (programs, maps, [behind_nat, unconfirmed]) = match found {
        Some(found) => go_on(here, places, found)?,
        None => load(here, settings, &names, places)?,
    };
    let mut start = Start {
        programs,
        maps,
        judged_at,
        behind_nat,
        unconfirmed,
        pins,
        origin: Origin { reused, took: began.elapsed() },
    };
    if reused {
        info!(took = ?start.origin.took, "going on with the programs of an earlier agent, which are the same");
    } else {
        info!(took = ?start.origin.took, "loaded the programs");
        if !settings.debug {
            start.pin(settings, &names);
        }
    }
    Ok(start)
}

type Parts = (Programs, Maps, [Option<BehindNat>; 2]);

fn go_on(here: &Path, places: [Option<&'static Place>; 2], found: Found) -> Result<Parts, SetupError> {
    let Found { classifiers, netfilter } = found;
    let links = here.join("links");
    let mut netfilter = netfilter.into_iter();
    let places = places.map(|place| place.map(|place| BehindNat::loaded(place, &mut netfilter, &links)));
    Ok((Programs(Source::Pinned(classifiers)), Maps::open(&map_folder(here))?, places))
}

fn load(
    here: &Path,
    settings: Settings,
    names: &Names,
    places: [Option<&'static Place>; 2],
) -> Result<Parts, SetupError> {
    let links = here.join("links");
    let failed = |source| SetupError::Pins { path: here.to_owned(), source };
    let mut ebpf = object::prepare(Some(here), settings)?;
    let at =
        |place: Option<&'static Place>| place.map(|place| BehindNat::at(place, &ebpf, &links)).transpose();
    let [behind_nat, unconfirmed] = places;
    let mut places = [at(behind_nat).map_err(failed)?, at(unconfirmed).map_err(failed)?];
    // Not in threads of their own: each would keep the memory that reading the object takes.
    object::verify(&mut ebpf, &names.classifiers, || {
        for place in places.iter_mut().flatten() {
            // Where that fails, it is tried again when links are looked at, and said.
            let _ = place.load();
        }
    })?;
    let maps = Maps::take(&mut ebpf)?;
    Ok((ebpf.into(), maps, places))
}

impl Start {
    /// Pins the programs, if all of them were loaded: what is not pinned, the next agent loads anew.
    fn pin(&mut self, settings: Settings, names: &Names) {
        let Self { programs, behind_nat, unconfirmed, pins, .. } = self;
        let Some(ebpf) = programs.loaded() else { return };
        let classifiers = names.classifiers.iter().filter_map(|name| {
            let program: &SchedClassifier = ebpf.program(name)?.try_into().ok()?;
            Some((*name, program.fd().ok()?.as_fd()))
        });
        let netfilter = [behind_nat, unconfirmed].into_iter().flatten().flat_map(|it| it.programs());
        let all: Vec<_> = classifiers.chain(netfilter).collect();
        if all.len() < names.classifiers.len() + names.netfilter.len() {
            return;
        }
        if let Err(error) = pins.pin(settings, &all) {
            warn!(%error, "the programs cannot be pinned, so the next agent loads them anew; nothing else depends on it");
        }
    }
}

/// The places in netfilter that have programs: behind NAT, and in front of conntrack's confirmation. What a pod sends to itself is known
/// only on the device that it leaves by, if it is judged there: that is behind both.
fn places(judged_at: JudgedAt) -> [Option<&'static Place>; 2] {
    if let Err(missing) = behind_nat::probe() {
        warn!(
            "what pods may not get fills the node's conntrack table, for which docs/packet-path.md says what helps; this kernel \
             cannot do better: {missing}"
        );
        return [None, None];
    }
    match judged_at {
        JudgedAt::Netfilter => [Some(&BEHIND_NAT), Some(&UNCONFIRMED)],
        JudgedAt::Egress => [None, None],
        JudgedAt::Veth => [None, Some(&UNCONFIRMED)],
    }
}

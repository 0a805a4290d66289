//! The programs: built by `build.rs`, loaded here.

use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use nix::time::{ClockId, clock_getres};
use postern_common::LAYOUT_VERSION;
use postern_common::conntrack::{HALF_OPEN_ROWS, Lifetimes};
use postern_common::service;

use super::btf;
use super::maps::{self, MapMismatch};

/// The compiled object.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern"));

/// The compiled object with the programs of benchmarks (`ebpf/src/bench`). Not in a binary that does not use it.
pub static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench"));

/// Names of the programs that enforce policy, by the direction they judge.
pub const PROGRAMS: [&str; 2] = ["postern_to_pod", "postern_from_pod"];
/// Name of the program that judges the senders of what a pod sends, and nothing else.
pub const GUARD: &str = "postern_guard";
/// Names of all programs.
pub const ALL_PROGRAMS: [&str; 3] = [PROGRAMS[0], PROGRAMS[1], GUARD];

/// What becomes of established connections when policy changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Established {
    /// Their first direction is judged again: what policy no longer allows ends.
    #[default]
    Recheck,
    /// They stay until they end by themselves.
    Keep,
}

/// Where packets to Services are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Services {
    /// By the backend that each goes to, where the kernel can (6.4); else by all backends together.
    #[default]
    Auto,
    /// By all backends of a frontend together: all of them allowed, or nothing.
    Together,
}

/// Settings that are fixed when the programs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of established connections when policy changes.
    pub established: Established,
    /// Log every drop through aya-log. For development: it costs on every dropped packet.
    pub debug: bool,
    /// How long flows live without packets.
    pub lifetimes: Lifetimes,
    /// Where packets to Services are judged.
    pub services: Services,
    /// Rows for half-open flows that each veth has, see [`super::half_open`]; a power of two. Agents have [`HALF_OPEN_ROWS`].
    pub rows: u32,
}

impl Settings {
    /// Every combination of what makes other programs of the same object. Lifetimes do not: they are numbers that the
    /// verifier never branches on.
    pub const ALL: [Self; 4] = [
        Self::new(Established::Recheck, false),
        Self::new(Established::Keep, false),
        Self::new(Established::Recheck, true),
        Self::new(Established::Keep, true),
    ];

    const fn new(established: Established, debug: bool) -> Self {
        Self {
            established,
            debug,
            lifetimes: Lifetimes::DEFAULT,
            services: Services::Auto,
            rows: HALF_OPEN_ROWS,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(Established::Recheck, false)
    }
}

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object, or a map of it.
    #[error(transparent)]
    Object(#[from] EbpfError),
    /// bpf(2) may not be called at all.
    #[error(
        "the kernel does not let this process load eBPF programs; run as root, or with CAP_BPF and CAP_NET_ADMIN"
    )]
    NotPermitted,
    /// The verifier refused.
    #[error("program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The object does not hold what this agent was built for.
    #[error("the eBPF object holds no program {0}; the build is broken")]
    Missing(&'static str),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A pinned map is not what this version works with.
    #[error(transparent)]
    Mismatch(#[from] MapMismatch),
    /// The folder for pins.
    #[error("{}: {source}", path.display())]
    Pins {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The folder below a pin folder that holds maps of this version's layout.
#[must_use]
pub fn map_folder(pins: &Path) -> PathBuf {
    pins.join(format!("v{LAYOUT_VERSION}"))
}

/// Loads the programs into the kernel. With a pin folder, maps that are pinned there are taken over with what they
/// hold, and new ones are pinned.
///
/// Minimum kernel version: 5.11.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load(pins: Option<&Path>, settings: Settings) -> Result<Ebpf, LoadError> {
    let recheck = u8::from(settings.established == Established::Recheck);
    let log_level = if settings.debug { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global("POSTERN_RECHECK", &recheck, true);
    loader.override_global("POSTERN_LIFETIMES", &settings.lifetimes, true);
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    let tick = tick();
    loader.override_global("POSTERN_TICK", &tick, true);
    loader.override_global("POSTERN_ROWS", &settings.rows, true);
    let crossings = crossings_per_cpu();
    loader.override_global("POSTERN_CROSSINGS", &crossings, true);
    // Without, there are no programs that would read it (see `behind_nat`).
    let layout = btf::skb_layout().unwrap_or_default();
    loader.override_global("POSTERN_SKB", &layout, true);
    if let Some(pins) = pins {
        let folder = map_folder(pins);
        std::fs::create_dir_all(&folder)
            .map_err(|source| LoadError::Pins { path: folder.clone(), source })?;
        for shape in maps::SHAPES {
            maps::check_pinned(&folder.join(shape.name), shape)?;
            loader.map_pin_path(shape.name, folder.join(shape.name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| {
        let root =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()).last();
        let errno = root
            .and_then(|root| root.downcast_ref::<std::io::Error>())
            .and_then(std::io::Error::raw_os_error);
        if errno == Some(libc::EPERM) { LoadError::NotPermitted } else { LoadError::Object(error) }
    })?;
    for name in ALL_PROGRAMS {
        program(&mut ebpf, name)?
            .load()
            .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
    }
    Ok(ebpf)
}

/// Nanoseconds from one tick of the kernel to the next: the resolution of its coarse clocks (`posix_get_coarse_res` in
/// `kernel/time/posix-timers.c`).
#[must_use]
pub fn tick() -> u64 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).ok();
    // Every Linux says it; of the usual ones, the longest makes flows live longest.
    resolution.and_then(|tick| u64::try_from(tick.tv_nsec()).ok()).unwrap_or(10_000_000)
}

/// Slots of each CPU for packets on their way to the choice of a backend.
fn crossings_per_cpu() -> u32 {
    // More than there are, where the kernel does not say it: each has fewer.
    let cpus = aya::util::nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    service::crossings_per_cpu(cpus.unwrap_or(MANY_CPUS))
}

/// What nodes have at most, almost all of them.
const MANY_CPUS: u32 = 512;

/// A program of a loaded object.
///
/// # Errors
///
/// The object has no such program.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| LoadError::Program { name, source: Box::new(source) })
}

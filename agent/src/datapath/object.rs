//! The programs: built by `build.rs`, loaded here.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use nix::time::{ClockId, clock_getres, clock_gettime};
use postern_common::LAYOUT_VERSION;
use postern_common::conntrack::{ASKED, HALF_OPEN_ROWS, Lifetimes, SECOND};
use postern_common::state::State;

use super::bpf;
use super::globals::Globals;
use super::maps::{self, MapMismatch};
use super::services::Services;

/// The compiled object.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern"));

/// The compiled object with the programs of benchmarks (`ebpf/src/bench`). Not in a binary that does not use it.
pub static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench"));

/// Names of the programs that enforce policy, by the direction they judge.
pub const PROGRAMS: [&str; 2] = ["postern_to_pod", "postern_from_pod"];
/// Name of the program that judges the senders of what a pod sends, and nothing else.
pub const GUARD: &str = "postern_guard";
/// Name of the program that tells the kernel's ticks.
pub const TICKS: &str = "postern_ticks";
/// Name of the program that judges packets to Services on the devices that they leave by.
pub const POST_NAT: &str = "postern_postnat";
/// Names of the TC programs that every agent has.
pub(super) const BASE: [&str; 4] = [PROGRAMS[0], PROGRAMS[1], GUARD, TICKS];
/// Names of all TC programs that judge packets.
pub const ALL_PROGRAMS: [&str; 4] = [PROGRAMS[0], PROGRAMS[1], GUARD, POST_NAT];

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
    /// The kernel is `PREEMPT_RT` ([`super::realtime`]): programs of one CPU interrupt each other.
    pub realtime: bool,
    /// For how many denied packets of a veth each CPU asks the pod's sockets within a tick of the kernel. Agents have [`ASKED`].
    pub asked: u32,
}

impl Settings {
    /// Every combination of what makes other programs of the same object on one kernel. Lifetimes do not: they are numbers that the
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
            realtime: false,
            asked: ASKED,
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
    /// The verifier refused, on a kernel that is older than the programs need.
    #[error(
        "this node's kernel is too old: the programs need Linux 5.12 or what came with it (global functions that take pointers), and this \
         is {release}; boot a newer one, or keep Postern off this node (spec.nodeSelector): {source}"
    )]
    TooOld {
        /// `uname -r`
        release: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The object does not hold what this agent was built for.
    #[error("the eBPF object holds no {0}; the build is broken")]
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

/// Loads the programs into the kernel, those that every agent has. With a pin folder, maps that are pinned there are taken over with what they
/// hold, and new ones are pinned.
///
/// Minimum kernel version: 5.12.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load(pins: Option<&Path>, settings: Settings) -> Result<Ebpf, LoadError> {
    let mut ebpf = prepare(pins, settings)?;
    verify(&mut ebpf, &BASE, || ())?;
    Ok(ebpf)
}

/// The object with its maps and globals. The kernel has none of its programs yet.
pub(super) fn prepare(pins: Option<&Path>, settings: Settings) -> Result<Ebpf, LoadError> {
    let folder = pins.map(map_folder);
    let mut seed = 0;
    if let Some(folder) = &folder {
        std::fs::create_dir_all(folder).map_err(|source| LoadError::Pins { path: folder.clone(), source })?;
        for shape in maps::SHAPES {
            maps::check_pinned(&folder.join(shape.name), shape)?;
        }
        seed = pinned_seed(folder)?;
    }
    // Of the operating system's random numbers.
    let seed = if seed == 0 { RandomState::new().build_hasher().finish() } else { seed };
    let globals = Globals::new(settings, seed);
    let mut loader = EbpfLoader::new();
    globals.override_in(&mut loader);
    if let Some(folder) = &folder {
        for shape in maps::SHAPES {
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
    let mut state: Array<_, State> =
        ebpf.map_mut(STATE).ok_or(LoadError::Missing(STATE))?.try_into().map_err(LoadError::Map)?;
    let noted = state.get(&0, 0)?;
    state.set(0, State { seed, ..noted }, 0)?;
    Ok(ebpf)
}

/// Has the kernel verify and take programs, all at the same time: it does so on as many processors as there are. `meanwhile` is for
/// this thread to do until then.
pub(super) fn verify(
    ebpf: &mut Ebpf,
    names: &[&'static str],
    meanwhile: impl FnOnce(),
) -> Result<(), LoadError> {
    thread::scope(|scope| {
        let mut loading = BTreeMap::new();
        for (name, program) in ebpf.programs_mut() {
            if let Some(name) = names.iter().copied().find(|it| *it == name) {
                let program = classifier(name, program)?;
                loading.insert(name, scope.spawn(|| load_again(program)));
            }
        }
        meanwhile();
        names.iter().copied().try_for_each(|name| {
            let loaded = loading.remove(name).ok_or(LoadError::Missing(name))?.join();
            loaded.unwrap_or_else(|panic| resume_unwind(panic)).map_err(|source| refused(name, source))
        })
    })
}

/// Loads one program of an object, where it is not loaded.
///
/// # Errors
///
/// The verifier refuses it.
pub fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let program = program(ebpf, name)?;
    if program.fd().is_ok() {
        return Ok(());
    }
    load_again(program).map_err(|source| refused(name, source))
}

fn load_again(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let given_up = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if bpf::is_given_up(io_error));
    bpf::load(|| program.load(), given_up)
}

/// Why the verifier refused a program: distributions bring younger features to older kernels, so that one is too old only once it has
/// refused.
fn refused(name: &'static str, source: ProgramError) -> LoadError {
    let source = Box::new(source);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(version) if version < MINIMUM => {
            LoadError::TooOld { release: release.trim().to_owned(), source }
        }
        _ => LoadError::Program { name, source },
    }
}

/// The oldest kernel without anything from younger ones that takes the programs.
const MINIMUM: (u32, u32) = (5, 12);

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Name of the map that holds the seed.
const STATE: &str = "STATE";

/// What an earlier agent's programs hash with: flows that they noted must be found again. Zero: there was none.
pub(super) fn pinned_seed(folder: &Path) -> Result<u64, LoadError> {
    let pin = folder.join(STATE);
    if !pin.exists() {
        return Ok(0);
    }
    let state: Array<MapData, State> = Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
    Ok(state.get(&0, 0)?.seed)
}

/// Nanoseconds by the kernel's ticks (`jiffies64`), which flows expire by, as the program [`TICKS`] tells them.
///
/// # Errors
///
/// The program cannot be run.
pub fn ticks(program: &SchedClassifier) -> Result<u64, LoadError> {
    let tick = tick();
    // The kernel takes no less than an Ethernet header.
    let options = TestRunOptions { data_in: Some(&[0; 14]), ..TestRunOptions::default() };
    let run = program.test_run(options);
    let low =
        run.map_err(|source| LoadError::Program { name: TICKS, source: Box::new(source) })?.return_value;
    // The upper half by the clock: they began five minutes before the lower one's first overflow (`INITIAL_JIFFIES`).
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|now| Some(u64::try_from(now.tv_sec()).ok()? * SECOND))
        .unwrap_or(0);
    let about = ((tick << 32) + monotonic).saturating_sub(300 * SECOND) / tick;
    let high = about & !u64::from(u32::MAX) | u64::from(low);
    let near = [high.wrapping_sub(1 << 32), high, high.wrapping_add(1 << 32)];
    let ticks = near.into_iter().min_by_key(|ticks| ticks.abs_diff(about)).unwrap_or(high);
    Ok(ticks.wrapping_mul(tick))
}

/// Nanoseconds from one tick of the kernel to the next: the resolution of its coarse clocks (`posix_get_coarse_res` in
/// `kernel/time/posix-timers.c`).
#[must_use]
pub fn tick() -> u64 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).ok();
    // Every Linux says it; of the usual ones, the longest makes flows live longest.
    resolution.and_then(|tick| u64::try_from(tick.tv_nsec()).ok()).unwrap_or(10_000_000)
}

/// A program of a loaded object.
///
/// # Errors
///
/// The object has no such program.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    classifier(name, ebpf.program_mut(name).ok_or(LoadError::Missing(name))?)
}

fn classifier<'a>(
    name: &'static str,
    program: &'a mut Program,
) -> Result<&'a mut SchedClassifier, LoadError> {
    program.try_into().map_err(|source| LoadError::Program { name, source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::{MINIMUM, version};

    #[test]
    fn releases_begin_with_the_version() {
        for (release, expected) in [
            ("5.10.0-33-amd64\n", Some((5, 10))),
            ("6.18.0", Some((6, 18))),
            ("5.14.0-427.el9.x86_64", Some((5, 14))),
            ("7.1-rc2", Some((7, 1))),
            ("", None),
            ("mainline", None),
        ] {
            assert_eq!(version(release), expected, "{release:?}");
        }
        assert!(version("5.4.0-1.el8").unwrap() < MINIMUM && version("5.15.0-91-generic").unwrap() > MINIMUM);
    }
}

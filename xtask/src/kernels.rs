//! `cargo xtask kernels`: the programs and their tests on other kernels than this machine's, in QEMU.
//!
//! A guest's root is this machine's own, read only, with a layer in memory over it: it runs the binaries that cargo built
//! here, and changes nothing. One with another processor has a small Debian as its root, and static binaries. docs/kernels.md has what came of each kernel.

mod apt;
mod console;
mod cpio;
mod guest;
mod image;
mod modules;
mod qemu;
mod report;
mod root;
mod steps;
mod subset;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::apt::Apt;
use self::console::End;
use self::guest::{Step, Work};
use self::image::Image;
use self::report::Row;
use self::root::Root;
use self::wanted::{ALL, DEFAULT, Wanted};
use crate::architecture::Architecture;
use crate::setup;

/// Lines of a kernel's own that are shown where it died.
const LAST_OF_CONSOLE: usize = 30;

/// Arguments of `cargo xtask kernels`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Kernels {
    /// This kernel: 6.1, 6.12-rt, newest, 6.12-arm64, newest-arm64-16k. May be given more than once.
    #[arg(long = "kernel", value_name = "V")]
    wanted: Vec<Wanted>,
    /// Every kernel that takes the programs.
    #[arg(long, conflicts_with = "wanted")]
    all: bool,
    /// All kernel tests, not those that fit into some minutes: an hour or more for each kernel. See --timeout.
    #[arg(long, conflicts_with_all = ["filter", "load"])]
    every_test: bool,
    /// Only load the programs; run no tests.
    #[arg(long, conflicts_with = "filter")]
    load: bool,
    /// Go on behind a step that failed.
    #[arg(long)]
    keep_going: bool,
    /// `net.core.bpf_jit_harden`: 2 has the kernel blind constants for root too. May be given more than once. [default: 0, and 2
    /// with --all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=2))]
    jit_harden: Vec<u8>,
    /// So many kernels at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// End a kernel's run after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// For how long each fuzzer runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    fuzz_seconds: u64,
    /// So many random cases of each property.
    #[arg(long, value_name = "N", default_value_t = 20)]
    cases: u32,
    /// How results are printed. What happens on the way goes to standard error.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Load the programs of this binary of `postern`: one of another tree, say. With --load, none is built.
    #[arg(long, value_name = "FILE")]
    postern: Option<PathBuf>,
    /// Use this binary of the kernel tests, and build none; the lab's are not run then.
    #[arg(long, value_name = "FILE", conflicts_with = "load")]
    tests: Option<PathBuf>,
    /// Only tests whose name holds this.
    filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Kernels {
    fn jit_harden(&self) -> &[u8] {
        match (&self.jit_harden[..], self.all) {
            ([], true) => &[0, 2],
            ([], false) => &[0],
            (named, _) => named,
        }
    }
}

/// Runs everything, prints the table, fails where anything failed.
pub(crate) fn run(arguments: &Kernels) -> Result<()> {
    let kernels: Vec<Wanted> = match (&arguments.wanted[..], arguments.all) {
        ([], true) => ALL.iter().map(|it| it.parse()).collect::<Result<_>>()?,
        ([], false) => DEFAULT.iter().map(|it| it.parse()).collect::<Result<_>>()?,
        (named, _) => named.to_vec(),
    };
    let guests: BTreeSet<Architecture> = kernels.iter().map(|it| it.architecture).collect();
    let guests = Vec::from_iter(guests);
    if guests.len() > 1 && (arguments.postern.is_some() || arguments.tests.is_some()) {
        bail!("--postern and --tests name binaries for one processor; run kernels of another by themselves");
    }
    setup::kernels(&guests)?;
    // First of all: what is no kernel is said before anything is built.
    let cache = cache()?;
    let mut found = Vec::new();
    for wanted in kernels {
        let apt = Apt::new(&cache, wanted.architecture)?;
        let candidates = apt.candidates()?;
        let candidate = wanted.pick(&candidates).with_context(|| {
            format!("Debian has no kernel {wanted}; `cargo xtask kernels --help` shows how kernels are named")
        })?;
        found.push((apt, candidate.clone(), wanted));
    }
    let steps = guests.iter().map(|&guest| Ok((guest, steps::of(arguments, guest)?)));
    let steps: BTreeMap<Architecture, Vec<Step>> = steps.collect::<Result<_>>()?;
    let mut guests = Vec::new();
    for (apt, candidate, wanted) in found {
        let image = Image::bring(&apt, &candidate, &cache)?;
        for &jit_harden in arguments.jit_harden() {
            let root = Root::bring(&apt, wanted.architecture, &cache)?;
            let work = Work {
                sysctls: vec![("net.core.bpf_jit_harden", jit_harden.to_string())],
                steps: steps.get(&wanted.architecture).cloned().unwrap_or_default(),
                keep_going: arguments.keep_going,
            };
            guests.push(Guest { wanted: wanted.clone(), image: image.clone(), root, work, jit_harden });
        }
    }
    let (rows, broken) = run_all(&guests, arguments.jobs, Duration::from_secs(arguments.timeout));
    // They are the same for all.
    let names: Vec<&str> = steps.values().take(1).flatten().map(|it| it.name).collect();
    match arguments.output {
        Output::Table => print!("\n{}", report::table(&rows, &names)),
        Output::Json => println!("{:#}", report::json(&rows)),
    }
    if let Some(error) = broken {
        return Err(error);
    }
    let bad: Vec<&str> = rows.iter().filter(|it| !it.is_good()).map(|it| it.wanted.as_str()).collect();
    if bad.is_empty() { Ok(()) } else { bail!("failed on {}", bad.join(", ")) }
}

/// Runs guests, so many at a time. Returns their rows, in the order of the guests, and why there is none of one that could not be run: what
/// came of the others took its time.
fn run_all(guests: &[Guest], jobs: u16, limit: Duration) -> (Vec<Row>, Option<anyhow::Error>) {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let (number, Some(guest)) = take(&next, guests) {
            let row = guest.run(number, limit).with_context(|| format!("run a guest with {}", guest.wanted));
            rows.lock().unwrap_or_else(PoisonError::into_inner).insert(number, row);
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner).into_values();
    let (good, bad): (Vec<_>, Vec<_>) = rows.partition(Result::is_ok);
    let broken = bad.into_iter().find_map(Result::err);
    (good.into_iter().flatten().collect(), broken)
}

/// The next one that nobody has taken.
fn take<'a>(next: &AtomicUsize, guests: &'a [Guest]) -> (usize, Option<&'a Guest>) {
    let number = next.fetch_add(1, Ordering::Relaxed);
    (number, guests.get(number))
}

/// A kernel to boot, and what it does.
struct Guest {
    wanted: Wanted,
    image: Image,
    root: Root,
    work: Work,
    jit_harden: u8,
}

impl Guest {
    /// Boots it, and has it do its work. The number tells it from others that this process boots.
    fn run(&self, number: usize, limit: Duration) -> Result<Row> {
        let Self { wanted, image, root, work, jit_harden } = self;
        // Other processes may boot the same kernel at the same time.
        let scratch = |name| Scratch(image.file(&format!("{name}.{}.{number}", std::process::id())));
        let (initramfs, console) = (scratch("initramfs"), scratch("console"));
        let archive = guest::initramfs(image, root, work)?;
        std::fs::write(&initramfs.0, archive).with_context(|| format!("write {}", initramfs.0.display()))?;
        let name =
            if *jit_harden == 0 { wanted.to_string() } else { format!("{wanted}, jit_harden {jit_harden}") };
        eprintln!("{name}: booting Linux {} ({})", image.kernel, image.release);
        let results = qemu::run(image, &initramfs.0, &console.0, limit, |line| eprintln!("{name}: {line}"))?;
        let said = std::fs::read(&console.0).with_context(|| format!("read {}", console.0.display()))?;
        let said = String::from_utf8_lossy(&said);
        if results.end != End::Done {
            let lines: Vec<&str> = said.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_OF_CONSOLE)..] {
                eprintln!("{name}: console: {line}");
            }
        }
        let faults = console::faults(&said);
        Ok(Row {
            wanted: wanted.to_string(),
            kernel: image.kernel.clone(),
            jit_harden: *jit_harden,
            results,
            faults,
        })
    }
}

/// A file that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where kernels stay.
fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(Path::new(&home).join(".cache/postern/kernels"))
}

/// A program that may be where only administrators look.
fn administrator(program: &str) -> Command {
    let folders = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
    let path = folders.into_iter().find(|it| it.exists());
    Command::new(path.unwrap_or_else(|| program.into()))
}

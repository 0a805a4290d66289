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
mod subset;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
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
use crate::test::KernelTests;
use crate::{build, setup, static_binary, test};

/// Loading takes seconds on a real processor, where programs load at all.
const LOAD_SECONDS: u64 = 600;

/// Lines of a kernel's own that are shown where it died.
const LAST_OF_CONSOLE: usize = 30;

/// Arguments of `cargo xtask kernels`.
#[derive(Args, Debug)]
pub(crate) struct Kernels {
    /// This kernel: 6.1, 6.12-rt, newest, 6.12-arm64, newest-arm64-16k. May be given more than once.
    #[arg(long = "kernel", value_name = "V")]
    wanted: Vec<Wanted>,
    /// Every kernel of the matrix, and every test.
    #[arg(long)]
    all: bool,
    /// Only load the programs; run no tests.
    #[arg(long, conflicts_with = "filter")]
    load: bool,
    /// Run the tests even where the programs do not load.
    #[arg(long)]
    keep_going: bool,
    /// `net.core.bpf_jit_harden`: 2 has the kernel blind constants for root too. May be given more than once.
    #[arg(long, value_name = "N", default_values_t = [0], value_parser = clap::value_parser!(u8).range(0..=2))]
    jit_harden: Vec<u8>,
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
    /// Use this binary of `postern`, and build none: one of another tree, say.
    #[arg(long, value_name = "FILE")]
    postern: Option<PathBuf>,
    /// Use this binary of the kernel tests, and build none.
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
    let steps = guests.iter().map(|&guest| Ok((guest, steps(arguments, guest)?)));
    let steps: BTreeMap<Architecture, Vec<Step>> = steps.collect::<Result<_>>()?;
    let cache = cache()?;
    let mut rows = Vec::new();
    for wanted in kernels {
        let apt = Apt::new(&cache, wanted.architecture)?;
        let candidates = apt.candidates()?;
        let candidate = wanted.pick(&candidates).with_context(|| {
            format!("Debian has no kernel {wanted}; `cargo xtask kernels --help` shows how kernels are named")
        })?;
        let image = Image::bring(&apt, candidate, &cache)?;
        let root = Root::bring(&apt, wanted.architecture, &cache)?;
        for &jit_harden in &arguments.jit_harden {
            let work = Work {
                sysctls: vec![("net.core.bpf_jit_harden", jit_harden.to_string())],
                steps: steps.get(&wanted.architecture).cloned().unwrap_or_default(),
                keep_going: arguments.keep_going,
            };
            let guest = Guest { wanted: &wanted, image: &image, root: &root, work: &work };
            rows.push(guest.run(jit_harden, Duration::from_secs(arguments.timeout))?);
        }
    }
    // They are the same for all.
    let names: Vec<&str> = steps.values().take(1).flatten().map(|it| it.name).collect();
    match arguments.output {
        Output::Table => print!("\n{}", report::table(&rows, &names)),
        Output::Json => println!("{:#}", report::json(&rows)),
    }
    let bad: Vec<&str> = rows.iter().filter(|it| !it.is_good()).map(|it| it.wanted.as_str()).collect();
    if bad.is_empty() { Ok(()) } else { bail!("failed on {}", bad.join(", ")) }
}

/// What guests with a processor do.
fn steps(arguments: &Kernels, guest: Architecture) -> Result<Vec<Step>> {
    let (postern, tests) = binaries(arguments, guest)?;
    let load = Step {
        name: "load",
        command: vec![postern.display().to_string(), "load".to_owned()],
        directory: build::workspace(),
        environment: Vec::new(),
        seconds: LOAD_SECONDS,
    };
    let Some(KernelTests { executable, directory }) = tests else {
        return Ok(vec![load]);
    };
    let mut command = vec![executable.display().to_string()];
    match &arguments.filter {
        Some(filter) => command.push(filter.clone()),
        None if arguments.all => {}
        None => command.extend(subset::TESTS.into_iter().chain(["--exact"]).map(str::to_owned)),
    }
    let environment = vec![
        ("POSTERN_CASES".to_owned(), arguments.cases.to_string()),
        ("POSTERN_FUZZ_SECONDS".to_owned(), arguments.fuzz_seconds.to_string()),
        ("CARGO_MANIFEST_DIR".to_owned(), directory.display().to_string()),
    ];
    let tests = Step { name: "tests", command, directory, environment, seconds: arguments.timeout };
    Ok(vec![load, tests])
}

/// `postern`, and the tests where they are to run: those that were named, else built. Those for another processor than this machine's
/// are static: their guests' root has other libraries.
fn binaries(arguments: &Kernels, guest: Architecture) -> Result<(PathBuf, Option<KernelTests>)> {
    let is_here = guest == Architecture::HERE;
    let mut postern = arguments.postern.clone();
    let tests = arguments.tests.clone();
    let mut tests =
        tests.map(|executable| KernelTests { executable, directory: build::workspace().join("agent") });
    if tests.is_none() && !arguments.load {
        tests = Some(if is_here {
            test::kernel_tests()?
        } else {
            let (built, tests) = static_binary::kernel_tests(guest)?;
            postern.get_or_insert(built);
            tests
        });
    }
    let postern = match postern {
        Some(postern) => postern,
        None if is_here => build::binary(&["postern"], "postern")?,
        None => static_binary::build(guest, "dev")?,
    };
    Ok((postern, tests))
}

/// A kernel to boot, and what it does.
struct Guest<'a> {
    wanted: &'a Wanted,
    image: &'a Image,
    root: &'a Root,
    work: &'a Work,
}

impl Guest<'_> {
    /// Boots it, and has it do its work.
    fn run(&self, jit_harden: u8, limit: Duration) -> Result<Row> {
        let Self { wanted, image, root, work } = self;
        // Others may boot the same kernel at the same time.
        let initramfs = Scratch(image.file(&format!("initramfs.{}", std::process::id())));
        let console = Scratch(image.file(&format!("console.{}", std::process::id())));
        let archive = guest::initramfs(image, root, work)?;
        std::fs::write(&initramfs.0, archive).with_context(|| format!("write {}", initramfs.0.display()))?;
        eprintln!("{wanted}: booting Linux {} ({})", image.kernel, image.release);
        let results =
            qemu::run(image, &initramfs.0, &console.0, limit, |line| eprintln!("{wanted}: {line}"))?;
        let said = std::fs::read(&console.0).with_context(|| format!("read {}", console.0.display()))?;
        let said = String::from_utf8_lossy(&said);
        if results.end != End::Done {
            let lines: Vec<&str> = said.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_OF_CONSOLE)..] {
                eprintln!("{wanted}: console: {line}");
            }
        }
        let faults = console::faults(&said);
        Ok(Row { wanted: wanted.to_string(), kernel: image.kernel.clone(), jit_harden, results, faults })
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

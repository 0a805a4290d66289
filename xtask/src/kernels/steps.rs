//! What guests do: load the programs, run the kernel tests, play a small cluster.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::guest::Step;
use super::{Kernels, subset};
use crate::architecture::Architecture;
use crate::build::{self, Built};
use crate::static_binary;
use crate::test::{self, TestBinary};

/// Loading takes seconds on a real processor, where programs load at all.
const LOAD_SECONDS: u64 = 600;

/// Names of the test binaries.
const KERNEL: &str = "kernel";
const LAB: &str = "lab";

/// What guests with a processor do, one after another.
pub(super) fn of(arguments: &Kernels, guest: Architecture) -> Result<Vec<Step>> {
    let Binaries { postern, kernel, lab } = Binaries::of(arguments, guest)?;
    let load = Step {
        name: "load",
        command: vec![postern.display().to_string(), "load".to_owned()],
        directory: build::workspace(),
        environment: Vec::new(),
        seconds: LOAD_SECONDS,
    };
    let mut steps = vec![load];
    if let Some(kernel) = &kernel {
        let environment = [
            ("POSTERN_CASES", arguments.cases.to_string()),
            ("POSTERN_FUZZ_SECONDS", arguments.fuzz_seconds.to_string()),
        ];
        let tests = (!arguments.every_test).then_some(&subset::KERNEL[..]);
        steps.push(step(arguments, "tests", kernel, (tests, &environment)));
    }
    if let Some(lab) = &lab {
        // One after another: a probe that waits for its answer in vain has so much time and no more.
        let alone = ("RUST_TEST_THREADS", "1".to_owned());
        steps.push(step(arguments, "cluster", lab, (Some(&subset::LAB), std::slice::from_ref(&alone))));
        // Not what a filter names: most of the lab's tests play the same either way.
        if arguments.filter.is_none() {
            let older =
                [alone, ("POSTERN_ATTACH", "clsact".to_owned()), ("POSTERN_SERVICES", "egress".to_owned())];
            steps.push(step(arguments, "cluster-before-6.4", lab, (Some(&subset::LAB_OF_OLDER), &older)));
        }
    }
    Ok(steps)
}

/// One that runs some tests of a binary, or all of them.
fn step(
    arguments: &Kernels,
    name: &'static str,
    binary: &TestBinary,
    (tests, environment): (Option<&[&str]>, &[(&str, String)]),
) -> Step {
    let TestBinary { executable, directory } = binary;
    let mut command = vec![executable.display().to_string()];
    match (&arguments.filter, tests) {
        (Some(filter), _) => command.push(filter.clone()),
        (None, Some(tests)) => command.extend(tests.iter().copied().chain(["--exact"]).map(str::to_owned)),
        (None, None) => {}
    }
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let manifest = ("CARGO_MANIFEST_DIR".to_owned(), directory.display().to_string());
    Step {
        name,
        command,
        directory: directory.clone(),
        environment: environment.chain([manifest]).collect(),
        seconds: arguments.timeout,
    }
}

/// What they run.
struct Binaries {
    postern: PathBuf,
    /// The kernel tests, where any are to run.
    kernel: Option<TestBinary>,
    /// The lab's.
    lab: Option<TestBinary>,
}

impl Binaries {
    /// Those that were named, else built. Those for another processor than this machine's are static: their guests' root has other libraries.
    fn of(arguments: &Kernels, guest: Architecture) -> Result<Self> {
        let is_here = guest == Architecture::HERE;
        let kernel = arguments.tests.clone();
        let kernel =
            kernel.map(|executable| TestBinary { executable, directory: build::workspace().join("agent") });
        if kernel.is_some() || arguments.load {
            let postern = match arguments.postern.clone() {
                Some(postern) => postern,
                None if is_here => build::binary(&["postern"], "postern")?,
                None => static_binary::build(guest, "dev")?,
            };
            return Ok(Self { postern, kernel, lab: None });
        }
        let names = [KERNEL, LAB];
        let messages =
            if is_here { test::build_some(&names)? } else { static_binary::build_tests(guest, &names)? };
        let mut built = Built::read(&messages);
        let postern = || built.binaries.remove("postern").context("cargo built no postern");
        Ok(Self {
            postern: arguments.postern.clone().map_or_else(postern, Ok)?,
            kernel: Some(TestBinary::read(&messages, KERNEL)?),
            lab: Some(TestBinary::read(&messages, LAB)?),
        })
    }
}

//! `cargo xtask test`: formatting, lints, and every test of every crate in one go.
//!
//! Lints and tests of the lab and of the cluster name the same packages to cargo, so that all is compiled once: cargo compiles
//! what they share anew for other sets of packages, which ask for other features.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::architecture::Architecture;
use crate::build::{self, Built, cargo};

/// All packages but the programs, which build for another target.
const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "postern-ebpf"];

/// The package whose tests need a real Kubernetes.
const CLUSTER: &str = "postern-cluster";

/// The package and name of the lab's tests.
const LAB: (&str, &str) = ("postern-lab", "lab");

/// Test counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// What was done, how long it took, and what came of it.
struct Part {
    name: String,
    took: Duration,
    counts: Counts,
    failed: bool,
}

/// A test binary.
struct Suite {
    package: String,
    /// Where cargo runs it.
    directory: PathBuf,
    /// Its name as one of its package's targets.
    name: String,
    executable: PathBuf,
}

/// Runs everything, reports at the end what failed.
pub(crate) fn run(long: bool, filter: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("kernel and lab tests need root; run: sudo env \"PATH=$PATH\" cargo xtask test");
    }
    let mut parts = Vec::new();
    if filter.is_none() {
        parts.push(check(cargo().args(["fmt", "--all", "--check"]), "cargo fmt")?);
        parts.push(lint()?);
        for architecture in Architecture::ALL {
            parts.push(lint_programs(architecture)?);
        }
    }
    let (suites, _) = build_tests(&mut parts)?;
    for suite in suites.iter().filter(|suite| suite.package != CLUSTER) {
        let mut command = suite.command(filter);
        if long {
            command.env("POSTERN_CASES", "10000").env("POSTERN_LONG", "1").env("POSTERN_FUZZ_SECONDS", "600");
        }
        parts.push(test(command, suite.title())?);
        if filter.is_none() && (suite.package.as_str(), suite.name.as_str()) == LAB {
            // As on kernels before 6.4, which have neither netfilter programs nor TCX.
            let mut command = suite.command(Some("services"));
            command.env("POSTERN_SERVICES", "egress").env("POSTERN_ATTACH", "clsact");
            parts.push(test(command, format!("{}, Services at egress", suite.title()))?);
        }
    }
    if filter.is_none() {
        let mut command = cargo();
        command.args(["test", "--doc"]).args(PACKAGES);
        parts.push(test(command, "examples in the documentation".to_owned())?);
    }
    finish(&parts)
}

/// Runs the tests that need a real Kubernetes: they are in a package that the others leave alone.
pub(crate) fn cluster(filter: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root; run: sudo env \"PATH=$PATH\" cargo xtask test --cluster");
    }
    let mut parts = Vec::new();
    if filter.is_none() {
        parts.push(lint()?);
    }
    let (suites, built) = build_tests(&mut parts)?;
    let builder = built.binaries.get(CLUSTER).context("cargo built nothing that builds Kubernetes")?;
    parts.push(check(Command::new(builder).arg("build"), "building Kubernetes")?);
    for suite in suites.iter().filter(|suite| suite.package == CLUSTER) {
        let mut command = suite.command(filter);
        // Each is a cluster: more at once only wait for each other.
        command.env("RUST_TEST_THREADS", "2");
        parts.push(test(command, suite.title())?);
    }
    finish(&parts)
}

fn lint() -> Result<Part> {
    let mut command = cargo();
    command.arg("clippy").args(PACKAGES).args(["--all-targets", "--", "-D", "warnings"]);
    check(&mut command, "cargo clippy")
}

/// The programs' own, as loaded on each processor: they build for another target, with flags of `agent/build.rs` that matter to lints.
fn lint_programs(architecture: Architecture) -> Result<Part> {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", architecture.rust()),
        "--check-cfg=cfg(bpf_target_arch, values(any()))".to_owned(),
    ];
    let mut command = cargo();
    command.args(["clippy", "--locked", "--package=postern-ebpf", "--lib", "--bins"]);
    command.args(["-Z", "build-std=core", "--target=bpfel-unknown-none"]);
    // A folder each: other flags would have all compiled anew.
    let folder = build::workspace().join("target/lint-programs").join(architecture.rust());
    command.arg("--target-dir").arg(folder);
    command.args(["--", "-D", "warnings"]);
    // As in the build: `-Z build-std` on the pinned stable toolchain.
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    check(&mut command, &format!("cargo clippy of the programs, {}", architecture.rust()))
}

/// Says what took how long and what failed.
fn finish(parts: &[Part]) -> Result<()> {
    let mut total = Counts::default();
    println!();
    for Part { name, took, counts, failed } in parts {
        let Counts { passed, failed: failures } = counts;
        let tests = if passed + failures == 0 {
            String::new()
        } else {
            format!("{passed} passed, {failures} failed")
        };
        let mark = if *failed { "FAILED" } else { "" };
        println!("{:>6.1} s  {name:<40} {tests:<24} {mark}", took.as_secs_f64());
        total.passed += passed;
        total.failed += failures;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    let mut failures: Vec<&str> = parts.iter().filter(|it| it.failed).map(|it| it.name.as_str()).collect();
    if total.passed + total.failed == 0 {
        failures.push("no test ran");
    }
    if failures.is_empty() { Ok(()) } else { bail!("failed: {}", failures.join(", ")) }
}

fn check(command: &mut Command, name: &str) -> Result<Part> {
    println!("xtask: {name}");
    let start = Instant::now();
    let failed = !command.status().with_context(|| format!("run {name}"))?.success();
    Ok(Part { name: name.to_owned(), took: start.elapsed(), counts: Counts::default(), failed })
}

/// A test binary that others than `cargo xtask test` run.
#[derive(Debug)]
pub(crate) struct TestBinary {
    pub(crate) executable: PathBuf,
    /// Where cargo runs it.
    pub(crate) directory: PathBuf,
}

impl TestBinary {
    /// Finds one by its name in what cargo says.
    pub(crate) fn read(messages: &[Value], name: &str) -> Result<Self> {
        let suite = messages.iter().filter_map(Suite::read).find(|suite| suite.name == name);
        let Suite { executable, directory, .. } =
            suite.with_context(|| format!("cargo built no {name} tests"))?;
        Ok(Self { executable, directory })
    }
}

/// Builds the tests with these names as `cargo xtask test` does, and the binaries that they run. Returns what cargo says.
pub(crate) fn build_some(names: &[&str]) -> Result<Vec<Value>> {
    let mut cargo = cargo();
    cargo.args(["test", "--no-run"]).args(PACKAGES).args(names.iter().flat_map(|name| ["--test", name]));
    build::messages(&mut cargo)
}

/// Builds every test binary, and the binaries that they run.
fn build_tests(parts: &mut Vec<Part>) -> Result<(Vec<Suite>, Built)> {
    println!("xtask: building the tests");
    let start = Instant::now();
    let messages = build::messages(cargo().args(["test", "--no-run"]).args(PACKAGES))?;
    let name = "building the tests".to_owned();
    parts.push(Part { name, took: start.elapsed(), counts: Counts::default(), failed: false });
    Ok((messages.iter().filter_map(Suite::read).collect(), Built::read(&messages)))
}

impl Suite {
    /// Reads one of cargo's messages: those about test binaries say so in their profile.
    fn read(message: &Value) -> Option<Self> {
        if message["profile"]["test"] != true {
            return None;
        }
        let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
        // path+file:///.../agent#postern@0.1.0, or path+file:///.../xtask#0.1.0 where the folder has the package's name.
        let (path, name) = message["package_id"].as_str()?.rsplit_once('#')?;
        let package = name.split_once('@').map_or_else(|| path.rsplit('/').next(), |(name, _)| Some(name))?;
        Some(Self {
            package: package.to_owned(),
            directory,
            name: message["target"]["name"].as_str()?.to_owned(),
            executable: message["executable"].as_str()?.into(),
        })
    }

    fn title(&self) -> String {
        format!("{} {}", self.package, self.name)
    }

    /// Runs it as cargo does.
    fn command(&self, filter: Option<&str>) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory).args(filter);
        command
    }
}

fn test(mut command: Command, name: String) -> Result<Part> {
    println!("xtask: {name}");
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("run {name}"))?;
    let output = child.stdout.take().context("a test has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of a test")?;
        println!("{line}");
        counts.add(&line);
    }
    let failed = !child.wait().with_context(|| format!("wait for {name}"))?.success();
    Ok(Part { name, took: start.elapsed(), counts, failed })
}

impl Counts {
    /// Reads `test result: ok. 5 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else { return };
        let Some((_, counts)) = result.split_once(". ") else { return };
        for count in counts.split(';') {
            match count.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_add_up_over_test_binaries() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
        );
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("test something_passed ... ok");
        assert_eq!(counts, Counts { passed: 8, failed: 2 });
    }
}

//! `cargo xtask test`: formatting, lints, and every test of every crate in one go.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::cargo;

/// Test counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs everything, reports at the end what failed.
pub(crate) fn run(long: bool, filter: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("kernel and lab tests need root; run: sudo env \"PATH=$PATH\" cargo xtask test");
    }
    let mut failures = Vec::new();
    if filter.is_none() {
        check(cargo().args(["fmt", "--all", "--check"]), "cargo fmt", &mut failures)?;
        let lints = ["clippy", "--all-targets", "--", "-D", "warnings"];
        check(cargo().args(lints), "cargo clippy", &mut failures)?;
    }
    // This builds the binaries too, those that the lab's tests run: each has integration tests of its own.
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    if long {
        command.env("POSTERN_CASES", "10000").env("POSTERN_LONG", "1").env("POSTERN_FUZZ_SECONDS", "600");
    }
    finish(command, filter, failures)
}

/// Runs the tests that need a real Kubernetes: they are in a package that the others leave alone.
pub(crate) fn cluster(filter: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root; run: sudo env \"PATH=$PATH\" cargo xtask test --cluster");
    }
    let mut failures = Vec::new();
    if filter.is_none() {
        let lints = ["clippy", "--package", "postern-cluster", "--all-targets", "--", "-D", "warnings"];
        check(cargo().args(lints), "cargo clippy", &mut failures)?;
    }
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--package", "postern-cluster"]);
    // Each is a cluster: more at once only wait for each other.
    command.env("RUST_TEST_THREADS", "2");
    finish(command, filter, failures)
}

fn finish(mut command: Command, filter: Option<&str>, mut failures: Vec<&'static str>) -> Result<()> {
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    let counts = test(command, &mut failures)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.passed + counts.failed == 0 {
        failures.push("no test ran");
    }
    if failures.is_empty() { Ok(()) } else { bail!("failed: {}", failures.join(", ")) }
}

fn check(command: &mut Command, name: &'static str, failures: &mut Vec<&'static str>) -> Result<()> {
    println!("xtask: {name}");
    if !command.status().with_context(|| format!("run {name}"))?.success() {
        failures.push(name);
    }
    Ok(())
}

fn test(mut command: Command, failures: &mut Vec<&'static str>) -> Result<Counts> {
    println!("xtask: cargo test");
    let mut child = command.stdout(Stdio::piped()).spawn().context("run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        println!("{line}");
        counts.add(&line);
    }
    if !child.wait().context("wait for cargo test")?.success() {
        failures.push("cargo test");
    }
    Ok(counts)
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

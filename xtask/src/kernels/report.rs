//! The table of what came of each kernel.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::console::{End, Failure, Results, StepResult};

/// What came of a kernel.
#[derive(Debug)]
pub(super) struct Row {
    /// As it was asked for.
    pub(super) wanted: String,
    /// Its version.
    pub(super) kernel: String,
    /// `net.core.bpf_jit_harden`.
    pub(super) jit_harden: u8,
    /// What the guest said.
    pub(super) results: Results,
    /// Lines of the kernel's own that speak of a fault.
    pub(super) faults: Vec<String>,
}

impl Row {
    /// Whether all steps ran, and well.
    pub(super) fn is_good(&self) -> bool {
        self.results.end == End::Done
            && self.results.steps.iter().all(StepResult::is_good)
            && self.faults.is_empty()
    }

    fn step(&self, name: &str) -> String {
        let Some(step) = self.results.steps.iter().find(|it| it.name == name) else {
            return "not run".to_owned();
        };
        let seconds = step.took.as_secs();
        let counts = match (step.passed.len(), step.failed.len()) {
            (0, 0) => String::new(),
            (passed, 0) => format!(", {passed} passed"),
            (passed, failed) => format!(", {passed} passed, {failed} failed"),
        };
        let word = match step.status {
            Some(0) => "ok",
            Some(124 | 137) => "TIMEOUT",
            Some(_) => "FAILED",
            None if self.results.end == End::TimedOut => "TIMEOUT",
            None => "DIED",
        };
        format!("{word}, {seconds} s{counts}")
    }
}

/// The table, and below it what failed.
pub(super) fn table(rows: &[Row], steps: &[&str]) -> String {
    let mut cells = vec![["KERNEL", "VERSION", "JIT HARDEN", "BOOT"].map(str::to_owned).to_vec()];
    cells[0].extend(steps.iter().map(|it| it.to_uppercase()));
    for row in rows {
        let boot = row.results.boot.map_or("FAILED".to_owned(), |it: Duration| format!("{} s", it.as_secs()));
        let mut line = vec![row.wanted.clone(), row.kernel.clone(), row.jit_harden.to_string(), boot];
        line.extend(steps.iter().map(|it| row.step(it)));
        cells.push(line);
    }
    let columns = cells[0].len();
    let width = |column: usize| cells.iter().map(|line| line[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &cells {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    for row in rows {
        for step in row.results.steps.iter().filter(|it| !it.is_good()) {
            let _ = writeln!(text, "\n{}: {} failed", row.wanted, step.name);
            for Failure { test, reason } in &step.failed {
                let _ = writeln!(text, "  {test}: {reason}");
            }
            // What fails without a test that did speaks for itself.
            let last = if step.failed.is_empty() { &step.last[..] } else { &[] };
            for line in last {
                let _ = writeln!(text, "  {line}");
            }
        }
        if !row.faults.is_empty() {
            let _ = writeln!(text, "\n{}: the kernel says\n  {}", row.wanted, row.faults.join("\n  "));
        }
    }
    text
}

/// The same for programs.
pub(super) fn json(rows: &[Row]) -> Value {
    let failure = |it: &Failure| json!({ "test": it.test, "reason": it.reason });
    let step = |it: &StepResult| {
        json!({
            "name": it.name, "ok": it.is_good(), "status": it.status, "seconds": it.took.as_secs_f64(),
            "passed": it.passed, "failed": it.failed.iter().map(failure).collect::<Vec<_>>(), "last": if it.is_good() { &[][..] } else { &it.last[..] },
        })
    };
    let row = |it: &Row| {
        json!({
            "kernel": it.wanted, "version": it.kernel, "jitHarden": it.jit_harden, "ok": it.is_good(),
            "bootSeconds": it.results.boot.map(|it| it.as_secs_f64()),
            "steps": it.results.steps.iter().map(step).collect::<Vec<_>>(), "faults": it.faults,
        })
    };
    Value::from(rows.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{End, Failure, Results, Row, StepResult, json, table};

    fn step(name: &str, status: Option<i32>, passed: &[&str], failed: &[&str]) -> StepResult {
        let failure = |test: &&str| Failure { test: (*test).to_owned(), reason: "why".to_owned() };
        StepResult {
            name: name.to_owned(),
            took: Duration::from_secs(7),
            status,
            passed: passed.iter().map(|&it| it.to_owned()).collect(),
            failed: failed.iter().map(failure).collect(),
            last: vec!["last words".to_owned()],
        }
    }

    fn row(wanted: &str, end: End, steps: Vec<StepResult>) -> Row {
        let results = Results { boot: Some(Duration::from_secs(9)), steps, end };
        Row {
            wanted: wanted.to_owned(),
            kernel: "6.1.192".to_owned(),
            jit_harden: 0,
            results,
            faults: Vec::new(),
        }
    }

    #[test]
    fn a_table_says_what_failed_and_why() {
        let rows = [
            row("6.1", End::Done, vec![step("load", Some(1), &[], &[])]),
            row(
                "6.12",
                End::Done,
                vec![step("load", Some(0), &[], &[]), step("tests", Some(101), &["a"], &["b"])],
            ),
            row(
                "7.3",
                End::TimedOut,
                vec![step("load", Some(0), &[], &[]), step("tests", None, &["a"], &[])],
            ),
        ];
        assert_eq!(rows.each_ref().map(Row::is_good), [false; 3]);
        let expected = "\
KERNEL  VERSION  JIT HARDEN  BOOT  LOAD         TESTS
6.1     6.1.192  0           9 s   FAILED, 7 s  not run
6.12    6.1.192  0           9 s   ok, 7 s      FAILED, 7 s, 1 passed, 1 failed
7.3     6.1.192  0           9 s   ok, 7 s      TIMEOUT, 7 s, 1 passed

6.1: load failed
  last words

6.12: tests failed
  b: why

7.3: tests failed
  last words
";
        assert_eq!(table(&rows, &["load", "tests"]), expected);
    }

    #[test]
    fn json_has_the_same() {
        let rows = [row("6.1", End::Done, vec![step("load", Some(0), &[], &[])])];
        let json = json(&rows);
        assert_eq!(json[0]["ok"], true);
        assert_eq!(json[0]["steps"][0]["seconds"], 7.0);
    }

    #[test]
    fn a_kernel_that_speaks_of_a_fault_fails() {
        let mut row = row("6.1", End::Done, vec![step("load", Some(0), &[], &[])]);
        assert!(row.is_good());
        row.faults.push("WARNING: at net/core".to_owned());
        assert!(!row.is_good());
        assert!(table(&[row], &["load"]).contains("the kernel says\n  WARNING: at net/core"));
    }
}

//! What a guest says of its work, line by line: where steps begin and end, and what libtest prints between.

use std::time::{Duration, Instant};

/// Lines of the guest's own begin so (`run.sh`).
const MARK: &str = "@@ ";

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StepResult {
    pub(super) name: String,
    pub(super) took: Duration,
    /// None when the guest died in it, or its time was over. 124 and 137 are those of timeout(1).
    pub(super) status: Option<i32>,
    /// Tests that passed, as far as it ran any.
    pub(super) passed: Vec<String>,
    /// Tests that failed.
    pub(super) failed: Vec<Failure>,
    /// The last lines that it said.
    pub(super) last: Vec<String>,
}

impl StepResult {
    /// Whether it ran to its end, and well.
    pub(super) fn is_good(&self) -> bool {
        self.status == Some(0)
    }
}

/// A test that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) test: String,
    /// What it panicked with, in its first line. Libtest shows it when all tests are done.
    pub(super) reason: String,
}

/// What came of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    /// From power on to the first word.
    pub(super) boot: Option<Duration>,
    pub(super) steps: Vec<StepResult>,
    /// How it ended.
    pub(super) end: End,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// It came to the end of its work.
    Done,
    /// It took too long.
    TimedOut,
    /// Without a word: its kernel panicked, or QEMU was killed.
    #[default]
    Died,
}

/// Lines of a step that are kept, to say why it failed.
const KEPT: usize = 40;

/// Reads a guest's lines.
#[derive(Debug)]
pub(super) struct Reader {
    powered_on: Instant,
    started: Instant,
    results: Results,
    /// The test whose output libtest shows, and whether the next line says why it panicked.
    shown: Option<(String, bool)>,
}

impl Reader {
    /// For a guest that is powered on now.
    pub(super) fn new(now: Instant) -> Self {
        Self { powered_on: now, started: now, results: Results::default(), shown: None }
    }

    /// Takes a line that came now.
    pub(super) fn line(&mut self, line: &str, now: Instant) {
        let line = line.trim_end();
        if let Some(mark) = line.strip_prefix(MARK) {
            self.mark(mark, now);
        } else {
            self.output(line);
        }
    }

    /// Takes a line that a step printed.
    fn output(&mut self, line: &str) {
        let shown = self.shown.take();
        let Some(step) = self.running() else { return };
        if step.last.len() == KEPT {
            step.last.remove(0);
        }
        step.last.push(line.to_owned());
        match test_result(line) {
            Some((test, true)) => step.passed.push(test.to_owned()),
            Some((test, false)) => {
                step.failed.push(Failure { test: test.to_owned(), reason: String::new() });
            }
            None => {}
        }
        self.shown = match (shown_test(line), shown) {
            (Some(test), _) => Some((test.to_owned(), false)),
            (None, Some((test, true))) => {
                let failure = step.failed.iter_mut().find(|it| it.test == test && it.reason.is_empty());
                if let Some(failure) = failure {
                    line.clone_into(&mut failure.reason);
                }
                None
            }
            (None, Some((test, false))) => Some((test, line.contains(" panicked at "))),
            (None, None) => None,
        };
    }

    /// Its time is over.
    pub(super) fn timed_out(&mut self) {
        self.results.end = End::TimedOut;
    }

    /// What came of it, at its end.
    pub(super) fn finish(mut self, now: Instant) -> Results {
        let took = now.duration_since(self.started);
        if let Some(step) = self.running() {
            step.took = took;
        }
        self.results
    }

    fn mark(&mut self, mark: &str, now: Instant) {
        let mut words = mark.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("booted"), ..) => self.results.boot = Some(now.duration_since(self.powered_on)),
            (Some("start"), Some(name), _) => {
                self.started = now;
                self.results.steps.push(StepResult {
                    name: name.to_owned(),
                    took: Duration::ZERO,
                    status: None,
                    passed: Vec::new(),
                    failed: Vec::new(),
                    last: Vec::new(),
                });
            }
            (Some("exit"), _, Some(status)) => {
                let took = now.duration_since(self.started);
                if let Some(step) = self.running() {
                    step.took = took;
                    step.status = status.parse().ok();
                }
            }
            (Some("end"), ..) => self.results.end = End::Done,
            _ => {}
        }
    }

    fn running(&mut self) -> Option<&mut StepResult> {
        self.results.steps.last_mut().filter(|step| step.status.is_none())
    }
}

/// Reads libtest's `test NAME ... ok`; a test that should panic has a note behind its name.
fn test_result(line: &str) -> Option<(&str, bool)> {
    let (test, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let test = test.split(' ').next()?;
    match result {
        "ok" => Some((test, true)),
        "FAILED" => Some((test, false)),
        _ => None,
    }
}

/// Reads libtest's `---- NAME stdout ----`, behind which a failed test's output stands.
fn shown_test(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// What a kernel says when something is wrong with itself. That a processor was busy for long is none of it: under
/// emulation, on a busy machine, they are.
const FAULTS: [&str; 6] =
    ["BUG:", "WARNING:", "Oops", "Kernel panic", "general protection fault", "unregister_netdevice: waiting"];
const NO_FAULTS: [&str; 2] = ["soft lockup", "rcu_"];

/// Lines of a kernel's own that speak of a fault.
pub(super) fn faults(console: &str) -> Vec<String> {
    let is_fault = |line: &&str| {
        FAULTS.iter().any(|it| line.contains(it)) && !NO_FAULTS.iter().any(|it| line.contains(it))
    };
    console.lines().map(str::trim_end).filter(is_fault).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{End, Failure, Reader, Results, faults};

    /// A line a second.
    fn read(lines: &str) -> Results {
        let start = Instant::now();
        let mut reader = Reader::new(start);
        let mut now = start;
        for line in lines.lines() {
            now += Duration::from_secs(1);
            reader.line(line, now);
        }
        reader.finish(now + Duration::from_secs(10))
    }

    #[test]
    fn steps_have_a_status_a_time_and_their_tests() {
        let results = read(
            "@@ booted 6.1.0-57-amd64\r\n@@ start load\r\nall well\r\n@@ exit load 0\r\n@@ start tests\n\
             test frames::reads ... ok\ntest wire::it_panics - should panic ... ok\ntest room::fits ... FAILED\n\
             test slow has been running for over 60 seconds\n\nfailures:\n\n---- room::fits stdout ----\n\n\
             thread 'room::fits' (12) panicked at agent/tests/kernel/room.rs:1:2:\nno room\nat all\n@@ exit tests 101\n@@ end\n",
        );
        assert_eq!(results.boot, Some(Duration::from_secs(1)));
        assert_eq!(results.end, End::Done);
        let [load, tests] = &results.steps[..] else { panic!("{results:?}") };
        assert!(load.is_good());
        assert_eq!((load.took, &load.last[..]), (Duration::from_secs(2), &["all well".to_owned()][..]));
        assert_eq!(tests.status, Some(101));
        assert_eq!(tests.passed, ["frames::reads", "wire::it_panics"]);
        assert_eq!(tests.failed, [Failure { test: "room::fits".to_owned(), reason: "no room".to_owned() }]);
    }

    #[test]
    fn a_guest_that_dies_leaves_a_step_without_a_status() {
        let results = read("@@ booted x\n@@ start load\nbusy\n");
        assert_eq!(results.end, End::Died);
        assert!(!results.steps[0].is_good());
        assert_eq!(results.steps[0].took, Duration::from_secs(11));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let lines: Vec<String> = (0..100).map(|it| format!("line {it}\n")).collect();
        let results = read(&format!("@@ start load\n{}@@ exit load 1\n", lines.concat()));
        assert_eq!(results.steps[0].last.len(), 40);
        assert_eq!(results.steps[0].last[39], "line 99");
    }

    #[test]
    fn faults_are_what_the_kernel_says_of_itself() {
        let console = "[    0.1] Unstable clock detected\r\n[    9.0] WARNING: CPU: 0 PID: 1 at net/core/skbuff.c:1\r\n\
                       [   10.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\n";
        assert_eq!(faults(console), ["[    9.0] WARNING: CPU: 0 PID: 1 at net/core/skbuff.c:1"]);
    }
}

//! What a process takes of the processors.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// `USER_HZ`, the unit of times in `/proc`: 100 wherever Postern runs, whatever the kernel's own clock.
const TICKS: u32 = 100;

/// A span in which a process is looked at.
pub(super) struct Meter {
    pid: u32,
    begun: Instant,
    before: Duration,
}

impl Meter {
    /// The span begins.
    pub(super) fn start(pid: u32) -> Result<Self> {
        Ok(Self { pid, begun: Instant::now(), before: time(pid)? })
    }

    /// What the process has taken since, in percent of one core.
    pub(super) fn percent(&self) -> Result<f64> {
        let taken =
            time(self.pid)?.checked_sub(self.before).context("a process took less time than before")?;
        Ok(100.0 * taken.as_secs_f64() / self.begun.elapsed().as_secs_f64())
    }
}

/// User and system time that all threads of a process have taken so far, those that ended included.
fn time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&text).with_context(|| format!("utime and stime in {path}: {text}"))
}

fn parse(stat: &str) -> Option<Duration> {
    // The program's name may hold spaces and brackets; behind the last bracket is field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(14 - 3);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Duration::from_secs(1) * (user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 5 6 7 8 150 25 9 9 20 0 4 0 100 1000 10";
        assert_eq!(parse(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse("42 (cut off) S 1 42"), None);
    }

    #[test]
    fn work_is_seen() {
        let meter = Meter::start(std::process::id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Busy, for as long as it takes on a busy machine.
        while meter.percent().unwrap() < 1.0 {
            assert!(Instant::now() < deadline, "30 s of work, and no time taken");
        }
    }
}

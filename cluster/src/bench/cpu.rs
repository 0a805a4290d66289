//! What a process takes of the processors.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// `USER_HZ`, the unit of times in `/proc`: 100 wherever Postern runs, whatever the kernel's own clock.
const TICKS: u32 = 100;

/// User and system time that all threads of a process have taken so far, those that ended included.
pub(super) fn time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&text).with_context(|| format!("utime and stime in {path}: {text}"))
}

/// Part of one core, in percent.
pub(super) fn percent(taken: Duration, of: Duration) -> f64 {
    100.0 * taken.as_secs_f64() / of.as_secs_f64()
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
        let (pid, before) = (std::process::id(), time(std::process::id()).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        // Busy, for as long as it takes on a busy machine.
        while time(pid).unwrap() < before + Duration::from_millis(50) {
            assert!(std::time::Instant::now() < deadline, "30 s of work, and no time taken");
        }
    }
}

//! When a change took effect on the wire, from a watch's samples.

use crate::prober::Sample;

/// Milliseconds from `arrived_ns` until every later attempt had the outcome `passed`. `None`: the last attempt did not.
///
/// As fine as the attempts are frequent: the first attempt that has the new outcome is what counts.
#[must_use]
pub fn took_effect_ms(samples: &[Sample], arrived_ns: u64, passed: bool) -> Option<f64> {
    let old = samples.iter().rposition(|sample| sample.passed != passed);
    let first = samples.get(old.map_or(0, |old| old + 1))?;
    let micros = first.sent_ns.saturating_sub(arrived_ns) / 1_000;
    Some(f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::took_effect_ms;
    use crate::prober::Sample;

    fn samples(passed: &[bool]) -> Vec<Sample> {
        (0_u64..)
            .zip(passed)
            .map(|(ms, passed)| Sample { sent_ns: ms * 1_000_000, passed: *passed })
            .collect()
    }

    #[test]
    fn the_first_attempt_of_the_last_run_counts() {
        let flapping = samples(&[true, true, false, true, false, false]);
        assert_eq!(took_effect_ms(&flapping, 1_500_000, false), Some(2.5));
    }

    #[test]
    fn an_outcome_that_never_came_has_no_time() {
        assert_eq!(took_effect_ms(&samples(&[true, false, true]), 0, false), None);
        assert_eq!(took_effect_ms(&[], 0, false), None);
    }
}

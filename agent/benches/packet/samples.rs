//! Medians.

use serde::Serialize;

/// Nanoseconds per packet, of all rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Half of the rounds were below.
    pub(super) median: f64,
    /// A quarter of the rounds were below.
    pub(super) lower: f64,
    /// A quarter of the rounds were above.
    pub(super) upper: f64,
}

impl Summary {
    /// Of these samples; zeroes where there are none.
    pub(super) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self { median: quantile(&samples, 2), lower: quantile(&samples, 1), upper: quantile(&samples, 3) }
    }
}

/// What so many quarters of the samples are below, between two of them if need be.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let (below, rest) = (last * quarters / 4, last * quarters % 4);
    let above = (below + 1).min(last);
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    sorted[below] + (sorted[above] - sorted[below]) * share
}

//! Medians: a machine that does something else for a moment spoils some slices, not the figure.

/// Half of the width of a 95 % interval of the normal distribution.
const Z: f64 = 1.96;

/// A median, and between which values the true one is, in 95 of 100 runs (as far as slices do not depend on each other).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The middle value; the mean of the two in the middle where their number is even. Of nothing: not a number.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => f64::NAN,
        values if values.len() % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        values => values[middle],
    }
}

/// The median with its interval, from the order of the values alone: no distribution is assumed.
pub(super) fn estimate(mut values: Vec<f64>) -> Estimate {
    let median = median(&mut values);
    let Some(last) = values.len().checked_sub(1) else {
        return Estimate { median, low: f64::NAN, high: f64::NAN };
    };
    // Ranks are small numbers: nothing is lost.
    let count = f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
    let rank_below = ((count - Z * count.sqrt()) / 2.0).floor();
    let below =
        (0..last / 2).rev().find(|rank| f64::from(u32::try_from(*rank).unwrap_or(u32::MAX)) < rank_below);
    let below = below.unwrap_or(0);
    Estimate { median, low: values[below], high: values[last - below] }
}

#[cfg(test)]
mod tests {
    use super::{Estimate, estimate, median};

    #[test]
    fn the_median_is_in_the_middle() {
        for (mut values, expected) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 2.0], 2.5)] {
            assert!((median(&mut values) - expected).abs() < 1e-9);
        }
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn one_value_is_its_own_interval() {
        assert_eq!(estimate(vec![7.0]), Estimate { median: 7.0, low: 7.0, high: 7.0 });
    }

    #[test]
    fn the_interval_of_a_hundred_values_is_that_of_the_table() {
        // Ranks 40 and 61 of 100 are the textbook's interval for a median.
        let estimate = estimate((1..=100).map(f64::from).collect());
        assert_eq!(estimate, Estimate { median: 50.5, low: 40.0, high: 61.0 });
    }
}

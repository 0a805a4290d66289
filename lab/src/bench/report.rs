//! What came out: medians, and ratios to no policy of the same round.

use std::collections::BTreeMap;

use serde::Serialize;

use super::processor::Processors;
use super::rounds::Samples;
use super::site::Site;
use super::statistics::{Estimate, estimate};
use super::workload::Workload;

/// Figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// What client and server ran on.
    pub processors: Processors,
    /// How often everything was measured.
    pub rounds: u32,
    /// Rules of the policy in every scenario that does not name another number.
    pub rules: u32,
    /// What `iptables --version` says.
    pub iptables: Option<String>,
    /// In the order of the table.
    pub scenarios: Vec<ScenarioReport>,
    /// By how much the ratios of the two scenarios without policy differ: less than this is no difference.
    pub noise_floor: BTreeMap<Workload, f64>,
    /// What this machine cannot have.
    pub skipped: Vec<Skipped>,
}

/// Figures of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub scenario: String,
    /// What was measured.
    pub figures: BTreeMap<Workload, Figure>,
}

/// One figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Median over the rounds, in the workload's unit.
    pub median: f64,
    /// Median of the ratios to no policy, each within its round.
    pub ratio: f64,
    /// Lower end of the ratio's 95 % interval.
    pub ratio_low: f64,
    /// Upper end of it.
    pub ratio_high: f64,
    /// Median of the differences to no policy, each within its round.
    pub added: f64,
}

/// A scenario that this machine cannot have.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// The scenario.
    pub scenario: String,
    /// Why.
    pub reason: String,
}

/// Sums up: one list of figures per site.
pub(super) fn scenarios(sites: &[Site], samples: &Samples) -> Vec<ScenarioReport> {
    let mut reports: Vec<ScenarioReport> = sites
        .iter()
        .map(|site| ScenarioReport { scenario: site.enforcer.to_string(), figures: BTreeMap::new() })
        .collect();
    for (workload, of_sites) in Workload::ALL.into_iter().zip(&samples.of) {
        let open: Vec<&[f64]> = sites
            .iter()
            .zip(of_sites)
            .filter(|(site, _)| site.enforcer.is_nobody())
            .map(|(_, rounds)| &**rounds)
            .collect();
        for (report, rounds) in reports.iter_mut().zip(of_sites) {
            report.figures.insert(workload, figure(rounds, &open));
        }
    }
    reports
}

fn figure(rounds: &[f64], open: &[&[f64]]) -> Figure {
    let scenarios = f64::from(u32::try_from(open.len()).unwrap_or(u32::MAX));
    let no_policy = |round: usize| open.iter().map(|rounds| rounds[round]).sum::<f64>() / scenarios;
    let each = |compare: fn(f64, f64) -> f64| {
        estimate(rounds.iter().enumerate().map(|(round, value)| compare(*value, no_policy(round))).collect())
    };
    let Estimate { median: ratio, low, high } = each(|value, open| value / open);
    Figure {
        median: estimate(rounds.to_vec()).median,
        ratio,
        ratio_low: low,
        ratio_high: high,
        added: each(|value, open| value - open).median,
    }
}

/// By how much equals differ.
pub(super) fn noise_floor(sites: &[Site], reports: &[ScenarioReport]) -> BTreeMap<Workload, f64> {
    let floor = |workload: Workload| {
        let open = sites.iter().zip(reports).filter(|(site, _)| site.enforcer.is_nobody());
        let ratios = open.filter_map(|(_, report)| Some(report.figures.get(&workload)?.ratio));
        let (low, high) =
            ratios.fold((f64::MAX, f64::MIN), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        (workload, high - low)
    };
    Workload::ALL.map(floor).into()
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round, for everyone.
        let (rounds, open) = ([11.0, 22.0, 11.0], [10.0, 20.0, 10.0]);
        let figure = figure(&rounds, &[&open, &open]);
        assert!((figure.ratio - 1.1).abs() < 1e-9 && (figure.ratio_high - 1.1).abs() < 1e-9, "{figure:?}");
        assert!((figure.median - 11.0).abs() < 1e-9 && (figure.added - 1.0).abs() < 1e-9, "{figure:?}");
    }
}

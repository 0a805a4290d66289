//! The report as a table for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use postern_lab::bench::{Figure, Processors, Report, Workload};

const HEADER: [&str; 6] = [
    "scenario",
    "request-response",
    "CPU per UDP packet",
    "connect, accept, close",
    "stream",
    "stream without GSO",
];

/// The report, with what is needed to read it.
pub(super) fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(HEADER);
    for scenario in &report.scenarios {
        let figures = scenario.figures.iter().map(|(workload, figure)| cell(*workload, figure));
        table.add_row([scenario.scenario.clone()].into_iter().chain(figures));
    }
    let floor = report.noise_floor.values().map(|floor| format!("{floor:.3}"));
    table.add_row(["noise floor".to_owned()].into_iter().chain(floor));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n\n");
    let Processors { client, server, real_time } = report.processors;
    let priority =
        if real_time { ", at real-time priority" } else { ", without real-time priority (chrt refused)" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "Medians of {} rounds; ratios to no policy in the same round, ± half of their 95 % interval. Noise floor: the \
         difference between the two ratios of no policy. Processors change their speed between rounds: compare ratios, not \
         medians.\n\
         Postern and the sets hold {} rules; the linear ones as many as their names say, the matching one last.\n\
         Kernel {}; client on processor {client}, server on {server}{priority}; {}.",
        report.rounds,
        report.rules,
        report.kernel,
        report.iptables.as_deref().unwrap_or("no iptables")
    );
    for skipped in &report.skipped {
        let _ = writeln!(text, "Not to be had on this machine: {}: {}", skipped.scenario, skipped.reason);
    }
    text
}

fn cell(workload: Workload, figure: &Figure) -> String {
    let half = (figure.ratio_high - figure.ratio_low) / 2.0;
    let ratio = format!("{:.3} ±{half:.3}", figure.ratio);
    match workload {
        Workload::TcpLatency => format!("{:.2} µs  {ratio}", figure.median / 1e3),
        Workload::UdpCpu => format!("{:.0} ns  {:+.0} ns  {ratio}", figure.median, figure.added),
        Workload::Connection => {
            format!("{:.1} µs ({:.0}/s)  {ratio}", figure.median / 1e3, 1e9 / figure.median)
        }
        Workload::Throughput | Workload::ThroughputWithoutGso => {
            format!("{:.2} Gbit/s  {ratio}", figure.median / 1e9)
        }
    }
}

//! Tables for people, JSON for programs.

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::cells::Cell;
use super::frames::Family;
use super::rig::Program;
use super::rounds::Subject;
use super::samples::Summary;
use super::sets::Dimension;
use super::targets::{self, GROWTH};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    floors: Vec<Floor>,
    packets: Vec<Row>,
}

/// A floor program.
#[derive(Debug, Serialize)]
struct Floor {
    program: &'static str,
    family: Family,
    /// How many flows the packets are of.
    flows: u32,
    nanoseconds: Summary,
}

/// A kind of packet, with policy sets from small to large.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(skip)]
    cell: Cell,
    packet: String,
    sets: Dimension,
    figures: Vec<Figure>,
    /// Nanoseconds.
    target: Option<f64>,
    /// By how much the largest policy set costs more than the smallest; 0.1 is a tenth.
    growth: Option<f64>,
    growth_target: Option<f64>,
}

/// A kind of packet with one policy set.
#[derive(Debug, Serialize)]
struct Figure {
    size: u32,
    nanoseconds: Summary,
}

impl Row {
    fn misses_target(&self) -> bool {
        self.figures.iter().any(|figure| self.target.is_some_and(|target| figure.nanoseconds.median > target))
    }

    fn misses_growth(&self) -> bool {
        self.growth.zip(self.growth_target).is_some_and(|(growth, target)| growth > target)
    }
}

impl Report {
    /// Compares what was measured with what it should be.
    pub(super) fn new(measured: &[(Subject, Summary)]) -> Self {
        let mut floors = Vec::new();
        let mut packets: Vec<Row> = Vec::new();
        for (subject, nanoseconds) in measured {
            let nanoseconds = *nanoseconds;
            match *subject {
                Subject::Floor(program, family, flows) => {
                    floors.push(Floor { program: title(program), family, flows, nanoseconds });
                }
                Subject::Cell(set, cell) => {
                    let figure = Figure { size: set.size, nanoseconds };
                    let known = |row: &&mut Row| row.sets == set.dimension && row.cell == cell;
                    if let Some(row) = packets.iter_mut().find(known) {
                        row.figures.push(figure);
                        continue;
                    }
                    packets.push(Row {
                        cell,
                        packet: cell.to_string(),
                        sets: set.dimension,
                        figures: vec![figure],
                        target: targets::target(cell, measured),
                        growth: None,
                        growth_target: (!cell.is_scattered()).then_some(GROWTH),
                    });
                }
            }
        }
        for row in &mut packets {
            // Where there is but one size, nothing can grow.
            if let [smallest, .., largest] = &row.figures[..] {
                row.growth = Some(largest.nanoseconds.median / smallest.nanoseconds.median - 1.0);
            }
        }
        Self { floors, packets }
    }

    /// How many rows miss a target.
    pub(super) fn missed(&self) -> usize {
        self.packets.iter().filter(|row| row.misses_target() || row.misses_growth()).count()
    }

    /// Prints all tables.
    pub(super) fn print(&self) {
        println!(
            "Nanoseconds per packet: medians of all rounds, and half the distance between the quartiles."
        );
        println!("Net of varying the packets, except for the first three rows.\n");
        let mut floors = table(["FLOOR", "FLOWS", "NS"]);
        for floor in &self.floors {
            let name = format!("{}, {}", floor.program, floor.family.name());
            floors.add_row([name, grouped(floor.flows), figure(floor.nanoseconds)]);
        }
        print(floors);
        for dimension in Dimension::value_variants() {
            let rows: Vec<&Row> = self.packets.iter().filter(|row| row.sets == *dimension).collect();
            if let Some(first) = rows.first() {
                let sizes =
                    first.figures.iter().map(|it| format!("{} {}", grouped(it.size), dimension.name()));
                let mut table = table(std::iter::once("PACKET".to_owned()).chain(sizes).chain([
                    "GROWTH".to_owned(),
                    "TARGET".to_owned(),
                    "MISSED".to_owned(),
                ]));
                for row in rows {
                    table.add_row(columns(row));
                }
                print(table);
            }
        }
        println!("{} of {} rows miss a target.", self.missed(), self.packets.len());
    }
}

fn columns(row: &Row) -> Vec<String> {
    let mut columns = vec![row.packet.clone()];
    columns.extend(row.figures.iter().map(|it| figure(it.nanoseconds)));
    columns.push(row.growth.map_or_else(String::new, |growth| format!("{:+.0} %", growth * 100.0)));
    columns.push(row.target.map_or_else(|| "-".to_owned(), |target| format!("{target:.0}")));
    let missed = [(row.misses_target(), "target"), (row.misses_growth(), "growth")];
    let missed: Vec<&str> = missed.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
    columns.push(missed.join(", "));
    columns
}

fn title(program: Program) -> &'static str {
    match program {
        Program::Empty => "empty program",
        Program::Vary => "varying the packet",
        Program::Parse => "parse",
        Program::Flow => "parse, one look-up",
        Program::ToPod | Program::FromPod => "judge",
    }
}

fn figure(summary: Summary) -> String {
    format!("{:.0} ±{:.0}", summary.median, (summary.upper - summary.lower) / 2.0)
}

/// A number with commas between thousands.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A table without lines.
fn table<T: Into<comfy_table::Cell>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<_>>());
    table
}

fn print(mut table: Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}\n");
}

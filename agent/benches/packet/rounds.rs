//! Measures everything in rounds, each in an order of its own: whatever else the machine does hits all figures alike.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use postern::datapath::object::BENCH;
use postern_common::direction::INGRESS;

use super::Options;
use super::cells::{self, Cell, Packet, Packets, Table};
use super::frames::Family;
use super::rig::{Program, Rig};
use super::samples::Summary;
use super::sets::{Dimension, Set};

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// What nothing can do without, for packets of so many established flows.
    Floor(Program, Family, u32),
    /// Packets with a policy set.
    Cell(Set, Cell),
}

/// How much of everything.
struct Extent {
    rounds: u32,
    /// Packets of a run.
    packets: u32,
    /// Packets of a run that takes room which there is not for more.
    some: u32,
    /// Packets before each run.
    warm_up: u32,
    /// Numbers of established flows that packets are of.
    flows: &'static [u32],
}

impl Extent {
    const FULL: Self =
        Self { rounds: 0, packets: 20_000, some: 800, warm_up: 500, flows: &[1, 1_000, 100_000] };
    const QUICK: Self = Self { rounds: 2, packets: 1_000, some: 500, warm_up: 100, flows: &[1, 1_000] };
}

/// One subject and how it is measured.
struct Job {
    subject: Subject,
    /// Which rig.
    rig: usize,
    program: Program,
    cell: Cell,
    packets: Packets,
    repeat: u32,
    samples: Vec<f64>,
}

impl Job {
    /// One sample, net of varying the packets (an empty program has nothing to take off).
    fn sample(&self, rig: &mut Rig, warm_up: u32) -> Result<f64> {
        rig.prepare(self.cell, &self.packets)?;
        let gross = if takes_few(self.cell) {
            self.in_batches(rig)?
        } else {
            rig.run(self.program, &self.packets, warm_up)?;
            rig.run(self.program, &self.packets, self.repeat)?
        };
        if matches!(self.program, Program::Empty | Program::Vary) {
            return Ok(gross);
        }
        Ok(gross - rig.run(Program::Vary, &self.packets, self.repeat)?)
    }

    /// What a packet costs where there is not room for more than a few; the first batch warms up.
    fn in_batches(&self, rig: &mut Rig) -> Result<f64> {
        let mut sum = 0.0;
        for batch in 0..=BATCHES {
            rig.prepare(self.cell, &self.packets)?;
            let gross = rig.run(self.program, &self.packets, FEW)?;
            sum += if batch == 0 { 0.0 } else { gross };
        }
        Ok(sum / f64::from(BATCHES))
    }
}

/// New flows that find room in the rows that the agent sets aside, but for one time in a hundred: of 16 rows with 12 places each, one gets
/// more than it has.
const FEW: u32 = 80;
/// So often.
const BATCHES: u32 = 16;

/// Whether no more packets can be shown to it than [`FEW`].
fn takes_few(cell: Cell) -> bool {
    matches!(cell.packet, Packet::New(_, Table::Room, _) | Packet::NewToService)
}

/// Measures what the options ask for.
pub(super) fn measure(options: &Options) -> Result<Vec<(Subject, Summary)>> {
    let extent =
        if options.quick { Extent::QUICK } else { Extent { rounds: options.rounds, ..Extent::FULL } };
    let flows = extent.flows.iter().copied().max().unwrap_or(1);
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let other = options.object.as_ref().map(read).transpose()?;
    let object = other.as_deref().unwrap_or(BENCH);
    let mut rigs = Vec::new();
    let mut jobs = floors(&extent)?;
    for set in sets(options) {
        eprintln!("{}: {}", set.dimension.name(), set.size);
        let wanted: Vec<Cell> = cells::cells(set, extent.flows)
            .into_iter()
            .filter(|cell| options.only.as_ref().is_none_or(|only| cell.to_string().contains(only)))
            .collect();
        for cell in wanted {
            jobs.push(job(set, cell, rigs.len(), &extent)?);
        }
        rigs.push(
            Rig::new(object, set, flows).with_context(|| format!("{} {}", set.size, set.dimension.name()))?,
        );
    }
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}", extent.rounds);
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        fastrand::shuffle(&mut order);
        for index in order {
            let job = &mut jobs[index];
            let rig = &mut rigs[job.rig];
            let sample = job.sample(rig, extent.warm_up).with_context(|| format!("{:?}", job.subject))?;
            job.samples.push(sample);
        }
    }
    Ok(jobs.into_iter().map(|job| (job.subject, Summary::of(job.samples))).collect())
}

fn sets(options: &Options) -> impl Iterator<Item = Set> {
    let dimensions =
        Dimension::value_variants().iter().filter(|it| options.sets.is_none_or(|only| only == **it));
    let quick = options.quick;
    dimensions.flat_map(move |dimension| {
        dimension.sizes(quick).iter().map(|size| Set { dimension: *dimension, size: *size })
    })
}

/// Floors are measured with the first set's object, which holds the same established flows as all others.
fn floors(extent: &Extent) -> Result<Vec<Job>> {
    let mut floors = vec![(Program::Empty, Family::V4, 1), (Program::Vary, Family::V4, 1)];
    floors.push((Program::Vary, Family::V4, 1_000));
    for family in [Family::V4, Family::V6] {
        floors.push((Program::Parse, family, 1));
        floors.extend(extent.flows.iter().map(|flows| (Program::Flow, family, *flows)));
    }
    let job = |(program, family, flows)| {
        let cell = Cell { packet: Packet::Established(flows), family, direction: INGRESS };
        let subject = Subject::Floor(program, family, flows);
        Ok(Job { subject, program, ..job(Set::smallest(), cell, 0, extent)? })
    };
    floors.into_iter().map(job).collect()
}

fn job(set: Set, cell: Cell, rig: usize, extent: &Extent) -> Result<Job> {
    let takes_some = matches!(cell.packet, Packet::New(_, Table::Overflow | Table::Growing, _));
    Ok(Job {
        subject: Subject::Cell(set, cell),
        rig,
        program: Program::of(cell.direction),
        cell,
        packets: cell.packets(set)?,
        repeat: if takes_some { extent.some } else { extent.packets },
        samples: Vec::new(),
    })
}

//! `postern-lab demo`: plays a story, and fails when anything observed is not what the story expects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use postern_lab::lab::{Applied, Lab};
use postern_lab::matrix::{self, Cell, Difference, Key, Matrix, Reach};
use postern_lab::party::PartyId;
use postern_lab::prober::Target;
use postern_lab::scenario::{Scenario, Snapshot};
use postern_lab::story::{self, Step};
use postern_lab::wire;
use postern_policy::model::Protocol;
use serde::Serialize;

use super::{Failure, Output, programs, style};

/// How often the watched pair is probed.
const WATCH_EVERY: Duration = Duration::from_millis(1);
/// How long the watch goes on once the agents say that a change is enforced.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// Play a policy story on two nodes: real agents, real TCP and UDP connections, one step after the other.
///
/// After each step: who reaches whom, what changed (`*`), how long it took from the policy's arrival to enforcement.
/// Exit status 1 when any observed cell differs from the one the story expects; the cells are named.
///
/// Examples:
///   cargo xtask demo
///   cargo xtask demo -o json
///   cargo xtask demo --story my-story
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The story's directory.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/demo"), hide_default_value = true)]
    story: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// The agent's binary [default: `postern` beside this one].
    #[arg(long, value_name = "PATH")]
    postern: Option<PathBuf>,
}

/// What one step showed.
#[derive(Serialize)]
struct Report<'a> {
    step: usize,
    title: &'a str,
    probes: Vec<Cell>,
    /// Cells that changed since the step before.
    changed: Vec<Cell>,
    /// By each agent's own clock, from noticing the change to the last map write.
    enforced_in_ms: BTreeMap<String, f64>,
    /// A pair that was probed all along.
    on_the_wire: Option<OnTheWire>,
    /// Cells that are not as expected.
    differences: Vec<String>,
}

/// One pair, probed every millisecond.
#[derive(Serialize)]
struct OnTheWire {
    pair: String,
    /// From the rename of the manifest to the first attempt that went the new way.
    ms: f64,
}

/// Plays the story.
pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let steps = story::read(&arguments.story)?;
    let snapshot = Snapshot::read(&story::base(&arguments.story))?;
    let mut lab = Lab::up(programs(arguments.postern)?, Scenario::covering(&[snapshot])?).await?;
    if matches!(arguments.output, Output::Table) {
        let nodes: Vec<String> = lab.node_names().into_iter().collect();
        println!("Two ends of every connection are real: {} with an agent each.\n", nodes.join(" and "));
    }
    let (mut before, mut wrong) = (None, 0);
    for (index, step) in steps.iter().enumerate() {
        let (applied, on_the_wire) = apply(&mut lab, step, before.as_ref()).await?;
        let observed = lab.observe().await?.matrix;
        let differences = matrix::differences(&step.expected, &observed);
        wrong += differences.len();
        let report = report(index + 1, step, &observed, before.as_ref(), applied, on_the_wire, &differences);
        match arguments.output {
            Output::Json => println!("{}", serde_json::to_string(&report)?),
            Output::Table => print(&report, steps.len(), &observed, before.as_ref()),
        }
        before = Some(observed);
    }
    if wrong > 0 {
        eprintln!("postern-lab: {wrong} cells are not as expected");
        return Err(Failure::Differs);
    }
    if matches!(arguments.output, Output::Table) {
        println!("All {} steps as expected.", steps.len());
    }
    Ok(())
}

/// Applies a step, with an eye on a pair that is to change.
async fn apply(
    lab: &mut Lab,
    step: &Step,
    before: Option<&Matrix>,
) -> Result<(Applied, Option<OnTheWire>), Failure> {
    let changing = before.and_then(|before| pair_that_changes(before, &step.expected));
    let watched = changing.and_then(|key| Some((find_target(lab, key)?, key)));
    let Some(((from, target), key)) = watched else {
        return Ok((lab.apply(&step.files).await?, None));
    };
    lab.watch(&from, target, WATCH_EVERY).await?;
    let applied = lab.apply(&step.files).await?;
    tokio::time::sleep(WATCH_AFTER).await;
    let samples = lab.end_watch(&from).await?;
    let passes = step.expected.get(key) == Some(&Reach::Allowed);
    let ms = wire::took_effect_ms(&samples, applied.arrived_ns, passes);
    Ok((applied, ms.map(|ms| OnTheWire { pair: key.to_string(), ms })))
}

/// A TCP connection between two different parties that the step is to open or close; any other cell when there is none.
fn pair_that_changes<'a>(before: &Matrix, expected: &'a Matrix) -> Option<&'a Key> {
    let changing =
        || expected.iter().filter(|(key, allowed)| before.get(key) != Some(allowed)).map(|(key, _)| key);
    let between_pods = |key: &&Key| !key.from.starts_with("external/") && key.from != key.to;
    changing().filter(between_pods).find(|key| key.protocol == Protocol::Tcp).or_else(|| changing().next())
}

fn find_target(lab: &Lab, key: &Key) -> Option<(PartyId, Target)> {
    let parties = lab.parties();
    let from = parties.iter().find(|party| party.id.to_string() == key.from)?;
    let to = parties.iter().find(|party| party.id.to_string() == key.to)?;
    let mut targets = from.targets(to).into_iter();
    let target = targets.find(|t| t.destination.port() == key.port && t.protocol == key.protocol)?;
    Some((from.id.clone(), target))
}

fn report<'a>(
    number: usize,
    step: &'a Step,
    observed: &Matrix,
    before: Option<&Matrix>,
    applied: Applied,
    on_the_wire: Option<OnTheWire>,
    differences: &[Difference],
) -> Report<'a> {
    let changed = before.map_or_else(Matrix::new, |before| {
        let changed = observed.iter().filter(|(key, allowed)| before.get(key) != Some(allowed));
        changed.map(|(key, allowed)| (key.clone(), *allowed)).collect()
    });
    Report {
        step: number,
        title: &step.title,
        probes: matrix::cells(observed),
        changed: matrix::cells(&changed),
        enforced_in_ms: applied.enforced_in_ms,
        on_the_wire,
        differences: differences.iter().map(ToString::to_string).collect(),
    }
}

fn print(report: &Report<'_>, steps: usize, observed: &Matrix, before: Option<&Matrix>) {
    let (bold, plain) = if style::colours() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("{bold}Step {} of {steps}: {}{plain}", report.step, report.title);
    for line in style::table(observed, before).to_string().lines() {
        println!("  {line}");
    }
    if before.is_some() {
        let opened = report.changed.iter().filter(|cell| cell.allowed == Reach::Allowed).count();
        println!("  changed:  {opened} cells opened, {} closed", report.changed.len() - opened);
        let agents: Vec<String> =
            report.enforced_in_ms.iter().map(|(node, ms)| format!("{node} {ms:.1} ms")).collect();
        println!("  enforced: {} (agents' own clocks)", agents.join(", "));
    }
    if let Some(OnTheWire { pair, ms }) = &report.on_the_wire {
        println!("  on the wire: {ms:.1} ms after the policy's file arrived ({pair})");
    }
    let cells = report.probes.len();
    println!("  expected: {} of {cells} cells as expected\n", cells.saturating_sub(report.differences.len()));
    for difference in &report.differences {
        eprintln!("  DIFFERS  {difference}");
    }
}

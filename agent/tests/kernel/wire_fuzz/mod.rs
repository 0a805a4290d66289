//! Frames between pods, their node and what is outside, through all that a node does with them: a bridge, routing, netfilter with
//! conntrack and Services that come and go, a tunnel device. What arrives where is compared with what may, and what must.
//!
//! `BPF_PROG_TEST_RUN`, by which [`crate::fuzz`] shows frames to one program at a time, can tell neither where a frame goes next nor what
//! its tag is, and has no hooks. Here everything is real but the pods: they are sockets that send what a seed says.
//!
//! - `POSTERN_FUZZ_SECONDS` says for how long (30).
//! - `POSTERN_FUZZ_SEED` repeats a run; it is printed, and is another one each time otherwise.
//! - `POSTERN_FUZZ_SEQUENCE` plays one sequence of the seed alone.
//!
//! | module | what it does |
//! |---|---|
//! | `world` | namespaces, links, addresses |
//! | `node` | an agent's engine and data path, nftables, conntrack |
//! | `policy` | ways to isolate a pod |
//! | `taps`, `tag` | sends frames, sees what arrives |
//! | `shape`, `read` | frames as parts and as bytes |
//! | `generator` | sequences of frames and changes |
//! | `model`, `link`, `must` | what may arrive where, and what must |
//! | `run` | plays sequences, makes small what is found |

mod generator;
mod link;
mod model;
mod must;
mod node;
mod policy;
mod read;
mod run;
mod shape;
mod tag;
mod taps;
mod world;

use std::time::Duration;

use self::run::{ENOUGH, Findings, Run, Seen};
use self::world::{Options, Place};
use crate::features;
use crate::fuzz::{number, seed};

/// Of so many frames, one arrives at least, from any place at any other.
const SOME_FRAMES: u64 = 20_000;

#[test]
fn wire_fuzz() {
    if !features::netfilter() {
        return;
    }
    let seed = seed();
    let seconds = number("POSTERN_FUZZ_SECONDS").unwrap_or(30);
    println!("wire_fuzz: POSTERN_FUZZ_SEED={seed} POSTERN_FUZZ_SECONDS={seconds}");
    let only = number("POSTERN_FUZZ_SEQUENCE");
    let mut findings = Findings::new();
    let mut all = Seen::default();
    let mut next = only.unwrap_or(0);
    // Two nodes that have nothing in common, each for half of the time.
    for world in [seed, !seed] {
        let is = |bit: u32| world >> bit & 1 == 1;
        let options = Options { filtered: is(0), clsact: is(1), keep: is(2) };
        let mut left = Duration::from_secs(seconds) / 2;
        while !left.is_zero() {
            let last = only.map_or(u64::MAX, |only| only + 1);
            // A thread of its own: it moves to other namespaces, which end with it.
            let thread = std::thread::spawn(move || {
                let mut run = Run::new(seed, options);
                let next = run.go(next..last, left, &mut findings);
                (run.seen, findings, next)
            });
            let (of_world, so_far, number) = thread.join().unwrap();
            left = if only.is_some() || so_far.len() >= ENOUGH {
                Duration::ZERO
            } else {
                left.saturating_sub(of_world.took)
            };
            (findings, next) = (so_far, only.unwrap_or(number));
            all.add(&of_world);
        }
    }
    println!("{all}");
    assert!(findings.is_empty(), "{} findings, see above", findings.len());
    assert!(all.unrepeated <= 2 + all.musts / 10_000, "more was late than should be, see above");
    let blind = all.blind();
    assert!(only.is_some() || blind.is_empty(), "hardly anything arrived: {blind:?}");
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.took += other.took;
        self.musts += other.musts;
        self.unrepeated += other.unrepeated;
        for (pair, count) in &other.arrived {
            *self.arrived.entry(*pair).or_default() += count;
        }
    }

    /// Pairs between which too little arrived: a fuzzer that never gets there says nothing about them.
    fn blind(&self) -> Vec<(Place, Place)> {
        let all =
            [Place::Subject, Place::Accomplice, Place::Backend, Place::Routed, Place::Outside, Place::Node];
        let pairs = all.into_iter().flat_map(|from| all.into_iter().map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .filter(|pair| {
                self.arrived.get(pair).copied().unwrap_or(0) < u64::from(self.frames) / SOME_FRAMES
            })
            .collect()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs_f64();
        let rate = f64::from(self.frames) / seconds;
        writeln!(formatter, "{} frames in {seconds:.1} s, {rate:.0} a second", self.frames)?;
        let Self { musts, unrepeated, .. } = self;
        writeln!(
            formatter,
            "  {musts} had to arrive; {unrepeated} did not once, and did when all was done again"
        )?;
        for ((from, to), count) in &self.arrived {
            let (from, to) = (format!("{from:?}"), format!("{to:?}"));
            writeln!(formatter, "  {from:10} to {to:10} {count:8}")?;
        }
        Ok(())
    }
}

//! Malformed and adversarial frames, many of them, judged by the loaded programs and by an independent model.
//!
//! A seed flows in; sequences of frames and changes (of policy, of a Service) come out of it, each on a veth without flows. Whether a
//! frame passes is compared at once; reasons are compared by their totals, batch by batch, because counters are slow
//! to read. Where the two disagree, the sequence is shown again, frame by frame, and made as small as it gets.
//!
//! What comes before and behind a program, bridges, NAT and sockets, is for [`crate::wire_fuzz`].
//!
//! - `POSTERN_FUZZ_SECONDS` says for how long (45).
//! - `POSTERN_FUZZ_SEED` repeats a run; it is printed, and is another one each time otherwise.

pub(crate) mod dice;
mod generator;
mod kernel;
mod model;
mod netns;
mod run;
pub(crate) mod sequence;
mod shrink;
mod world;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_common::reason::Reason;
use postern_policy::model::Direction;

use self::run::{Run, Seen};

/// Reasons that no frame of this world gets: no table can be filled in a moment, and nothing is shown behind NAT.
const OUT_OF_REACH: [Reason; 3] = [Reason::FlowTableFull, Reason::Untraceable, Reason::Reentered];
/// Reasons of what the pod sends alone.
const OUTGOING: [Reason; 3] = [Reason::Spoofed, Reason::Service, Reason::Tunnel];
/// Of so many frames, one ends under each other reason at least, in either direction.
const SOME_FRAMES: u64 = 2_000;

#[test]
fn fuzz() {
    let seed = seed();
    let seconds = number("POSTERN_FUZZ_SECONDS").unwrap_or(45);
    println!("fuzz: POSTERN_FUZZ_SEED={seed} POSTERN_FUZZ_SECONDS={seconds}");
    // A thread of its own: it moves to another network namespace.
    let thread = std::thread::spawn(move || Run::new(seed).go(Duration::from_secs(seconds)));
    let outcome = thread.join().unwrap();
    println!("{outcome}");
    assert!(outcome.findings.is_empty(), "{} disagreements, see above", outcome.findings.len());
    assert!(outcome.is_chance(), "more slots were lost to others than there should be, see above");
    let blind = blind(&outcome);
    assert!(blind.is_empty(), "hardly a packet of {blind:?}");
}

/// Reasons that were not seen often enough: a fuzzer that never gets there says nothing about them.
fn blind(seen: &Seen) -> Vec<(Direction, Reason)> {
    let both = [Direction::Ingress, Direction::Egress];
    let all =
        both.into_iter().flat_map(|direction| Reason::ALL.iter().map(move |reason| (direction, *reason)));
    all.filter(|(direction, reason)| {
        !OUT_OF_REACH.contains(reason)
            && (*direction == Direction::Egress || !OUTGOING.contains(reason))
            && seen.totals.get(*direction, *reason) < seen.frames / SOME_FRAMES
    })
    .collect()
}

/// The seed of a run: the one that is to be repeated, or another one each time.
pub(crate) fn seed() -> u64 {
    number("POSTERN_FUZZ_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos() & 0xffff_ffff).unwrap()
    })
}

/// What an environment variable says, if it is set.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

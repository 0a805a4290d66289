//! The helper process of one party (a pod, or a host outside the cluster): it lives in the party's namespace, serves the
//! party's ports and probes others, with real sockets.
//!
//! Spoken over its stdin and stdout, one JSON document a line: a [`Request`] in, a [`Reply`] out, in order. It ends when
//! stdin does, so it never outlives the lab.

mod attempt;
mod listen;
mod main;
mod sctp;
mod watch;

use std::net::{IpAddr, SocketAddr};

use postern_policy::model::Protocol;
use serde::{Deserialize, Serialize};

pub use main::run;

/// An address, port and protocol that a party serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
}

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address to send from.
    pub source: IpAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// Who is to answer: the name that the other helper was given. `None`: any of a Service's backends, which may see us
    /// under another address.
    pub answerer: Option<String>,
}

/// What a helper is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Serve these ports in this party's name. Once, first.
    Serve {
        /// The name to answer with.
        name: String,
        /// The ports.
        ports: Vec<Listen>,
    },
    /// Probe each target once.
    Probe {
        /// How long to wait for an answer.
        patience_ms: u64,
        /// How many probes to start per second.
        per_second: u32,
        /// The targets.
        targets: Vec<Target>,
    },
    /// Start probing one target every `interval_us`, with a new socket each time.
    Watch {
        /// The target.
        target: Target,
        /// Time between two starts.
        interval_us: u64,
    },
    /// End the watch and report.
    EndWatch,
}

/// What came of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The right party answered.
    Allowed,
    /// This backend of a Service answered.
    Answered(String),
    /// Nobody listens there, said the other end: policy let the packet through.
    Refused,
    /// No answer in time.
    Dropped,
    /// The lab itself is at fault: no route, the wrong party answered, no sockets left.
    Failed(String),
}

/// One attempt of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was sent, on the system's monotonic clock.
    pub sent_ns: u64,
    /// Whether it got through.
    pub passed: bool,
}

/// What a helper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The ports are open, or the watch has begun.
    Ready,
    /// One outcome per target, in order.
    Outcomes {
        /// The outcomes.
        outcomes: Vec<Outcome>,
        /// How late this process was woken at worst: what a busy machine costs.
        worst_lag_ms: u64,
    },
    /// All attempts of a watch that are decided, in order.
    Watched(Vec<Sample>),
    /// The request could not be done.
    Failed(String),
}

/// Nanoseconds on the system's monotonic clock, the same for every process.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
    })
}

//! What was measured, for people.

use std::fmt;

use serde::Serialize;

use super::churn::RATE;
use super::{Churn, Latency, Spread};

/// What one agent takes in a large cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Pods of other nodes.
    pub pods: usize,
    /// Policies, beside one for the pods whose packets are watched.
    pub policies: usize,
    /// Services.
    pub services: usize,
    /// Endpoints in their slices, all together.
    pub endpoints: usize,
    /// Objects that the agent knows.
    pub objects: usize,
    /// Pods of the agent's node.
    pub local_pods: usize,
    /// From starting the process until it is ready: everything listed, and every isolated pod of its node enforced.
    pub ready_ms: f64,
    /// What came from the API server until then, TLS included.
    pub received_bytes: u64,
    /// Resident memory at its highest until five seconds later.
    pub memory_peak_kib: u64,
    /// Resident memory five seconds later.
    pub memory_kib: u64,
    /// Policies created and deleted.
    pub rounds: usize,
    /// Creating a policy that lets somebody in.
    pub create: Latency,
    /// Deleting it.
    pub delete: Latency,
    /// Changing endpoint slices; none where there are none, or no time for it.
    pub churn: Option<Churn>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024);
        writeln!(
            f,
            "{} pods, {} policies, {} Services with {} endpoints; {} pods on the agent's node",
            self.pods, self.policies, self.services, self.endpoints, self.local_pods
        )?;
        writeln!(f, "  from start to ready     {:.0} ms, {} objects", self.ready_ms, self.objects)?;
        writeln!(f, "  received until then     {}", mib(self.received_bytes / 1024))?;
        writeln!(f, "  memory, peak and after  {}, {}", mib(self.memory_peak_kib), mib(self.memory_kib))?;
        writeln!(f, "milliseconds from the request, {} rounds: median, 95 %, worst", self.rounds)?;
        for (what, latency) in [("create", &self.create), ("delete", &self.delete)] {
            writeln!(f, "  {what}: another client hears of it  {}", Columns(latency.heard))?;
            writeln!(f, "  {what}: the first packet shows it   {}", Columns(latency.enforced))?;
            writeln!(f, "  {what}: from the one to the other   {}", Columns(latency.beyond))?;
        }
        self.churn.iter().try_for_each(|churn| write!(f, "{churn}"))
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} updates of endpoint slices in {:.1} s: {:.1} a second, of {RATE} wanted",
            self.updates, self.seconds, self.per_second
        )?;
        writeln!(
            f,
            "  the agent's CPU time    {:.1} % of a core, target below {:.0} %; {:.1} % before",
            self.agent_cpu_percent_of_a_core,
            self.target_cpu_percent_of_a_core,
            self.idle_cpu_percent_of_a_core
        )?;
        writeln!(
            f,
            "  in its maps at the end  {} frontends, and those of {} emptied Services gone",
            self.frontends, self.emptied
        )
    }
}

struct Columns(Spread);

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} {:6.1} {:6.1}", self.0.median_ms, self.0.p95_ms, self.0.max_ms)
    }
}

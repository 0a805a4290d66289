//! Probing one target again and again, to see on the wire when a policy bites.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_policy::model::Protocol;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Outcome, Sample, Target, attempt, monotonic_ns, sctp};

/// How long an attempt may take to get through. Below the kernel's first retransmission, so that the time of sending is
/// the time that counts.
const PATIENCE: Duration = Duration::from_millis(200);

/// A watch that runs.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Sample>>,
}

impl Watch {
    pub(super) fn start(target: Target, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(watch(target, every, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Stops sending, waits for the last attempts, reports all.
    pub(super) async fn end(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

async fn watch(target: Target, every: Duration, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let target = Arc::new(target);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = JoinSet::new();
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let target = Arc::clone(&target);
        running.spawn(async move {
            let sent_ns = monotonic_ns();
            Sample { sent_ns, passed: passes(&target).await }
        });
        while let Some(done) = running.try_join_next() {
            samples.extend(done.ok());
        }
    }
    while let Some(done) = running.join_next().await {
        samples.extend(done.ok());
    }
    samples.sort_unstable_by_key(|sample| sample.sent_ns);
    samples
}

async fn passes(target: &Target) -> bool {
    match target.protocol {
        Protocol::Tcp => matches!(attempt::connect(target, PATIENCE).await, Ok(Some(_))),
        Protocol::Udp => datagram_passes(target).await.unwrap_or(false),
        Protocol::Sctp => {
            matches!(sctp::attempt(target, PATIENCE).await, Ok(Outcome::Allowed | Outcome::Answered(_)))
        }
    }
}

async fn datagram_passes(target: &Target) -> std::io::Result<bool> {
    let socket = UdpSocket::bind((target.source, 0)).await?;
    socket.connect(target.destination).await?;
    socket.send(attempt::next_token().as_bytes()).await?;
    let mut buffer = [0; 512];
    Ok(matches!(timeout(PATIENCE, socket.recv(&mut buffer)).await, Ok(Ok(_))))
}

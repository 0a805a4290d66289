//! The helper's loop: requests from stdin, replies to stdout.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::watch::Watch;
use super::{Outcome, Reply, Request, Target, attempt, listen};
use crate::netns;

/// Sockets that one helper holds open for probes at once.
const IN_FLIGHT: usize = 256;
/// How often the helper measures how late it is woken.
const LAG_TICK: Duration = Duration::from_millis(20);

/// Runs the helper in the namespace at `netns` until stdin ends.
///
/// # Errors
/// The namespace cannot be entered, or stdin and stdout fail.
pub fn run(netns: &Path) -> anyhow::Result<()> {
    netns::enter(netns)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(converse())?;
    // Reading stdin occupies a thread that cannot be cancelled: do not wait for it.
    runtime.shutdown_background();
    Ok(())
}

async fn converse() -> io::Result<()> {
    let mut requests = BufReader::new(tokio::io::stdin()).lines();
    let mut replies = tokio::io::stdout();
    let mut watch = None;
    while let Some(line) = requests.next_line().await? {
        let reply = match serde_json::from_str(&line) {
            Ok(request) => answer(request, &mut watch).await,
            Err(error) => Reply::Failed(format!("cannot read the request: {error}")),
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        replies.write_all(&line).await?;
        replies.flush().await?;
    }
    Ok(())
}

async fn answer(request: Request, watch: &mut Option<Watch>) -> Reply {
    match request {
        Request::Serve { name, ports } => match listen::serve(&name, &ports) {
            Ok(()) => Reply::Ready,
            Err(error) => Reply::Failed(error.to_string()),
        },
        Request::Probe { patience_ms, per_second, targets } => {
            probe(targets, Duration::from_millis(patience_ms), per_second).await
        }
        Request::Watch { target, interval_us } => {
            *watch = Some(Watch::start(target, Duration::from_micros(interval_us)));
            Reply::Ready
        }
        Request::EndWatch => match watch.take() {
            Some(watch) => Reply::Watched(watch.end().await),
            None => Reply::Failed("no watch has begun".to_owned()),
        },
    }
}

async fn probe(targets: Vec<Target>, patience: Duration, per_second: u32) -> Reply {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let begin = Instant::now();
    let lag = tokio::spawn(worst_lag());
    let mut outcomes = vec![Outcome::Failed("the probe was lost".to_owned()); targets.len()];
    let mut running = JoinSet::new();
    for (index, target) in (0_u32..).zip(targets) {
        tokio::time::sleep_until(begin + Duration::from_secs(1) * index / per_second.max(1)).await;
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        running.spawn(async move {
            let outcome = attempt::attempt(&target, patience).await;
            drop(slot);
            (index as usize, outcome)
        });
    }
    while let Some(done) = running.join_next().await {
        if let Ok((index, outcome)) = done {
            outcomes[index] = outcome;
        }
    }
    lag.abort();
    let worst = WORST_LAG_MS.swap(0, std::sync::atomic::Ordering::Relaxed);
    Reply::Outcomes { outcomes, worst_lag_ms: worst }
}

/// Written by [`worst_lag`], taken by [`probe`].
static WORST_LAG_MS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

async fn worst_lag() {
    loop {
        let due = Instant::now() + LAG_TICK;
        tokio::time::sleep_until(due).await;
        let late = u64::try_from(due.elapsed().as_millis()).unwrap_or(u64::MAX);
        WORST_LAG_MS.fetch_max(late, std::sync::atomic::Ordering::Relaxed);
    }
}

//! Several events close together become one.

use std::time::{Duration, Instant};

/// Waits until events have been quiet for a while, or for as long as patience lasts.
#[derive(Debug)]
pub struct Debounce {
    quiet: Duration,
    patience: Duration,
    /// When the first and the last event came that nobody was told of yet.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Tells of events once none came for `quiet`, at the latest `patience` after the first.
    #[must_use]
    pub const fn new(quiet: Duration, patience: Duration) -> Self {
        Self { quiet, patience, pending: None }
    }

    /// Waits for events to come and to settle. Gives the time of the first.
    ///
    /// Cancel safe when `next` is: events noted stay noted, whatever else a `select!` was woken for.
    pub async fn settled(&mut self, mut next: impl AsyncFnMut() -> Instant) -> Instant {
        loop {
            let Some((first, last)) = self.pending else {
                let event = next().await;
                self.pending = Some((event, event));
                continue;
            };
            let due = (first + self.patience).min(last + self.quiet);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()) => {
                    self.pending = None;
                    return first;
                }
                event = next() => self.pending = Some((first, event)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const QUIET: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_event_survives_being_cancelled() {
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut debounce = Debounce::new(QUIET, QUIET * 10);
        let at = tokio::time::Instant::now().into_std();
        sender.send(at).unwrap();
        // Something else wakes the caller's select! all the time.
        for _ in 0..100 {
            let next = async || events.recv().await.unwrap();
            if let Ok(first) = timeout(QUIET / 4, debounce.settled(next)).await {
                assert_eq!(first, at);
                return;
            }
        }
        panic!("the event was lost");
    }

    #[tokio::test]
    async fn patience_ends() {
        let mut debounce = Debounce::new(QUIET, QUIET * 5);
        let busy = async || {
            tokio::time::sleep(QUIET / 2).await;
            tokio::time::Instant::now().into_std()
        };
        // Events never stop: without patience this would not end.
        let settled = timeout(Duration::from_secs(30), debounce.settled(busy)).await;
        assert!(settled.is_ok());
    }
}

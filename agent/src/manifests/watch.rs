//! Tells when the folder may have changed.

use std::path::Path;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::debounce::Debounce;

/// How long the folder must be quiet before it is read: an editor's or a copy's several writes become one reading.
const QUIET: Duration = Duration::from_millis(2);
/// How long at the most that may take, so that a busy folder is read all the same.
const PATIENCE: Duration = Duration::from_millis(50);

/// A running watch; it ends when dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::UnboundedReceiver<Instant>,
    debounce: Debounce,
    _watcher: notify::RecommendedWatcher,
}

/// Watches a folder (inotify).
///
/// # Errors
///
/// The folder does not exist, or the system's limit of watches is reached.
pub fn watch(folder: &Path) -> Result<Watch, notify::Error> {
    let (sender, events) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        // Reading makes events too; those would keep us reading for ever. A lost event (`Err`) is a reason to read.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // The receiver is gone when the watch ends: nobody is left to tell.
        let _ = sender.send(Instant::now());
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(Watch { events, debounce: Debounce::new(QUIET, PATIENCE), _watcher: watcher })
}

impl Watch {
    /// Waits for a change and until the folder is quiet again. Gives the time at which the change was noticed.
    /// Cancel safe.
    pub async fn changed(&mut self) -> Instant {
        let events = &mut self.events;
        let next = async || match events.recv().await {
            Some(at) => at,
            // The watcher's thread ended; periodic looks go on.
            None => std::future::pending().await,
        };
        self.debounce.settled(next).await
    }
}

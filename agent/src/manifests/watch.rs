//! Tells when the folder may have changed.

use std::path::Path;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// How long the folder must be quiet before it is read: an editor's or a copy's several writes become one reading.
const QUIET: Duration = Duration::from_millis(4);
/// How long at the most that may take, so that a busy folder is read all the same.
const PATIENCE: Duration = Duration::from_millis(50);

/// A running watch; it ends when dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::UnboundedReceiver<Instant>,
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
    Ok(Watch { events, _watcher: watcher })
}

impl Watch {
    /// Waits for a change and until the folder is quiet again. Gives the time at which the change was noticed.
    pub async fn changed(&mut self) -> Instant {
        let Some(first) = self.events.recv().await else {
            return std::future::pending().await;
        };
        let deadline = tokio::time::Instant::from_std(first + PATIENCE);
        loop {
            let quiet = deadline.min(tokio::time::Instant::now() + QUIET);
            match tokio::time::timeout_at(quiet, self.events.recv()).await {
                Ok(Some(_)) if quiet < deadline => {}
                _ => return first,
            }
        }
    }
}

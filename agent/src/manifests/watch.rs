//! Tells when the folder may have changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::listing;
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
    watcher: notify::RecommendedWatcher,
    folder: PathBuf,
    /// The subfolders that were watched last.
    covered: BTreeSet<PathBuf>,
}

/// Watches a folder (inotify), and what is below it once [`Watch::cover`] has been called.
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
    Ok(Watch {
        events,
        debounce: Debounce::new(QUIET, PATIENCE),
        watcher,
        folder: folder.to_owned(),
        covered: BTreeSet::new(),
    })
}

impl Watch {
    /// Watches the subfolders that there are now. Called before each reading: what is put into a folder before it is
    /// watched is read, and what comes later is noticed, which a watcher that follows new folders by itself misses in
    /// between. Says what cannot be watched.
    pub fn cover(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        loop {
            let folders: BTreeSet<PathBuf> = listing::folders(&self.folder).into_iter().collect();
            for folder in &folders {
                // Again on each call: what stands at a path may be another folder by now.
                if let Err(error) = self.watcher.watch(folder, RecursiveMode::NonRecursive)
                    && folder.exists()
                {
                    let message = "edits in there are seen within half a minute only";
                    failures.push(format!("{}: cannot be watched ({error}): {message}", folder.display()));
                }
            }
            // What came while we looked may hold folders of its own.
            if folders == std::mem::replace(&mut self.covered, folders.clone()) {
                failures.sort();
                failures.dedup();
                return failures;
            }
        }
    }

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

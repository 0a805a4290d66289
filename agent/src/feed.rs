//! Where the picture of the cluster comes from, and what is new in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use postern_policy::model::{Object, ObjectRef};
use tracing::info;

use crate::kube::{self, KindStatus};
use crate::manifests::{self, Reading};

/// A difference to what was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New, or not what it was.
    Apply(Object),
    /// Gone.
    Delete(ObjectRef),
}

/// What is new, to be carried out as one.
#[derive(Debug)]
pub struct News {
    /// When the first of it was there to see for this agent, as it ran.
    pub noticed: Instant,
    /// What changed.
    pub changes: Vec<Change>,
    /// All that is wrong now with the objects themselves: the same list for as long as it does not change.
    pub invalid: Arc<[String]>,
    /// The objects known are all there are: what an earlier agent enforced on behalf of others may go.
    pub complete: bool,
    /// There are documents of a folder that nobody can read. They keep the agent from being ready for as long as they
    /// are there, whatever stands in for them.
    pub unread: bool,
}

/// A source of cluster state.
#[derive(Debug)]
pub enum Feed {
    /// A folder.
    Manifests(Folder),
    /// An API server.
    Kube(kube::Source),
}

impl Feed {
    /// Waits for news. Cancel safe.
    pub async fn changed(&mut self) -> News {
        match self {
            Self::Manifests(folder) => {
                let noticed = folder.watch.changed().await;
                folder.read(noticed)
            }
            Self::Kube(source) => source.changed().await,
        }
    }

    /// Looks again without being told to, where that can find anything.
    pub fn relook(&mut self) -> Option<News> {
        match self {
            Self::Manifests(folder) => Some(folder.read(Instant::now())),
            Self::Kube(_) => None,
        }
    }

    /// Fingerprint of what was last read, of a folder.
    #[must_use]
    pub fn digest(&self) -> &str {
        match self {
            Self::Manifests(folder) => &folder.digest,
            Self::Kube(_) => "",
        }
    }

    /// How the watches are, of an API server.
    #[must_use]
    pub fn watches(&self) -> Vec<KindStatus> {
        match self {
            Self::Manifests(_) => Vec::new(),
            Self::Kube(source) => source.status(),
        }
    }

    /// What is wrong with the watches.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        match self {
            Self::Manifests(_) => Vec::new(),
            Self::Kube(source) => source.troubles(),
        }
    }
}

/// A folder of manifests that is watched.
#[derive(Debug)]
pub struct Folder {
    source: manifests::Source,
    watch: manifests::Watch,
    /// Fingerprint of what was last read.
    digest: String,
    /// When that reading began.
    looked: Option<Instant>,
}

impl Folder {
    /// A folder, watched from now on and not read yet.
    ///
    /// # Errors
    ///
    /// The folder cannot be watched.
    pub fn open(path: &Path) -> Result<Self, notify::Error> {
        let watch = manifests::watch(path)?;
        Ok(Self { source: manifests::Source::new(path), watch, digest: String::new(), looked: None })
    }

    fn read(&mut self, noticed: Instant) -> News {
        // What is new now was not there at the last look: an event from before that is of something else. Events wait while the
        // programs are loaded.
        let noticed = self.looked.map_or(noticed, |looked| looked.max(noticed));
        self.looked = Some(Instant::now());
        // A file written while we read makes an event of its own: then the digest is read again, too.
        let unwatched = self.watch.cover();
        self.digest = manifests::digest(self.source.folder()).unwrap_or_default();
        let Reading { changes, errors, incomplete, notes } = self.source.read();
        for note in notes {
            info!("{note}");
        }
        let invalid = errors.iter().map(ToString::to_string).chain(unwatched).collect();
        News { noticed, changes, invalid, complete: !incomplete, unread: incomplete }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: NAME}\n";

    #[tokio::test]
    async fn a_change_is_no_older_than_the_look_that_did_not_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            std::fs::write(folder.path().join(format!("{name}.yaml")), NAMESPACE.replace("NAME", name))
                .unwrap();
        };
        let mut feed = Feed::Manifests(Folder::open(folder.path()).unwrap());
        write("early");
        // Programs are loaded.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let looked = Instant::now();
        assert_eq!(feed.relook().unwrap().changes.len(), 1);
        write("late");
        let news = feed.changed().await;
        assert_eq!(news.changes.len(), 1);
        assert!(news.noticed >= looked, "{:?} before it was there", looked - news.noticed);
        assert!(news.noticed <= Instant::now());
    }
}

//! What the watches tell, made into news: one change for everything that came together, lists compared with what was
//! known, troubles said once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use postern_policy::model::ObjectRef;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::{debug, info, warn};

use super::arrived;
use super::client::ConnectError;
use super::intern::Interner;
use super::trouble::{Cause, Trouble};
use super::watch::{Heard, Item, follow};
use crate::convert::object::{Fate, Kind};
use crate::feed::{Change, News};

/// How the watch of one kind is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStatus {
    /// The kind.
    pub kind: String,
    /// Its first list is complete.
    pub synced: bool,
    /// The server answered the last request.
    pub up: bool,
    /// Objects known.
    pub objects: usize,
    /// Lists read.
    pub lists: u64,
    /// Changes heard.
    pub events: u64,
    /// `metadata.resourceVersion` of the object read last.
    pub version: String,
    /// Failures, by cause.
    pub failures: BTreeMap<String, u64>,
}

/// One kind as it is known.
#[derive(Debug, Default)]
struct Known {
    objects: HashSet<ObjectRef>,
    synced: bool,
    trouble: Option<Trouble>,
    lists: u64,
    events: u64,
    version: String,
    failures: BTreeMap<Cause, u64>,
}

/// The watches, and what they told so far.
#[derive(Debug)]
pub struct Source {
    node: Arc<str>,
    heard: UnboundedReceiver<Heard>,
    known: BTreeMap<Kind, Known>,
    interner: Interner,
    /// What is wrong with objects.
    invalid: BTreeMap<ObjectRef, Vec<String>>,
    /// The same, as it was told last; none since something of it changed.
    told: Option<Arc<[String]>>,
    /// News that nobody was told yet, and since when there are any.
    changes: Vec<Change>,
    noticed: Option<Instant>,
    /// The causes already said of the present outage, and when it began.
    said: BTreeSet<Cause>,
    outage: Option<Instant>,
    /// The own node was known, or that it is not was said.
    node_known: bool,
}

impl Source {
    /// Starts watching, on behalf of a node.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used, whatever the server may say.
    pub fn start(config: &kube::Config, node: &str) -> Result<Self, ConnectError> {
        let (sender, heard) = unbounded_channel();
        let seen = Arc::new(AtomicU64::new(0));
        let started: [Result<(), kube::Error>; 6] = [
            follow::<arrived::Namespace>(config.clone(), sender.clone(), seen.clone()),
            follow::<arrived::Node>(config.clone(), sender.clone(), seen.clone()),
            follow::<arrived::Pod>(config.clone(), sender.clone(), seen.clone()),
            follow::<arrived::NetworkPolicy>(config.clone(), sender.clone(), seen.clone()),
            follow::<arrived::Service>(config.clone(), sender.clone(), seen.clone()),
            follow::<arrived::EndpointSlice>(config.clone(), sender, seen),
        ];
        for started in started {
            started.map_err(|error| ConnectError::Client {
                url: config.cluster_url.to_string(),
                message: error.to_string(),
            })?;
        }
        Ok(Self::new(node, heard))
    }

    fn new(node: &str, heard: UnboundedReceiver<Heard>) -> Self {
        Self {
            node: node.into(),
            heard,
            known: Kind::ALL.into_iter().map(|kind| (kind, Known::default())).collect(),
            interner: Interner::default(),
            invalid: BTreeMap::new(),
            told: None,
            changes: Vec::new(),
            noticed: None,
            said: BTreeSet::new(),
            outage: None,
            node_known: false,
        }
    }

    /// Waits for news; the first are those of all kinds together, once every list is complete. Cancel safe.
    pub async fn changed(&mut self) -> News {
        loop {
            match self.heard.recv().await {
                Some(heard) => self.hear(heard),
                // The watches never end on their own.
                None => std::future::pending().await,
            }
            while let Ok(heard) = self.heard.try_recv() {
                self.hear(heard);
            }
            if self.is_synced()
                && let Some(noticed) = self.noticed.take()
            {
                return News {
                    noticed,
                    changes: std::mem::take(&mut self.changes),
                    invalid: self.complaints(),
                    complete: self.own_node_is_known(),
                    unread: false,
                };
            }
        }
    }

    /// The first list of each kind is complete.
    fn is_synced(&self) -> bool {
        self.known.values().all(|known| known.synced)
    }

    /// How the watches are.
    #[must_use]
    pub fn status(&self) -> Vec<KindStatus> {
        let kinds = self.known.iter().map(|(kind, known)| KindStatus {
            kind: kind.to_string(),
            synced: known.synced,
            up: known.trouble.is_none(),
            objects: known.objects.len(),
            lists: known.lists,
            events: known.events,
            version: known.version.clone(),
            failures: known
                .failures
                .iter()
                .map(|(cause, count)| (cause.label().to_owned(), *count))
                .collect(),
        });
        kinds.collect()
    }

    /// What is wrong with the watches.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.known.values().filter_map(|known| known.trouble.as_ref()).map(ToString::to_string).collect()
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Listed(kind, objects) => {
                let names: HashSet<ObjectRef> = objects.iter().map(|item| item.name.clone()).collect();
                let was_synced = self.is_synced();
                let known = self.of(kind);
                known.lists += 1;
                known.synced = true;
                let gone: Vec<_> = known.objects.difference(&names).cloned().collect();
                debug!(%kind, objects = names.len(), gone = gone.len(), "listed");
                for name in gone {
                    self.delete(name);
                }
                // An object that was never used is not among those known.
                let complaints = self.invalid.len();
                self.invalid.retain(|name, _| Kind::of(name) != kind || names.contains(name));
                if self.invalid.len() != complaints {
                    self.told = None;
                }
                // Lists come in any order.
                let number = |version: &String| version.parse::<u64>().unwrap_or_default();
                let version = objects.iter().map(|item| item.version.clone()).max_by_key(number);
                for item in objects {
                    self.apply(item);
                }
                self.of(kind).version = version.unwrap_or_default();
                if !was_synced {
                    // Nothing can be told of before the last list: how long the server takes for it is not the agent's time.
                    self.noticed = None;
                }
                self.noticed.get_or_insert_with(Instant::now);
            }
            Heard::Applied(item) => {
                self.of(Kind::of(&item.name)).events += 1;
                self.apply(item);
            }
            Heard::Deleted(name, version) => {
                let known = self.of(Kind::of(&name));
                known.events += 1;
                known.version = version;
                self.delete(name);
            }
            Heard::Answered(kind) => self.answered(kind),
            Heard::Trouble(trouble) => self.trouble(trouble),
        }
    }

    fn of(&mut self, kind: Kind) -> &mut Known {
        self.known.entry(kind).or_default()
    }

    fn apply(&mut self, Item { name, parsed, version }: Item) {
        let known = self.of(Kind::of(&name));
        known.version = version;
        let (fate, messages) = parsed.fate(|it| known.objects.contains(it));
        let messages: Vec<_> = messages.into_iter().map(|message| format!("{name}: {message}")).collect();
        if self.invalid.get(&name).map_or(&[][..], |before| before) != messages {
            self.told = None;
            if messages.is_empty() {
                self.invalid.remove(&name);
            } else {
                self.invalid.insert(name.clone(), messages);
            }
        }
        self.noticed.get_or_insert_with(Instant::now);
        if let Fate::Apply(mut object) = fate {
            self.interner.share(&mut object);
            self.of(Kind::of(&name)).objects.insert(name);
            self.changes.push(Change::Apply(object));
        }
    }

    fn delete(&mut self, name: ObjectRef) {
        if self.invalid.remove(&name).is_some() {
            self.told = None;
        }
        self.of(Kind::of(&name)).objects.remove(&name);
        self.noticed.get_or_insert_with(Instant::now);
        self.changes.push(Change::Delete(name));
    }

    /// Says what is wrong once for each cause, not once for each kind and attempt.
    fn trouble(&mut self, trouble: Trouble) {
        let known = self.of(trouble.kind);
        *known.failures.entry(trouble.cause).or_default() += 1;
        if trouble.cause == Cause::Expired {
            info!(%trouble, "what this watch was to go on from is gone");
            return;
        }
        if self.said.insert(trouble.cause) {
            warn!("{trouble}; what is enforced stays enforced, and the agent keeps asking");
        } else {
            debug!(%trouble, "still trouble with the API server");
        }
        self.outage.get_or_insert_with(Instant::now);
        let kind = trouble.kind;
        self.of(kind).trouble = Some(trouble);
    }

    fn answered(&mut self, kind: Kind) {
        self.of(kind).trouble = None;
        if self.known.values().all(|known| known.trouble.is_none())
            && let Some(since) = self.outage.take()
        {
            self.said.clear();
            info!(seconds = since.elapsed().as_secs(), "the API server answers again");
        }
    }

    /// Whether this agent's own node exists. Under a wrong name it would find no pods of its own, and take off what
    /// is enforced.
    fn own_node_is_known(&mut self) -> bool {
        let node = ObjectRef::Node(self.node.clone());
        if self.of(Kind::Node).objects.contains(&node) {
            self.node_known = true;
        }
        self.node_known
    }

    /// All that is wrong with objects: the same list as before where it has not changed.
    fn complaints(&mut self) -> Arc<[String]> {
        let node_was_known = self.node_known;
        let node_is_known = self.own_node_is_known();
        if let Some(told) = &self.told
            && node_is_known
            && node_was_known
        {
            return told.clone();
        }
        let mut complaints: Vec<String> = self.invalid.values().flatten().cloned().collect();
        if !node_is_known {
            let mut others: Vec<_> = self.of(Kind::Node).objects.iter().map(ToString::to_string).collect();
            others.sort();
            others.truncate(5);
            complaints.push(format!(
                "no Node is called {:?}, but for example: {}; --node must be the spec.nodeName of this node's pods; what \
                 an earlier agent enforced stays",
                self.node,
                others.join(", ")
            ));
        }
        self.told.insert(complaints.into()).clone()
    }
}

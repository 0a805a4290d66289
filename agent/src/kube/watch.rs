//! One kind, followed for ever.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::runtime::watcher::{Config, Error, Event, InitialListStrategy, watcher};
use kube::{Api, Client};
use postern_policy::model::ObjectRef;
use tokio::sync::mpsc::UnboundedSender;
use tower::util::MapResponseLayer;

use super::arrived::{Arrived, Watched};
use super::trouble::{Cause, Trouble};
use crate::convert::object::{Kind, Parsed};

/// After how many seconds the server is to end a watch, and with that the longest time until a connection is noticed
/// that died without a word.
const WATCH_SECONDS: u32 = 120;

/// How long a streamed list may pause before it counts as one that never ends: some servers accept the request and
/// leave the mark at its end out.
const LIST_PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before asking again after the first failure, and after many: every node of a cluster asks.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// An object that was read.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: ObjectRef,
    pub(super) parsed: Parsed,
    /// `metadata.resourceVersion`
    pub(super) version: String,
}

impl Item {
    /// None for an object without a name, which no API server sends.
    fn new<W: Watched>(it: Arrived<W>) -> Option<Self> {
        Some(Self { name: it.reference()?, version: it.version(), parsed: it.parsed })
    }
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Heard {
    /// These are all there are.
    Listed(Kind, Vec<Item>),
    /// New or changed.
    Applied(Item),
    /// Gone, as of this version.
    Deleted(ObjectRef, String),
    /// The server answered a request.
    Answered(Kind),
    /// It did not, or not well.
    Trouble(Trouble),
}

/// Follows one kind, in a task that ends when nobody listens any more. `seen` is the newest version that any watch has seen.
///
/// # Errors
///
/// The configuration cannot be used.
pub(super) fn follow<W: Watched>(
    config: kube::Config,
    heard: UnboundedSender<Heard>,
    seen: Arc<AtomicU64>,
) -> Result<(), kube::Error> {
    let answered = heard.clone();
    let noting = MapResponseLayer::new(move |response: http::Response<_>| {
        if response.status().is_success() {
            // Nobody listens: the task ends with its next event.
            let _ = answered.send(Heard::Answered(W::KIND));
        }
        response
    });
    let client = ClientBuilder::try_from(config)?.with_layer(&noting).build();
    tokio::spawn(async move {
        let mut strategy = InitialListStrategy::StreamingList;
        while let Some(next) = watch::<W>(client.clone(), strategy, &heard, &seen).await {
            strategy = next;
        }
    });
    Ok(())
}

/// Watches until another way of listing must be tried, which is returned, or nobody listens any more.
async fn watch<W: Watched>(
    client: Client,
    strategy: InitialListStrategy,
    heard: &UnboundedSender<Heard>,
    seen: &AtomicU64,
) -> Option<InitialListStrategy> {
    let streaming = strategy == InitialListStrategy::StreamingList;
    let config = Config {
        field_selector: W::FIELDS.map(str::to_owned),
        timeout: Some(WATCH_SECONDS),
        initial_list_strategy: strategy.clone(),
        ..Config::default()
    };
    let api = Api::<Arrived<W>>::all(client);
    let mut events = pin!(watcher(api.clone(), config));
    let retry = ExponentialBuilder::new().with_min_delay(RETRY.0).with_max_delay(RETRY.1);
    let retry = retry.with_factor(2.0).with_jitter().without_max_times();
    let mut delays = retry.build();
    let mut listing = None;
    let mut listed = false;
    loop {
        let patience = if streaming && listing.is_some() { LIST_PATIENCE } else { Duration::MAX };
        let Ok(event) = tokio::time::timeout(patience, events.next()).await else {
            heard.send(Heard::Trouble(Trouble::stalled(W::KIND))).ok()?;
            return Some(InitialListStrategy::ListWatch);
        };
        let event = event?;
        if event.is_ok() {
            delays = retry.build();
        }
        match event {
            Ok(Event::Init) => listing = Some(Vec::new()),
            Ok(Event::InitApply(it)) => {
                note(seen, &it.version());
                listing.get_or_insert_default().extend(Item::new(it));
            }
            Ok(Event::InitDone) => {
                listed = true;
                heard.send(Heard::Listed(W::KIND, listing.take().unwrap_or_default())).ok()?;
            }
            Ok(Event::Apply(it)) => {
                if let Some(item) = Item::new(it) {
                    note(seen, &item.version);
                    heard.send(Heard::Applied(item)).ok()?;
                }
            }
            Ok(Event::Delete(it)) => {
                if let Some(name) = it.reference() {
                    note(seen, &it.version());
                    heard.send(Heard::Deleted(name, it.version())).ok()?;
                }
            }
            Err(error) => {
                let trouble = Trouble::new(W::KIND, &error);
                let cause = trouble.cause;
                heard.send(Heard::Trouble(trouble)).ok()?;
                if streaming && cause == Cause::Refused {
                    // A server that does not know streamed lists, or has them switched off, refuses the request.
                    return Some(InitialListStrategy::ListWatch);
                }
                tokio::time::sleep(delays.next().unwrap_or(RETRY.1)).await;
                if listed && cause != Cause::Expired && begun_anew(&api, seen, heard, &mut delays).await? {
                    return Some(strategy);
                }
            }
        }
    }
}

/// Notes the newest version seen by any watch: one sequence numbers all objects.
fn note(seen: &AtomicU64, version: &str) {
    seen.fetch_max(version.parse().unwrap_or_default(), Ordering::Relaxed);
}

/// Whether the API server is behind what was seen of it, asked once it answers again: a backup was restored. A watch that
/// went on from where it was would miss everything until the server has caught up; so long, every break is a reason to
/// list anew. None: nobody listens any more.
async fn begun_anew<W: Watched>(
    api: &Api<Arrived<W>>,
    seen: &AtomicU64,
    heard: &UnboundedSender<Heard>,
    delays: &mut impl Iterator<Item = Duration>,
) -> Option<bool> {
    loop {
        match api.list(&ListParams::default().limit(1)).await {
            Ok(list) => {
                // A version that is no number says nothing.
                let newest = list.metadata.resource_version.and_then(|version| version.parse::<u64>().ok());
                return Some(newest.is_some_and(|newest| newest < seen.load(Ordering::Relaxed)));
            }
            Err(error) => {
                let trouble = Trouble::new(W::KIND, &Error::InitialListFailed(error));
                heard.send(Heard::Trouble(trouble)).ok()?;
                tokio::time::sleep(delays.next().unwrap_or(RETRY.1)).await;
            }
        }
    }
}

//! The loop that ties everything together: news and links in, plans and endpoints out.
//!
//! One task owns the engine and the data path, so that nothing is ever locked and changes are carried out in the order
//! in which they came.

mod age;
mod complaints;
mod options;
mod owners;
mod pending;
mod retry;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

use postern_policy::model::Object;
use postern_policy::{Engine, Scope};

use self::age::Moment;
pub use self::options::{ControllerError, Options, Origin};
use self::owners::Owners;
use self::pending::{Pending, not_enforced};
use self::retry::Retry;
pub use self::wanted::Antispoof;
use crate::control::{self, Question, Server, Status};
use crate::datapath::tables::BUDGET;
use crate::datapath::wanted::Wanted;
use crate::datapath::{Datapath, ExecuteError, SetupError};
use crate::feed::{Change, Feed, Folder, News};
use crate::http;
use crate::kube;
use crate::links::{self, Scanner, View};
use crate::logging;
use crate::metrics::Metrics;

/// Everything is looked at again this often, in case an event was lost.
const RELOOK: Duration = Duration::from_secs(30);

/// What failed is tried again after this long, but for what maps have refused (see [`Retry`]).
const AGAIN: Duration = Duration::from_secs(1);

/// How many policies may be refused one after the other, where maps are full, before the next retry.
const MOST_REFUSED_AT_ONCE: usize = 16;

/// Runs the agent until it is told to stop (SIGTERM, SIGINT). What is enforced then stays so.
///
/// # Errors
///
/// See [`ControllerError`]: only what prevents the start. Later failures are reported and tried again.
pub async fn run(options: Options) -> Result<(), ControllerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControllerError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControllerError::Signal)?;
    let socket = |source| ControllerError::Socket { path: options.socket.clone(), source };
    let mut server = Server::open(&options.socket).map_err(socket)?;
    let metrics = Metrics::new();
    let _http = match options.http {
        None => None,
        Some(address) => {
            let listening = http::listen(address, server.asking(), metrics.clone()).await;
            Some(listening.map_err(|source| ControllerError::Http { address, source })?)
        }
    };
    // Watches are opened before the first look, so that nothing falls in between.
    let mut feed = open(&options).await?;
    let mut monitor = links::monitor()?;
    let mut controller = Controller::start(&options, metrics)?;
    let mut relook = tokio::time::interval(RELOOK);
    info!(node = options.node, origin = ?options.origin, attach = ?options.mode, "agent is running");

    // Without knowing the veths there is nothing to start with; later looks may fail.
    let view = controller.scanner.scan().await?;
    controller.see(view);
    if let Some(news) = feed.relook() {
        controller.take(news);
        controller.settle();
        controller.publish(&feed);
    }
    loop {
        tokio::select! {
            news = feed.changed() => {
                let effect = controller.take(news);
                if effect != Effect::None {
                    controller.settle();
                }
                if effect == Effect::OwnPods || controller.awaits_veths() {
                    // Policy does not wait for this; whoever asks whether all is enforced must.
                    controller.look().await;
                    controller.settle();
                }
                controller.publish(&feed);
            }
            () = monitor.changed() => {
                controller.look().await;
                controller.settle();
            }
            _ = relook.tick() => {
                controller.look().await;
                if let Some(news) = feed.relook() {
                    controller.take(news);
                }
                // What a namespace takes may have become less.
                controller.engine.reconsider();
                // As veths may have lost what they carried.
                controller.datapath.doubt();
                controller.settle();
                controller.publish(&feed);
                controller.datapath.remove_expired();
                controller.pending.say(Instant::now());
            }
            () = tokio::time::sleep_until(controller.again().into()), if !controller.failures.is_empty() => {
                controller.look().await;
                controller.settle();
            }
            question = server.next() => controller.answer(question, &feed),
            () = stop(&mut terminate, &mut interrupt) => {
                info!("agent stops; what is enforced stays enforced");
                return Ok(());
            }
        }
    }
}

async fn open(options: &Options) -> Result<Feed, ControllerError> {
    match &options.origin {
        Origin::Manifests(path) => {
            let error = |source| ControllerError::Watch { path: path.clone(), source };
            Ok(Feed::Manifests(Folder::open(path).map_err(error)?))
        }
        Origin::Kube(kubeconfig) => {
            let config = kube::connect(kubeconfig.as_deref()).await?;
            info!(server = %config.cluster_url, "watching the API server");
            Ok(Feed::Kube(kube::Source::start(&config, &options.node)?))
        }
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What is known of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Picture {
    /// Nothing yet: nothing in the kernel is touched.
    None,
    /// There may be policies that this agent has not been able to read since it started: what an earlier one enforced
    /// stays until it has.
    Partial,
    /// Everything has been read once.
    Complete,
}

/// What news come to. Most of what a cluster tells is about what policy does not look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Nothing is other than it was.
    None,
    /// There may be something to write.
    Policy,
    /// Pods of this node differ: their veths may be new, too.
    OwnPods,
}

struct Controller {
    node: Arc<str>,
    engine: Engine,
    datapath: Datapath,
    scanner: Scanner,
    view: View,
    /// What the last look did not show.
    unseen: Vec<String>,
    antispoof: Antispoof,
    owners: Owners,
    metrics: Metrics,
    /// Fingerprint of what is enforced on every veth seen since it was read.
    digest: String,
    picture: Picture,
    /// What was wrong with what was read.
    invalid: Arc<[String]>,
    /// Among it is what nobody can read at all.
    unread: bool,
    /// What the kernel refused last time; the plan that it broke off is replaced by a full comparison.
    failures: Vec<String>,
    retry: Retry,
    /// What is wrong on the veths' hooks.
    on_veths: Vec<String>,
    /// When everything was last carried out, as far as that went.
    settled: Instant,
    broken_off: bool,
    /// Why the last plan was broken off.
    refusal: String,
    /// Policies for which there is no room: they allow nothing.
    no_room: Vec<String>,
    /// What earlier agents left in the maps is still there.
    unswept: bool,
    /// Isolated pods without a veth.
    pending: Pending,
    /// When the change that is being carried out was noticed.
    noticed: Option<Instant>,
    enforced_in: Duration,
}

impl Controller {
    fn start(options: &Options, metrics: Metrics) -> Result<Self, ControllerError> {
        let (mut datapath, first_class) = Datapath::start(&options.pins, options.mode, options.settings)?;
        if options.settings.debug {
            datapath.follow_programs().map_err(SetupError::from)?;
        }
        let node: Arc<str> = options.node.as_str().into();
        let mut scanner = Scanner::open()?;
        scanner.expect(datapath.endpoints().enforcing());
        let found = datapath.endpoints().addresses().by_veth().clone();
        let owners = Owners::new(found, datapath.left_closed());
        let mut engine = Engine::new(Scope::Node(node.clone()), first_class);
        engine.limit(BUDGET);
        engine.number_transitional_from(datapath.first_transitional());
        engine.keep_departed();
        if !datapath.judges_backends() {
            engine.judge_in_front_of_services();
        }
        Ok(Self {
            engine,
            node,
            datapath,
            scanner,
            view: View::default(),
            unseen: Vec::new(),
            antispoof: options.antispoof,
            owners,
            metrics,
            digest: String::new(),
            picture: Picture::None,
            invalid: Arc::default(),
            unread: false,
            failures: Vec::new(),
            retry: Retry::new(),
            on_veths: Vec::new(),
            settled: Instant::now(),
            broken_off: false,
            refusal: String::new(),
            no_room: Vec::new(),
            unswept: true,
            pending: Pending::default(),
            noticed: None,
            enforced_in: Duration::ZERO,
        })
    }

    /// Looks at the kernel's links.
    async fn look(&mut self) {
        match self.scanner.scan().await {
            Ok(view) => self.see(view),
            // The next look may do better; until then the veths known stay guarded.
            Err(error) => self.unseen = vec![error.to_string()],
        }
    }

    fn see(&mut self, view: View) {
        if self.engine.set_local_addresses(view.local.iter().copied()) {
            self.retry.reset();
        }
        self.owners.looked(&view.veths, Moment::now());
        self.unseen.clone_from(&view.unknown);
        self.view = view;
    }

    /// Takes in what is new.
    fn take(&mut self, news: News) -> Effect {
        let News { noticed, changes, invalid, complete, unread } = news;
        self.unread = unread;
        let picture = match (self.picture, complete) {
            (Picture::Complete, _) | (_, true) => Picture::Complete,
            _ => Picture::Partial,
        };
        let mut effect = if picture == self.picture { Effect::None } else { Effect::Policy };
        self.picture = picture;
        for change in changes {
            debug!(?change, "changed");
            let own =
                matches!(&change, Change::Apply(Object::Pod(pod)) if pod.node.as_ref() == Some(&self.node));
            let differs = match change {
                Change::Apply(object) => self.engine.apply(object),
                Change::Delete(reference) => self.engine.delete(&reference),
            };
            if differs {
                self.noticed.get_or_insert(noticed);
                effect = effect.max(if own { Effect::OwnPods } else { Effect::Policy });
            }
        }
        if effect != Effect::None {
            self.retry.reset();
        }
        if !Arc::ptr_eq(&invalid, &self.invalid) {
            self.complain(invalid);
        }
        effect
    }

    /// Takes in, and says, what is wrong with objects.
    fn complain(&mut self, invalid: Arc<[String]>) {
        complaints::logged(&complaints::new(&invalid, &self.invalid), |message| error!("{message}"));
        if invalid.is_empty() && !self.invalid.is_empty() {
            info!("all objects are valid again");
        }
        if self.picture == Picture::Partial && invalid != self.invalid {
            warn!("not everything is known: what an earlier agent enforced stays as it is until it is");
        }
        self.invalid = invalid;
    }

    /// Isolated pods are new, and their veths may be, too.
    fn awaits_veths(&self) -> bool {
        self.pending.awaited(Instant::now()).next().is_some()
    }

    /// Says that what was read is enforced.
    fn publish(&mut self, feed: &Feed) {
        feed.digest().clone_into(&mut self.digest);
    }

    /// Carries out what follows from all that was read and seen.
    fn settle(&mut self) {
        if self.picture == Picture::None {
            // What an earlier agent enforced is better than what half a picture would.
            return;
        }
        // Before the plan that does without them: their veths are not to open.
        for pod in self.engine.take_departures() {
            self.datapath.depart(&pod);
        }
        // There may be veths, or addresses, that nothing is enforced on.
        let mut failures = self.unseen.clone();
        let is_enforced = if self.broken_off && !self.retry.is_due() {
            // Nothing has changed since the kernel refused: reading all maps back again would tell nothing new.
            false
        } else if let Err(error) = self.enforce() {
            self.broken_off = true;
            self.refusal = error.to_string();
            false
        } else {
            true
        };
        if !is_enforced {
            failures.push(self.refusal.clone());
        }
        let no_room: Vec<String> = self.engine.refused().map(|refused| refused.to_string()).collect();
        for message in no_room.iter().filter(|message| !self.no_room.contains(message)) {
            error!("{message}");
        }
        self.no_room = no_room;
        self.owners.heard(&self.engine, Moment::now());
        let (mut wanted, pending) =
            wanted::wanted(&self.engine, &self.view.veths, &mut self.owners, self.antispoof);
        if !is_enforced {
            self.datapath.hold_back(&mut wanted);
        }
        self.datapath.set_tunnel_ports(&self.view.tunnel_ports);
        self.datapath.set_devices(&self.view.devices);
        failures.extend(
            self.datapath
                .reconcile(&wanted, self.picture != Picture::Complete || !is_enforced)
                .iter()
                .map(ToString::to_string),
        );
        if self.datapath.is_unread() || !self.on_veths.is_empty() {
            self.on_veths = self.datapath.read_back();
        }
        failures.extend(self.on_veths.iter().cloned());
        self.engine.forget_departed(&self.owners.pods());
        self.catch_up(&wanted);
        self.pending.update(pending, Instant::now());
        complaints::logged(&complaints::new(&failures, &self.failures), |message| {
            error!("{message}; trying again");
        });
        self.failures = failures;
        if self.failures.is_empty()
            && let Some(noticed) = self.noticed.take()
        {
            self.enforced_in = noticed.elapsed();
            self.metrics.enforced(self.enforced_in);
            let milliseconds = format_args!("{:.2}", self.enforced_in.as_secs_f64() * 1e3);
            info!(%milliseconds, generation = self.datapath.generation(), "change is enforced");
        }
        if let Err(error) = self.datapath.finish() {
            self.broken_off = true;
            self.refusal = error.to_string();
            self.failures.push(error.to_string());
            error!("{error}; trying again");
        }
        if self.broken_off {
            self.retry.failed();
        } else {
            self.retry.reset();
        }
        self.settled = Instant::now();
        self.forget_earlier_agents();
    }

    /// When to try again what failed. What maps refused, less and less often, since that takes reading them back; a veth that has no
    /// programs yet, or could not be looked at, does not wait for that.
    fn again(&self) -> Instant {
        let is_refused = self.broken_off && self.failures.iter().all(|failure| *failure == self.refusal);
        if is_refused { self.retry.at() } else { self.settled + AGAIN }
    }

    /// All that was there before this agent is known, once everything has been read.
    fn catch_up(&mut self, wanted: &BTreeMap<u32, Wanted>) {
        if self.picture != Picture::Complete || !self.owners.ages.catch_up() {
            return;
        }
        let pods = self.owners.unaddressed(&self.engine);
        let interfaces: Vec<&str> =
            wanted.values().filter(|it| it.is_quarantine()).map(|it| it.interface.as_str()).collect();
        if !pods.is_empty() && !interfaces.is_empty() {
            let pods: Vec<String> = pods.iter().map(ToString::to_string).collect();
            warn!(
                ?pods,
                ?interfaces,
                "isolated pods without an address are older than this agent: veths of no known pod may be theirs, and are \
                 quarantined until the pods have addresses or go"
            );
        }
    }

    /// Carries out a plan. Where maps are full, those who take most make room: what others' policies say comes first.
    fn enforce(&mut self) -> Result<(), ExecuteError> {
        for _ in 0..MOST_REFUSED_AT_ONCE {
            match self.carry_out() {
                Err(error) if error.is_full() && self.engine.refuse_most() => {
                    warn!("{error}");
                    self.broken_off = true;
                }
                result => return result,
            }
        }
        self.carry_out()
    }

    fn carry_out(&mut self) -> Result<(), ExecuteError> {
        let plan = if self.broken_off {
            self.engine.recover(&self.datapath.recorded()?)
        } else {
            self.engine.plan()
        };
        debug!(actions = plan.steps.len(), "carrying out a plan");
        self.datapath.execute(plan)?;
        self.broken_off = false;
        Ok(())
    }

    fn forget_earlier_agents(&mut self) {
        if !self.unswept || self.picture != Picture::Complete || !self.failures.is_empty() {
            // Something may still lean on what they left.
            return;
        }
        match self.datapath.sweep(&self.engine.tables()) {
            Ok(0) => {}
            Ok(entries) => info!(entries, "removed what an earlier agent left in the maps"),
            Err(error) => {
                warn!(%error, "removing what an earlier agent left failed; trying again with the next change");
                return;
            }
        }
        self.unswept = false;
    }

    fn answer(&self, question: Question, feed: &Feed) {
        let control::Request::Status = question.request;
        let carried = self.datapath.endpoints().carried();
        let endpoints = carried.iter().map(|(ifindex, it)| control::Endpoint {
            ifindex: *ifindex,
            interface: it.interface.clone(),
            pod: it.pod.as_ref().map(ToString::to_string),
            ingress_class: it.policy().map_or(0, |policy| policy.ingress.0),
            egress_class: it.policy().map_or(0, |policy| policy.egress.0),
            departed: it.departed,
            quarantined: it.is_quarantine(),
            guarded: it.is_guarded(),
        });
        let counted =
            self.datapath.counted().inspect_err(|error| warn!(%error, "reading the counters failed"));
        let now = Instant::now();
        let pending: Vec<String> = self.pending.awaited(now).map(ToString::to_string).collect();
        let settled = self.picture != Picture::None && self.failures.is_empty() && pending.is_empty();
        let without_veth: Vec<String> = self.pending.given_up(now).map(not_enforced).collect();
        let (errors, errors_total) = complaints::listed([
            &self.invalid[..],
            &self.failures[..],
            &self.no_room[..],
            &without_veth[..],
            &feed.troubles()[..],
        ]);
        let origin = self.datapath.origin();
        let status = Status {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attach: format!("{:?}", self.datapath.endpoints().mode()).to_lowercase(),
            digest: self.digest.clone(),
            watches: feed.watches(),
            services: self.datapath.services().to_owned(),
            programs: if origin.reused { "reused" } else { "loaded" }.to_owned(),
            programs_in_ms: origin.took.as_secs_f64() * 1e3,
            synced: self.picture != Picture::None,
            generation: self.datapath.generation(),
            ready: settled && self.no_room.is_empty() && self.picture == Picture::Complete && !self.unread,
            unread: self.unread,
            settled,
            enforced_in_ms: self.enforced_in.as_secs_f64() * 1e3,
            pending,
            pods_without_veth: without_veth.len(),
            antispoof: self.antispoof,
            endpoints: endpoints.collect(),
            foreign: self.datapath.foreign().to_vec(),
            realtime: self.datapath.is_realtime(),
            packets: counted.unwrap_or_default(),
            log_lines_lost: logging::lost(),
            errors,
            errors_total,
        };
        // Whoever asked may be gone.
        let _ = question.answer.send(status);
    }
}

//! The loop that ties everything together: manifests and links in, plans and endpoints out.
//!
//! One task owns the engine and the data path, so that nothing is ever locked and changes are carried out in the order
//! in which they came.

mod owners;
mod wanted;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

use postern_policy::{Engine, Scope};

use self::owners::Owners;
pub use self::wanted::Antispoof;
use crate::control::{self, Question, Server, Status};
use crate::datapath::attach::Mode;
use crate::datapath::object::Settings;
use crate::datapath::{Datapath, ExecuteError, SetupError};
use crate::links::{self, LinkError, Scanner, View};
use crate::manifests::{self, Change, Reading, Source};

/// Everything is looked at again this often, in case an event was lost.
const RELOOK: Duration = Duration::from_secs(30);

/// What failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of manifests.
    pub manifests: PathBuf,
    /// The node whose pods to look after (`spec.nodeName`).
    pub node: String,
    /// Folder for pins, on a BPF file system.
    pub pins: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// How programs are attached.
    pub mode: Mode,
    /// Whose senders are checked.
    pub antispoof: Antispoof,
    /// Settings of the programs.
    pub settings: Settings,
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The data path.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Links.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// The folder of manifests.
    #[error("watching {}: {source}; --manifests must name a folder that exists", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// The control socket.
    #[error("control socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Signals.
    #[error("listening for signals: {0}")]
    Signal(std::io::Error),
}

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
    // Watches are opened before the first look, so that nothing falls in between.
    let watch = |source| ControllerError::Watch { path: options.manifests.clone(), source };
    let mut watch = manifests::watch(&options.manifests).map_err(watch)?;
    let mut monitor = links::monitor()?;
    let mut controller = Controller::start(&options)?;
    let mut relook = tokio::time::interval(RELOOK);
    info!(node = options.node, manifests = %options.manifests.display(), attach = ?options.mode, "agent is running");

    // Without knowing the veths there is nothing to start with; later looks may fail.
    controller.view = controller.scanner.scan().await?;
    controller.engine.set_local_addresses(controller.view.local.iter().copied());
    controller.read(Instant::now());
    controller.settle();
    controller.publish();
    loop {
        tokio::select! {
            noticed = watch.changed() => {
                controller.read(noticed);
                controller.settle();
                // Policy does not wait for this; whoever asks whether all is enforced must.
                controller.look().await;
                controller.settle();
                controller.publish();
            }
            () = monitor.changed() => {
                controller.look().await;
                controller.settle();
            }
            _ = relook.tick() => {
                controller.look().await;
                controller.read(Instant::now());
                controller.settle();
                controller.publish();
                controller.datapath.remove_expired();
            }
            () = tokio::time::sleep_until(controller.retry.into()), if !controller.failures.is_empty() => {
                controller.look().await;
                controller.settle();
            }
            question = server.next() => controller.answer(question),
            () = stop(&mut terminate, &mut interrupt) => {
                info!("agent stops; what is enforced stays enforced");
                return Ok(());
            }
        }
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

struct Controller {
    node: String,
    engine: Engine,
    datapath: Datapath,
    scanner: Scanner,
    view: View,
    antispoof: Antispoof,
    owners: Owners,
    source: Source,
    /// Fingerprint of what was last read, and of what is enforced on every veth seen since.
    read: String,
    digest: String,
    /// What was wrong with what was read.
    invalid: Vec<String>,
    /// What the kernel refused last time; the plan that it broke off is replaced by a full comparison.
    failures: Vec<String>,
    retry: Instant,
    broken_off: bool,
    /// There may be policies that this agent has not been able to read since it started: what an earlier one enforced
    /// stays until it has.
    hold: bool,
    /// What earlier agents left in the maps is still there.
    unswept: bool,
    /// Isolated pods without a veth.
    pending: Vec<String>,
    /// When the change that is being carried out was noticed.
    noticed: Option<Instant>,
    enforced_in: Duration,
}

impl Controller {
    fn start(options: &Options) -> Result<Self, ControllerError> {
        let (mut datapath, first_class) = Datapath::start(&options.pins, options.mode, options.settings)?;
        if options.settings.debug {
            datapath.follow_programs().map_err(SetupError::from)?;
        }
        let owners = Owners::new(datapath.endpoints().addresses().by_veth().clone());
        Ok(Self {
            node: options.node.clone(),
            engine: Engine::new(Scope::Node(options.node.as_str().into()), first_class),
            datapath,
            scanner: Scanner::open()?,
            view: View::default(),
            antispoof: options.antispoof,
            owners,
            source: Source::new(&options.manifests),
            read: String::new(),
            digest: String::new(),
            invalid: Vec::new(),
            failures: Vec::new(),
            retry: Instant::now(),
            broken_off: false,
            hold: true,
            unswept: true,
            pending: Vec::new(),
            noticed: None,
            enforced_in: Duration::ZERO,
        })
    }

    /// Looks at the kernel's links.
    async fn look(&mut self) {
        match self.scanner.scan().await {
            Ok(view) => {
                self.engine.set_local_addresses(view.local.iter().copied());
                self.view = view;
            }
            // The next look may do better; until then the veths known stay guarded.
            Err(error) => warn!(%error, "looking at the node's links failed"),
        }
    }

    /// Reads the manifests.
    fn read(&mut self, noticed: Instant) {
        // A file written while we read makes an event of its own: then the digest is read again, too.
        let digest = manifests::digest(self.source.folder()).unwrap_or_default();
        let Reading { changes, errors, incomplete } = self.source.read();
        self.hold &= incomplete;
        for change in &changes {
            debug!(?change, "manifest changed");
        }
        for change in changes {
            self.noticed.get_or_insert(noticed);
            match change {
                Change::Apply(object) => self.engine.apply(object),
                Change::Delete(reference) => self.engine.delete(&reference),
            };
        }
        let invalid: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for message in invalid.iter().filter(|message| !self.invalid.contains(message)) {
            error!("{message}");
        }
        if invalid.is_empty() && !self.invalid.is_empty() {
            info!("all manifests are valid again");
        }
        if self.hold && invalid != self.invalid {
            warn!(
                "not all manifests could be read: what an earlier agent enforced stays as it is until they can"
            );
        }
        self.invalid = invalid;
        self.read = digest;
    }

    /// Says that what was read is enforced.
    fn publish(&mut self) {
        self.digest.clone_from(&self.read);
    }

    /// Carries out what follows from all that was read and seen.
    fn settle(&mut self) {
        let mut failures = Vec::new();
        if let Err(error) = self.enforce() {
            self.broken_off = true;
            failures.push(error.to_string());
        }
        let (wanted, pending) =
            wanted::wanted(&self.engine, &self.view.veths, &mut self.owners, self.antispoof);
        failures.extend(self.datapath.reconcile(&wanted, self.hold).iter().map(ToString::to_string));
        self.pending = pending.iter().map(ToString::to_string).collect();
        for message in failures.iter().filter(|message| !self.failures.contains(message)) {
            error!("{message}; trying again");
        }
        self.failures = failures;
        // A point in time, not a span: whatever else wakes the loop must not put it off.
        self.retry = Instant::now() + RETRY;
        if self.failures.is_empty()
            && let Some(noticed) = self.noticed.take()
        {
            self.enforced_in = noticed.elapsed();
            let milliseconds = format_args!("{:.2}", self.enforced_in.as_secs_f64() * 1e3);
            info!(%milliseconds, generation = self.datapath.generation(), "change is enforced");
        }
        if let Err(error) = self.datapath.finish() {
            self.broken_off = true;
            self.failures.push(error.to_string());
            error!("{error}; trying again");
        }
        self.forget_earlier_agents();
    }

    fn enforce(&mut self) -> Result<(), ExecuteError> {
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
        if !self.unswept || self.hold || !self.failures.is_empty() {
            // Something may still lean on what they left.
            return;
        }
        self.unswept = false;
        match self.datapath.sweep(&self.engine.tables()) {
            Ok(0) => {}
            Ok(entries) => info!(entries, "removed what an earlier agent left in the maps"),
            Err(error) => {
                warn!(%error, "removing what an earlier agent left failed; the next start tries again");
            }
        }
    }

    fn answer(&self, question: Question) {
        let control::Request::Status = question.request;
        let carried = self.datapath.endpoints().carried();
        let endpoints = carried.iter().map(|(ifindex, it)| control::Endpoint {
            ifindex: *ifindex,
            interface: it.interface.clone(),
            pod: it.pod.as_ref().map(ToString::to_string),
            ingress_class: it.policy().map_or(0, |policy| policy.ingress.0),
            egress_class: it.policy().map_or(0, |policy| policy.egress.0),
            quarantined: it.is_quarantine(),
            guarded: it.is_guarded(),
        });
        let counted =
            self.datapath.counted().inspect_err(|error| warn!(%error, "reading the counters failed"));
        let status = Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attach: format!("{:?}", self.datapath.endpoints().mode()).to_lowercase(),
            digest: self.digest.clone(),
            generation: self.datapath.generation(),
            ready: self.failures.is_empty() && self.pending.is_empty() && !self.hold,
            enforced_in_ms: self.enforced_in.as_secs_f64() * 1e3,
            pending: self.pending.clone(),
            antispoof: self.antispoof,
            endpoints: endpoints.collect(),
            packets: counted.unwrap_or_default(),
            errors: self.invalid.iter().chain(&self.failures).cloned().collect(),
        };
        // Whoever asked may be gone.
        let _ = question.answer.send(status);
    }
}

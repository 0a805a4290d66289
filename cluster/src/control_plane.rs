//! The control plane: etcd and kube-apiserver, and on request the controller manager and the scheduler, in a network
//! namespace of their own.
//!
//! Alone, without nodes, it is ready in a few seconds, and enough for whatever only talks to the API: objects are what
//! tests write, and pods are "running" when a test says so in their status. `cargo xtask cluster build` must have run
//! once.
//!
//! ```no_run
//! use postern_cluster::control_plane::{ControlPlane, Options};
//! use postern_cluster::relay::Mode;
//!
//! let mut control = ControlPlane::start(&Options::default())?;
//! // In this process's own network namespace; `relay_from(&netns)` for a process elsewhere.
//! let relay = control.relay()?;
//! println!("KUBECONFIG={}", relay.kubeconfig().display());
//! relay.set(Mode::Stall); // ... and nothing is heard of the API server any more
//! relay.set(Mode::Pass);
//! control.apiserver().kill()?;
//! control.apiserver().start()?;
//! control.wait_until_ready()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! All of this blocks; from async code, use a thread for it (`spawn_blocking`). Dropping ends and removes everything.

mod flags;
mod identities;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_lab::netns::{self, Netns};

use crate::fabric::{self, APISERVER_PORT, CONTROL, Fabric};
use crate::files;
use crate::launcher::Launcher;
use crate::programs::{self, Program};
use crate::relay::{self, Relay};
use crate::run::Run;
use crate::service::{self, Service};
use crate::{api, kubeconfig, pki};

pub(crate) use identities::Identities;

/// How long the API server may take to be ready.
const PATIENCE: Duration = Duration::from_mins(2);

/// The control plane failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not built.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// Namespaces and wires.
    #[error(transparent)]
    Fabric(#[from] fabric::Error),
    /// A namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A program does not do what it should.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// The way there from another namespace.
    #[error(transparent)]
    Relay(#[from] relay::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More flags for kube-apiserver; they come last, and win.
    pub apiserver_flags: Vec<String>,
    /// Start the controller manager and the scheduler too. Without them nobody makes service accounts, so pods need
    /// none; nobody places pods, and deleted namespaces stay.
    pub controllers: bool,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // In the order in which they go.
    controllers: Vec<Service>,
    apiserver: Service,
    etcd: Service,
    fabric: Fabric,
    identities: Identities,
    relays: u32,
    run: Run,
}

impl ControlPlane {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    /// Not root, a program is not built, or does not start. What was made so far is removed.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let mut control = Self::begin(options)?;
        control.wait_until_ready()?;
        Ok(control)
    }

    /// Starts one, and does not wait.
    pub(crate) fn begin(options: &Options) -> Result<Self, Error> {
        let [etcd, apiserver] = [Program::Etcd, Program::Apiserver].map(Program::path);
        let (etcd, apiserver) = (etcd?, apiserver?);
        let run = Run::start()?;
        let fabric = Fabric::new(&run.prefix())?;
        let identities = Identities::write(&run.state())?;
        let launcher = Arc::new(Launcher::inside(fabric.control())?);
        let logs = run.state().join("logs");
        let service =
            |program: Program, path: PathBuf| Service::new(program.name(), path, launcher.clone(), &logs);
        let etcd = service(Program::Etcd, etcd).args(flags::etcd(&run.state()));
        let mut apiserver = service(Program::Apiserver, apiserver).args(flags::apiserver(&identities));
        if !options.controllers {
            apiserver = apiserver.args(flags::WITHOUT_CONTROLLERS);
        }
        let apiserver = apiserver.args(options.apiserver_flags.iter().cloned());
        let mut controllers = Vec::new();
        if options.controllers {
            let program = Program::ControllerManager;
            controllers.push(service(program, program.path()?).args(flags::controller_manager(&identities)));
            let program = Program::Scheduler;
            controllers.push(service(program, program.path()?).args(flags::scheduler(&identities)));
        }
        let relays = 0;
        let mut control = Self { controllers, apiserver, etcd, fabric, identities, relays, run };
        control.etcd.start()?;
        control.apiserver.start()?;
        Ok(control)
    }

    /// Waits until the API server says that it is ready. Starts the controllers, when they were asked for and do not run:
    /// they end where the API server does not know their permissions yet.
    ///
    /// # Errors
    /// The API server ended, or is not ready after two minutes.
    pub fn wait_until_ready(&mut self) -> Result<(), Error> {
        let (kubeconfig, netns) = (self.identities.administrator(), self.fabric.control());
        self.apiserver.wait_until(PATIENCE, || api::is_ready(netns, &kubeconfig))?;
        for controller in &mut self.controllers {
            controller.start()?;
        }
        Ok(())
    }

    /// kube-apiserver: to stop, kill, freeze and start again. See [`Self::wait_until_ready`].
    pub fn apiserver(&mut self) -> &mut Service {
        &mut self.apiserver
    }

    /// etcd: to stop, kill, freeze and start again. Its data stays; but see [`Self::start_over`].
    pub fn etcd(&mut self) -> &mut Service {
        &mut self.etcd
    }

    /// The controller manager and the scheduler, when they were asked for.
    pub fn controllers(&mut self) -> &mut [Service] {
        &mut self.controllers
    }

    /// Stops all, forgets all objects, and starts again: resource versions begin anew, as after a restored backup.
    ///
    /// # Errors
    /// A program does not stop or start.
    pub fn start_over(&mut self) -> Result<(), Error> {
        self.apiserver.kill()?;
        self.etcd.kill()?;
        let data = flags::etcd_data(&self.run.state());
        std::fs::remove_dir_all(&data).map_err(files::Error::on("remove", &data))?;
        self.etcd.start()?;
        self.apiserver.start()?;
        self.wait_until_ready()
    }

    /// A way to the API server from the caller's network namespace.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn relay(&mut self) -> Result<Relay, Error> {
        self.new_relay(None)
    }

    /// A way to the API server from another network namespace, on its loopback interface, which must be up.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn relay_from(&mut self, netns: &Netns) -> Result<Relay, Error> {
        self.new_relay(Some(netns))
    }

    fn new_relay(&mut self, from: Option<&Netns>) -> Result<Relay, Error> {
        let relay = Relay::start(from, self.fabric.control(), Self::address())?;
        self.relays += 1;
        let path = self.run.state().join(format!("relay-{}.kubeconfig", self.relays));
        let text = self.identities.administrator_kubeconfig(&relay.server());
        Ok(relay.with_kubeconfig(path, &text)?)
    }

    /// A kubeconfig for a user of your choice (one group at most), through `relay`. The user may do what RBAC allows.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>, relay: &Relay) -> Result<String, Error> {
        let pair = self.identities.authority().client(user, group)?;
        Ok(kubeconfig::render(&relay.server(), &self.authority(), &pair))
    }

    /// The administrator's kubeconfig, for processes inside [`Self::netns`] (`nsenter --net=FILE`, `ip netns exec`).
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.identities.administrator()
    }

    /// Where the API server listens, inside [`Self::netns`] and on the nodes.
    #[must_use]
    pub fn address() -> SocketAddr {
        (CONTROL, APISERVER_PORT).into()
    }

    /// The certificate to trust, PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.identities.authority().certificate()
    }

    /// The namespace it lives in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        self.fabric.control()
    }

    pub(crate) fn fabric_mut(&mut self) -> &mut Fabric {
        &mut self.fabric
    }

    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// Configuration, logs and sockets: they go when this is dropped.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.run.state()
    }
}

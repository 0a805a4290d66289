//! A node: containerd with runc, the reference CNI plugins, kubelet and kube-proxy, in a network namespace of the
//! [`crate::fabric`] and process, mount and host name namespaces of its own ([`crate::init`]).

mod config;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control_plane::ControlPlane;
use crate::files;
use crate::init::{Program, Spec};
use crate::launcher::{Launcher, mortal};
use crate::programs;
use crate::service::Service;

/// How long containerd may take to listen.
const PATIENCE: Duration = Duration::from_mins(1);
/// Debian's CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A node failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of the distribution is not installed.
    #[error(
        "no {program} on this machine; `cargo xtask cluster` installs {package}, or: apt-get install {package}"
    )]
    Missing {
        /// What was looked for.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// Programs are not built.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// Wires.
    #[error(transparent)]
    Fabric(#[from] crate::fabric::Error),
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] postern_lab::netns::Error),
    /// Its certificates.
    #[error(transparent)]
    Pki(#[from] crate::pki::Error),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] crate::run::CgroupError),
    /// Its first process.
    #[error(transparent)]
    Service(#[from] crate::service::Error),
    /// Files.
    #[error(transparent)]
    File(#[from] files::Error),
    /// An image does not load.
    #[error("load {archive} into {node}: {reason}", archive = .archive.display())]
    Image {
        /// The node.
        node: String,
        /// The archive.
        archive: PathBuf,
        /// What containerd said.
        reason: String,
    },
}

/// How pods are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// A veth pair for each pod, and a route.
    #[default]
    Ptp,
    /// A veth pair for each pod, on one bridge.
    Bridge,
}

/// How kube-proxy does Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// With iptables.
    #[default]
    Iptables,
    /// With nftables.
    Nftables,
}

/// What a node is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// From 1.
    pub(crate) number: u8,
    pub(crate) cni: Cni,
    pub(crate) proxy_mode: ProxyMode,
    /// Pods ask the Service `kube-dns` for names.
    pub(crate) dns: bool,
    /// The `postern-cluster` binary.
    pub(crate) helper: PathBuf,
}

/// A running node. Dropping it kills all that it runs.
#[derive(Debug)]
pub struct Node {
    name: String,
    netns: PathBuf,
    init: Service,
    socket: PathBuf,
}

impl Node {
    /// Starts a node. It is ready when the API says so.
    pub(crate) fn start(control: &mut ControlPlane, plan: &Plan) -> Result<Self, Error> {
        let name = name(plan.number);
        let containerd = in_path("containerd", "containerd")?;
        in_path("runc", "runc")?;
        if !Path::new(CNI_PLUGINS).join("ptp").exists() {
            return Err(Error::Missing { program: "ptp", package: "containernetworking-plugins" });
        }
        let (kubelet, proxy) = (programs::Program::Kubelet.path()?, programs::Program::Proxy.path()?);
        let cgroup = control.run().make_cgroup(&name)?;
        let (state, data) = (control.run().state().join(&name), control.run().data().join(&name));
        let logs = control.run().state().join("logs").join(&name);
        files::create_folder(&logs)?;
        let own_run = state.join("run");
        let config = config::write(control.identities(), plan, &state, &own_run, &cgroup)?;
        let program = |path: &Path, arguments: Vec<String>| {
            let name = path.file_name().unwrap_or_default().display();
            let log = logs.join(format!("{name}.log"));
            Program { path: path.to_owned(), arguments, log, after: None }
        };
        let socket = Some(PathBuf::from(config::CONTAINERD_SOCKET));
        let spec = Spec {
            name: name.clone(),
            own: BTreeMap::from([
                (PathBuf::from("/run"), own_run.clone()),
                (PathBuf::from("/var/lib"), data.join("lib")),
                (PathBuf::from("/var/log"), data.join("log")),
            ]),
            keep: [control.run().state(), control.run().data()]
                .into_iter()
                .chain([&kubelet, &proxy].into_iter().filter_map(|path| path.parent().map(Path::to_owned)))
                .collect(),
            settings: state.join("settings"),
            programs: vec![
                program(&containerd, config.containerd),
                program(&proxy, config.proxy),
                Program { after: socket, ..program(&kubelet, config.kubelet) },
            ],
        };
        let spec_file = state.join("spec.json");
        files::write(&spec_file, serde_json::to_vec_pretty(&spec).unwrap_or_default())?;
        let netns = control.fabric_mut().add_node(&name)?;
        let launcher = Arc::new(Launcher::inside(netns)?);
        let netns = netns.path();
        let mut init = Service::new("init", PathBuf::from("unshare"), launcher, &logs)
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--fork",
                "--kill-child=KILL",
                "--propagation=unchanged",
                "--",
            ])
            .args([plan.helper.display().to_string()])
            .args(["node".to_owned(), "--spec".to_owned(), spec_file.display().to_string()]);
        init.start()?;
        Ok(Self { name, netns, init, socket: own_run.join("containerd/containerd.sock") })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id of its first process, for `nsenter`. `None` when it does not run.
    #[must_use]
    pub fn init(&self) -> Option<i32> {
        // `unshare` is ours, and the node's first process is its only child.
        let parent = self.init.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Waits until containerd takes requests.
    pub(crate) fn wait_for_containerd(&mut self) -> Result<(), Error> {
        let socket = &self.socket;
        Ok(self.init.wait_until(PATIENCE, || UnixStream::connect(socket).is_ok())?)
    }

    /// Where its containerd listens, as the machine sees it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Loads the images of an archive into nodes, given with the sockets of their containerds, all at once.
///
/// # Errors
/// containerd refuses.
pub fn import_everywhere(nodes: &[(&str, &Path)], archive: &Path) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let imports: Vec<_> =
            nodes.iter().map(|(node, socket)| scope.spawn(move || import(node, socket, archive))).collect();
        imports.into_iter().try_for_each(|import| import.join().unwrap_or(Ok(())))
    })
}

/// Loads the images of an archive through containerd's socket.
fn import(node: &str, socket: &Path, archive: &Path) -> Result<(), Error> {
    let failed = |reason| Error::Image { node: node.to_owned(), archive: archive.to_owned(), reason };
    let mut command = mortal("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The name of the node with this number.
#[must_use]
pub fn name(number: u8) -> String {
    format!("node-{number}")
}

fn in_path(program: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' programs are not in every user's PATH.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    let mut files = folders.map(|folder| folder.join(program));
    files.find(|file| file.exists()).ok_or(Error::Missing { program, package })
}

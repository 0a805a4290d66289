//! `postern agent`

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::timeout::{self, Timeout};
use crate::controller::{self, Antispoof, Options};
use crate::datapath::attach::{self, Mode};
use crate::datapath::object::{Established, Settings};

/// Enforces policy on this node's pods. Runs until stopped; what is enforced then stays so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern agent --manifests /etc/postern/manifests --node node-a
  postern agent --manifests ./manifests --node node-a --attach clsact --log-format json
  postern agent --manifests ./manifests --node node-a --antispoof all --timeout tcp-established=2h30m,opening=30s

Every flag can be given as an environment variable too. RUST_LOG sets the log level (default: info).

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 could not start; 2 bad usage.")]
pub(super) struct Agent {
    /// Folder of Kubernetes YAML (Namespace, Node, Pod, NetworkPolicy); edits take effect at once
    #[arg(long, value_name = "DIR", env = "POSTERN_MANIFESTS")]
    manifests: PathBuf,

    /// The node whose pods to look after, as in spec.nodeName
    #[arg(long, value_name = "NAME", env = "POSTERN_NODE")]
    node: String,

    /// Folder for pinned maps and links, on a BPF file system; one agent each
    #[arg(long, value_name = "DIR", env = "POSTERN_BPFFS_DIR", default_value = super::dump::PINS)]
    bpffs_dir: PathBuf,

    /// Control socket, for `postern status`
    #[arg(long, value_name = "PATH", env = "POSTERN_SOCKET", default_value = crate::control::SOCKET)]
    socket: PathBuf,

    /// How programs are attached to veths
    #[arg(long, env = "POSTERN_ATTACH", value_enum, default_value_t)]
    attach: AttachMode,

    /// What becomes of established connections when policy changes
    #[arg(long, env = "POSTERN_ESTABLISHED", value_enum, default_value_t)]
    established: Established,

    /// Who may send from its own addresses alone; pods annotated postern.dev/antispoof: "off" may send from any
    #[arg(long, env = "POSTERN_ANTISPOOF", value_enum, default_value_t)]
    antispoof: Antispoof,

    /// How long flows live without packets, by state: tcp-opening (60s), tcp-established (6h), tcp-closing (60s), and
    /// for other protocols opening (60s) and established (3m); may be repeated
    #[arg(long = "timeout", value_name = "STATE=DURATION", env = "POSTERN_TIMEOUT", value_delimiter = ',')]
    timeouts: Vec<Timeout>,

    /// Log format
    #[arg(long, env = "POSTERN_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    /// Log every dropped packet from inside the programs; for development, it slows drops down
    #[arg(long, env = "POSTERN_DEBUG_PROGRAMS")]
    debug_programs: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AttachMode {
    /// TCX where the kernel has it (6.6 and later), else clsact
    #[default]
    Auto,
    /// TCX
    Tcx,
    /// Filters of the clsact qdisc
    Clsact,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl Agent {
    pub(super) fn run(self) -> Result<ExitCode> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
        let options = Options {
            manifests: self.manifests,
            node: self.node,
            pins: self.bpffs_dir,
            socket: self.socket,
            mode: match self.attach {
                AttachMode::Auto => attach::probe(),
                AttachMode::Tcx => Mode::Tcx,
                AttachMode::Clsact => Mode::Clsact,
            },
            antispoof: self.antispoof,
            settings: Settings {
                established: self.established,
                debug: self.debug_programs,
                lifetimes: timeout::lifetimes(&self.timeouts),
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("starting the async runtime")?.block_on(controller::run(options))?;
        Ok(ExitCode::SUCCESS)
    }
}

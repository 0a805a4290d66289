//! `postern agent`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::timeout::{self, Timeout};
use crate::controller::{self, Antispoof, Options, Origin};
use crate::datapath::attach::{self, Mode};
use crate::datapath::object::{Established, Settings};
use crate::datapath::realtime::is_realtime;
use crate::datapath::services::Services;
use crate::logging::{self, Format};
use crate::{descriptors, privileges};

/// Enforces policy on this node's pods. Runs until stopped; what is enforced then stays so.
///
/// Watches the API server: the one of its pod's service account, or of a kubeconfig file. With --manifests, a folder
/// takes the API server's place.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  postern agent --node node-a                                 in a pod, as deploy/ runs it
  postern agent --node node-a --kubeconfig ~/.kube/config
  postern agent --node node-a --manifests /etc/postern/manifests
  postern agent --config /etc/postern/config.yaml
  postern agent --manifests ./manifests --node node-a --antispoof all --timeout tcp-established=2h30m,opening=30s

Every flag can be given as an environment variable, or in the configuration file under its own name:
  node: node-a
  antispoof: all
  timeout: {tcp-established: 2h30m, opening: 30s}
The command line wins over the environment, the environment over the file.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 could not start; 2 bad usage."
)]
pub(super) struct Agent {
    /// YAML file with values for the flags below
    #[arg(long, value_name = "FILE", env = "POSTERN_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// The API server to watch, and the user to do so as; without it, those of the pod that the agent runs in
    #[arg(long, value_name = "FILE", env = "POSTERN_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,

    /// Folder of Kubernetes YAML (Namespace, Node, Pod, NetworkPolicy; lists of them; subfolders) in place of an API server; edits take effect at once
    #[arg(long, value_name = "DIR", env = "POSTERN_MANIFESTS", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,

    /// The node whose pods to look after, as in spec.nodeName
    #[arg(long, value_name = "NAME", env = "POSTERN_NODE")]
    node: Option<String>,

    /// Folder for pinned maps and links, on a BPF file system; one agent each
    #[arg(long, value_name = "DIR", env = "POSTERN_BPFFS_DIR", default_value = super::dump::PINS)]
    bpffs_dir: PathBuf,

    /// Control socket, for `postern status`
    #[arg(long, value_name = "PATH", env = "POSTERN_SOCKET", default_value = crate::control::SOCKET)]
    socket: PathBuf,

    /// Where /livez, /readyz and /metrics are answered: ADDRESS:PORT, or off
    #[arg(long, value_name = "ADDRESS", env = "POSTERN_HTTP_ADDRESS", default_value = "127.0.0.1:9474")]
    http_address: HttpAddress,

    /// How programs are attached to veths
    #[arg(long, env = "POSTERN_ATTACH", value_enum, default_value_t)]
    attach: AttachMode,

    /// What becomes of established connections when policy changes
    #[arg(long, env = "POSTERN_ESTABLISHED", value_enum, default_value_t)]
    established: Established,

    /// How packets to Services are judged
    #[arg(long, env = "POSTERN_SERVICES", value_enum, default_value_t)]
    services: Services,

    /// Who may send from its own addresses alone; pods annotated postern.dev/antispoof: "off" may send from any
    #[arg(long, env = "POSTERN_ANTISPOOF", value_enum, default_value_t)]
    antispoof: Antispoof,

    /// How long flows live without packets, by state: tcp-opening (60s), tcp-established (6h), tcp-closing (60s), and
    /// for other protocols opening (60s) and established (3m); may be repeated
    #[arg(long = "timeout", value_name = "STATE=DURATION", env = "POSTERN_TIMEOUT", value_delimiter = ',')]
    timeouts: Vec<Timeout>,

    /// What is logged: error, warn, info, debug, trace or off, or a list of these by module: `info,postern::kube=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", value_parser = logging::check_filter)]
    log_level: String,

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

impl AttachMode {
    /// The mode, where the kernel has this one.
    fn mode(self, kernel: Mode) -> Result<Mode> {
        match (self, kernel) {
            (Self::Auto, kernel) => Ok(kernel),
            (Self::Tcx, Mode::Clsact) => bail!(
                "--attach=tcx asks for TCX, which this kernel does not have (it comes with 6.6): leave the flag out, or give --attach=clsact"
            ),
            (Self::Tcx, Mode::Tcx) => Ok(Mode::Tcx),
            (Self::Clsact, _) => Ok(Mode::Clsact),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Where to answer HTTP, if at all.
#[derive(Clone, Copy, Debug)]
struct HttpAddress(Option<SocketAddr>);

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|address| Self(Some(address))).map_err(|_| {
                "neither off nor an address with a port such as 127.0.0.1:9474 or [::1]:9474".to_owned()
            }),
        }
    }
}

impl Agent {
    pub(super) fn run(self) -> Result<ExitCode> {
        let format = match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        logging::begin(&self.log_level, format).context("duplicating standard error")?;
        let ended = self.enforce();
        logging::end();
        ended
    }

    fn enforce(self) -> Result<ExitCode> {
        descriptors::raise_limit();
        let options = Options {
            origin: match self.manifests {
                Some(folder) => Origin::Manifests(folder),
                None => Origin::Kube(self.kubeconfig),
            },
            node: self
                .node
                .context("no node is named; give --node NAME, as in spec.nodeName, or set POSTERN_NODE")?,
            pins: self.bpffs_dir,
            socket: self.socket,
            http: self.http_address.0,
            mode: self.attach.mode(attach::probe())?,
            antispoof: self.antispoof,
            settings: Settings {
                established: self.established,
                debug: self.debug_programs,
                lifetimes: timeout::lifetimes(&self.timeouts),
                services: self.services,
                realtime: is_realtime(),
                ..Settings::default()
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.context("starting the async runtime")?.block_on(controller::run(options));
        match (ended, privileges::hint()) {
            (Ok(()), _) => Ok(ExitCode::SUCCESS),
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(hint)) => bail!("{error}; {hint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AttachMode::{Auto, Clsact, Tcx};
    use crate::datapath::attach::Mode;

    #[test]
    fn tcx_is_refused_where_the_kernel_has_none() {
        let modes = |kernel| [Auto, Tcx, Clsact].map(|it| it.mode(kernel).ok());
        assert_eq!(modes(Mode::Tcx), [Some(Mode::Tcx), Some(Mode::Tcx), Some(Mode::Clsact)]);
        assert_eq!(modes(Mode::Clsact), [Some(Mode::Clsact), None, Some(Mode::Clsact)]);
    }
}

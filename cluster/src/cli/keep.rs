//! `postern-cluster up` and `down`: a cluster to play with.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use postern_cluster::cluster::{Cluster, Options};
use postern_cluster::control_plane::{self, ControlPlane};
use postern_cluster::kept::{self, Kept};
use postern_cluster::node::{Cni, ProxyMode};
use postern_cluster::programs::Program;
use postern_cluster::run;
use postern_lab::process::Identity;

use super::{build, status};

/// What the supervisor says once all is up.
const READY: &str = "ready";
/// How often it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bring a cluster up and keep it alive, in the background.
///
/// Builds Kubernetes first, once (20 minutes on two processors).
///
/// Examples:
///   cargo xtask cluster up
///   cargo xtask cluster up --cni bridge --proxy-mode nftables --nodes 3
///   cargo xtask cluster up --control-plane-only
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Up {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    /// How pods are attached.
    #[arg(long, value_enum, default_value = "ptp")]
    cni: Cni,
    /// How kube-proxy does Services.
    #[arg(long, value_enum, default_value = "iptables")]
    proxy_mode: ProxyMode,
    /// Without CoreDNS: pods have no names to ask for.
    #[arg(long)]
    no_dns: bool,
    /// Only etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
    #[arg(long, conflicts_with = "nodes")]
    control_plane_only: bool,
    /// One more flag for kube-apiserver. May be given several times.
    #[arg(long = "apiserver-flag", value_name = "FLAG", allow_hyphen_values = true)]
    apiserver_flags: Vec<String>,
}

impl Up {
    fn options(&self) -> anyhow::Result<Options> {
        Ok(Options {
            nodes: self.nodes,
            cni: self.cni,
            proxy_mode: self.proxy_mode,
            dns: !self.no_dns,
            apiserver_flags: self.apiserver_flags.clone(),
            helper: std::env::current_exe()?,
        })
    }

    fn programs(&self) -> Vec<Program> {
        let wanted = |program: &Program| match program {
            Program::Helm => false,
            Program::Kubelet | Program::Proxy => !self.control_plane_only,
            Program::CoreDns => !self.control_plane_only && !self.no_dns,
            _ => true,
        };
        Program::ALL.into_iter().filter(wanted).collect()
    }
}

/// Starts the supervisor, and shows what it says until all is up.
pub(super) fn up(arguments: &Up) -> anyhow::Result<()> {
    Kept::none_yet()?;
    build::ensure(&arguments.programs())?;
    let started = Instant::now();
    run::sweep();
    std::fs::create_dir_all(run::STATE).context("create the state folder")?;
    let mut command = Command::new(std::env::current_exe()?);
    // The same arguments, for the process that stays.
    command.arg("supervise").args(std::env::args_os().skip_while(|argument| argument != "up").skip(1));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(kept::log_file())?);
    let mut child = command.spawn().context("start the supervisor")?;
    let output = child.stdout.take().context("the supervisor has no output")?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("  {spinner} {elapsed} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(120));
    let quiet = !std::io::stderr().is_terminal();
    let mut ready = false;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if line == READY {
            ready = true;
            break;
        }
        if quiet {
            eprintln!("  {:4.1} s: {line}", started.elapsed().as_secs_f32());
        }
        bar.set_message(line);
    }
    bar.finish_and_clear();
    if !ready {
        // It ended, or is about to.
        let _ = child.wait();
        let said = std::fs::read_to_string(kept::log_file()).unwrap_or_default();
        kept::forget();
        run::sweep();
        bail!("the cluster did not come up:\n{}", said.trim_end());
    }
    println!("the cluster is up ({:.0} s)", started.elapsed().as_secs_f32());
    status::run(status::Arguments::default())?;
    println!("try: cargo xtask cluster kubectl get pods --all-namespaces");
    Ok(())
}

/// Holds the cluster until it is told to end.
pub(super) fn supervise(arguments: &Up) -> anyhow::Result<()> {
    // Away from the terminal that started us.
    nix::unistd::setsid().context("leave the session")?;
    let ending = listen_for_the_end()?;
    let own = Identity::own().context("read our own start time")?;
    let options = arguments.options()?;
    if arguments.control_plane_only {
        say("starting the control plane").context("nobody waits for the cluster any more")?;
        let apiserver_flags = options.apiserver_flags.clone();
        let control = ControlPlane::start(&control_plane::Options { apiserver_flags, controllers: true })?;
        return hold(&Kept::describe_control_plane(&control, &options, own), &ending);
    }
    let mut cluster = Cluster::up(&options, |step| {
        // Whoever started us reads this; when nobody does, nobody wants the cluster.
        let wanted = !ending.load(Ordering::Relaxed) && say(&step.to_string()).is_ok();
        if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    hold(&Kept::describe(&mut cluster, &options, own), &ending)
}

fn hold(kept: &Kept, ending: &AtomicBool) -> anyhow::Result<()> {
    kept.save()?;
    say(READY)?;
    while !ending.load(Ordering::Relaxed) {
        thread::sleep(LOOK_EVERY);
    }
    kept::forget();
    Ok(())
}

/// SIGTERM and SIGINT set the flag.
fn listen_for_the_end() -> anyhow::Result<Arc<AtomicBool>> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Threads that are started from now on leave them to the one below; programs start without this mask.
    signals.thread_block().context("block signals")?;
    let ending = Arc::new(AtomicBool::new(false));
    let flag = ending.clone();
    thread::spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(ending)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// Takes the cluster down.
pub(super) fn down() -> anyhow::Result<()> {
    let found = Kept::find();
    if found.is_err() {
        kept::forget();
    }
    run::sweep();
    found?.take_down()?;
    println!("the cluster is down");
    Ok(())
}

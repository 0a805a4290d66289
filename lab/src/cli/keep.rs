//! `postern-lab up`, `down`, `status` and `exec`: a lab to play with.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use postern::control::{self, Request};
use postern::manifests;
use postern_lab::kept::{self, Kept};
use postern_lab::lab::Lab;
use postern_lab::process::Identity;
use postern_lab::scenario::{Scenario, Snapshot};
use postern_lab::{netns, run, working_copy};

use super::{Failure, programs};

/// How often the supervisor looks whether the scenario changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What the supervisor says once all is up.
const READY: &str = "ready";

/// Bring a scenario up and keep it alive, in the background.
///
/// The directory is followed: edit policies, add pods, and the lab does the same within a moment.
///
/// Examples:
///   cargo xtask lab up -f lab/scenarios/demo/base
///   cargo xtask lab exec production/frontend -- bash
///   cargo xtask lab down
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Up {
    /// A directory of manifests, with an optional lab.yaml.
    #[arg(short = 'f', long = "filename", value_name = "DIR")]
    directory: PathBuf,
    /// The agent's binary [default: `postern` beside this one].
    #[arg(long, value_name = "PATH")]
    postern: Option<PathBuf>,
}

/// Run a command inside a pod, node or host outside of the lab that is up.
///
/// Examples:
///   cargo xtask lab exec production/frontend -- bash
///   cargo xtask lab exec node/node-a -- ip route
///   cargo xtask lab exec external/internet -- ip address
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Exec {
    /// NAMESPACE/POD, node/NAME or external/NAME.
    target: String,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Starts the supervisor and waits until it says that all is up.
pub(super) fn up(arguments: &Up) -> anyhow::Result<()> {
    Kept::none_yet()?;
    // Mistakes in the scenario are better said here than in a log.
    Scenario::covering(&[Snapshot::read(&arguments.directory)?])?;
    let directory = arguments.directory.canonicalize().context("find the scenario's directory")?;
    std::fs::create_dir_all(run::STATE).context("create the state folder")?;
    let log = log_file();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("supervise").arg("--filename").arg(&directory);
    if let Some(postern) = &arguments.postern {
        command.arg("--postern").arg(postern);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    let mut child = command.spawn().context("start the supervisor")?;
    let output = child.stdout.take().context("the supervisor has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() != READY {
        // It ended, or is about to.
        let _ = child.wait();
        bail!("the lab did not come up:\n{}", std::fs::read_to_string(&log).unwrap_or_default().trim_end());
    }
    status()
}

/// Holds the lab until it is told to end.
pub(super) async fn supervise(arguments: Up) -> Result<(), Failure> {
    // Away from the terminal that started us.
    nix::unistd::setsid().context("leave the session")?;
    let directory = &arguments.directory;
    let own = Identity::own().context("read our own start time")?;
    let snapshot = Snapshot::read(directory)?;
    let mut lab = Lab::up(programs(arguments.postern)?, Scenario::covering(&[snapshot])?).await?;
    let forget = Forget;
    let mut digest = manifests::digest(directory)?;
    lab.apply_directory(directory).await?;
    Kept::describe(&lab, own, directory).save()?;
    println!("{READY}");
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(now) = manifests::digest(directory) else { continue };
        if now == digest {
            continue;
        }
        digest = now;
        if let Err(error) = follow(&mut lab, directory).await {
            eprintln!("postern-lab: {error:#}");
        }
        Kept::describe(&lab, own, directory).save()?;
        // Held until we are told to end.
        let _ = &forget;
    }
}

/// Removes the lab's file when the supervisor ends.
struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        kept::forget();
    }
}

/// Does what the directory now says. What does not parse is passed on: agents have their own way with it.
async fn follow(lab: &mut Lab, directory: &Path) -> anyhow::Result<()> {
    match Snapshot::read(directory) {
        Ok(snapshot) => lab.sync_pods(&snapshot).await?,
        Err(error) => eprintln!("postern-lab: {error}"),
    }
    lab.write(&working_copy::read_tree(directory)?)?;
    Ok(())
}

/// Where the supervisor's messages go.
fn log_file() -> PathBuf {
    Path::new(run::STATE).join("up.log")
}

/// Takes the lab down.
pub(super) fn down() -> anyhow::Result<()> {
    run::sweep();
    Kept::find()?.take_down()?;
    // What a supervisor had to say is of no use any more.
    let _ = std::fs::remove_file(log_file());
    println!("the lab is down");
    Ok(())
}

/// Says what is up, and how the agents are.
pub(super) fn status() -> anyhow::Result<()> {
    let kept = Kept::find()?;
    println!(
        "{} is up (process {}), logs in {}",
        kept.directory.display(),
        kept.supervisor.pid,
        kept.state.display()
    );
    for node in &kept.nodes {
        match control::ask(&kept.socket(node), Request::Status) {
            Ok(status) => {
                let state = if status.ready { "enforcing" } else { "not ready" };
                println!("  agent of {node}: {state}, {} pods isolated", status.endpoints.len());
                for error in status.errors {
                    println!("    {error}");
                }
            }
            Err(error) => println!("  agent of {node}: {error}"),
        }
    }
    for (target, netns) in &kept.namespaces {
        println!("  {target:32} {}", netns.file_name().unwrap_or_default().display());
    }
    if std::io::stdout().is_terminal() {
        println!("try: cargo xtask lab exec NAMESPACE/POD -- COMMAND");
    }
    Ok(())
}

/// Becomes the command, inside the target.
pub(super) fn exec(arguments: &Exec) -> anyhow::Result<()> {
    let kept = Kept::find()?;
    netns::enter(kept.namespace(&arguments.target)?)?;
    let (program, rest) = arguments.command.split_first().context("no command given")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

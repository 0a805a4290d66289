//! `postern-cluster kubectl`, `helm`, `exec` and `load`: working with the cluster that is up.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use postern_cluster::kept::Kept;
use postern_cluster::node;
use postern_cluster::programs::Program;
use postern_lab::netns;

use super::build;

/// Run it on the cluster that is up.
///
/// Examples:
///   cargo xtask cluster kubectl get nodes -o wide
///   cargo xtask cluster kubectl apply -k deploy/kustomize
///   cargo xtask cluster helm list
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, disable_help_flag = true)]
pub(super) struct Arguments {
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Run a command in the control plane's network namespace, or in all namespaces of a node.
///
/// In the control plane's, `KUBECONFIG` is set, and kubectl and helm are in `PATH`.
///
/// Examples:
///   cargo xtask cluster exec control -- kubectl get nodes
///   cargo xtask cluster exec node-1 -- bash
///   cargo xtask cluster exec node-2 -- iptables-save
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Exec {
    /// `control`, or a node's name.
    target: String,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Load a docker or OCI archive into every node.
///
/// Example:
///   cargo xtask cluster load postern.tar
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Load {
    /// The archive.
    archive: PathBuf,
}

/// Becomes kubectl.
pub(super) fn kubectl(arguments: &Arguments) -> anyhow::Result<()> {
    become_program(Program::Kubectl, arguments)
}

/// Becomes helm.
pub(super) fn helm(arguments: &Arguments) -> anyhow::Result<()> {
    become_program(Program::Helm, arguments)
}

fn become_program(program: Program, arguments: &Arguments) -> anyhow::Result<()> {
    let kept = Kept::find()?;
    build::ensure(&[program])?;
    become_command(&kept, program.path()?.as_os_str(), &arguments.arguments)
}

/// Becomes the command, inside the target.
pub(super) fn exec(arguments: &Exec) -> anyhow::Result<()> {
    let kept = Kept::find()?;
    let (program, rest) = arguments.command.split_first().context("no command given")?;
    if arguments.target == "control" {
        return become_command(&kept, program, rest);
    }
    let node = kept.node(&arguments.target)?;
    let init = node.init.with_context(|| format!("{} does not run", node.name))?;
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--uts", "--net", "--pid", "--target", &init.to_string(), "--"]);
    let error = command.args(&arguments.command).exec();
    Err(error).context("run nsenter")
}

/// Becomes a command in the control plane's network namespace.
fn become_command(kept: &Kept, program: &std::ffi::OsStr, arguments: &[OsString]) -> anyhow::Result<()> {
    let built = [Program::Kubectl, Program::Helm].into_iter().filter_map(|program| program.path().ok());
    let folders = built.filter_map(|path| path.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
    netns::enter(&kept.netns)?;
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", &kept.kubeconfig).env("PATH", path);
    // Settings of the machine's own network.
    for variable in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
        command.env_remove(variable);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

/// Loads an archive.
pub(super) fn load(arguments: &Load) -> anyhow::Result<()> {
    let kept = Kept::find()?;
    if kept.nodes.is_empty() {
        bail!("this cluster has no nodes");
    }
    let nodes: Vec<_> = kept.nodes.iter().map(|node| (&*node.name, &*node.socket)).collect();
    node::import_everywhere(&nodes, &arguments.archive)?;
    println!("{} is loaded into {} nodes", arguments.archive.display(), nodes.len());
    Ok(())
}

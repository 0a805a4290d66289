//! `postern-cluster status`: what is up.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use postern_cluster::cluster::is_ready;
use postern_cluster::kept::Kept;
use postern_cluster::{api, programs};
use postern_lab::netns;
use serde::Serialize;

/// Say what is up: nodes, and where things are.
///
/// Examples:
///   cargo xtask cluster status
///   cargo xtask cluster status -o json
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Everything.
#[derive(Serialize)]
struct Status {
    kubernetes: &'static str,
    #[serde(flatten)]
    kept: Kept,
    ready: Vec<NodeStatus>,
}

/// What the API says of a node.
#[derive(Serialize)]
struct NodeStatus {
    name: String,
    ready: bool,
    kubelet: String,
    runtime: String,
}

/// Prints.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let kept = Kept::find()?;
    netns::enter(&kept.netns)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let nodes = runtime.block_on(async {
        let client = api::client(&kept.kubeconfig).await?;
        let nodes = Api::<Node>::all(client).list(&ListParams::default()).await?;
        Ok::<_, api::Error>(nodes.items)
    })?;
    let ready = nodes.iter().map(describe).collect();
    let status = Status { kubernetes: programs::KUBERNETES, kept, ready };
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print(&status),
    }
    Ok(())
}

fn describe(node: &Node) -> NodeStatus {
    let info = node.status.as_ref().and_then(|status| status.node_info.clone()).unwrap_or_default();
    NodeStatus {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: is_ready(node),
        kubelet: info.kubelet_version,
        runtime: info.container_runtime_version,
    }
}

fn print(status: &Status) {
    let kept = &status.kept;
    println!(
        "Kubernetes {}, process {}, state in {}",
        status.kubernetes,
        kept.supervisor.pid,
        kept.state.display()
    );
    if status.ready.is_empty() {
        println!("no nodes: the control plane only");
        return;
    }
    println!("{:10} {:10} {:10} {:24} CNI      kube-proxy", "NODE", "STATUS", "KUBELET", "RUNTIME");
    for node in &status.ready {
        let state = if node.ready { "ready" } else { "not ready" };
        let (cni, mode) =
            (format!("{:?}", kept.cni).to_lowercase(), format!("{:?}", kept.proxy_mode).to_lowercase());
        println!("{:10} {state:10} {:10} {:24} {cni:8} {mode}", node.name, node.kubelet, node.runtime);
    }
}

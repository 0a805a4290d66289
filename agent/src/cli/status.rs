//! `postern status`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Output;
use crate::control::{self, Request};
use crate::datapath::readback::{Foreign, Place};

/// Asks a running agent how it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern status
  postern status -o json | jq .ready

Exit codes: 0 ready; 1 no answer; 3 the agent answers, but is not ready.")]
pub(super) struct Status {
    /// The agent's control socket
    #[arg(long, value_name = "PATH", env = "POSTERN_SOCKET", default_value = control::SOCKET)]
    socket: PathBuf,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The agent is there, but not everything is enforced yet.
const NOT_READY: u8 = 3;

impl Status {
    pub(super) fn run(self) -> Result<ExitCode> {
        let status = control::ask(&self.socket, Request::Status)?;
        match self.output {
            Output::Json => out!("{}", serde_json::to_string_pretty(&status)?),
            Output::Table => print(&status),
        }
        Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
    }
}

fn print(status: &control::Status) {
    out!("node        {}", status.node);
    out!("version     {}", status.version);
    out!("attach      {}", status.attach);
    out!("services    {}", status.services);
    out!("programs    {} in {:.0} ms", status.programs, status.programs_in_ms);
    out!("antispoof   {}", status.antispoof);
    if status.realtime {
        out!("kernel      PREEMPT_RT");
    }
    out!("ready       {}", if status.ready { "yes" } else { "no" });
    out!("generation  {}", status.generation);
    out!("enforced in {:.2} ms", status.enforced_in_ms);
    for line in status.waiting() {
        out!("{line}");
    }
    for pod in &status.pending {
        out!("pending     {pod}: its veth has not been found");
    }
    for error in &status.errors {
        out!("error       {error}");
    }
    if status.endpoints.is_empty() {
        out!("\nno pod of this node carries programs");
    } else {
        out!("\n{}", endpoints(&status.endpoints));
    }
    if !status.foreign.is_empty() {
        out!("\n{}", foreign(&status.foreign));
    }
    let mut table = super::plain_table(["DROPPED", "REASON", "PACKETS"]);
    for it in status.packets.iter().filter(|it| it.dropped) {
        table.add_row([&it.direction, &it.reason, &it.packets.to_string()]);
    }
    if !table.is_empty() {
        out!("\n{table}");
    }
}

fn foreign(foreign: &[Foreign]) -> comfy_table::Table {
    let mut table = super::plain_table(["OTHERS", "INTERFACE", "HOOK", "POD", "RUNS"]);
    for it in foreign {
        let pod = it.pod.as_deref().unwrap_or("(unknown)");
        let runs = if it.runs == Place::Before { "before Postern" } else { "after Postern" };
        table.add_row([&it.description(), it.interface.as_str(), &it.hook, pod, runs]);
    }
    table
}

fn endpoints(endpoints: &[control::Endpoint]) -> comfy_table::Table {
    let mut table = super::plain_table(["POD", "INTERFACE", "INGRESS", "EGRESS", "GUARDED"]);
    for endpoint in endpoints {
        let class = |class| match class {
            _ if endpoint.quarantined => "quarantined".to_owned(),
            0 => "open".to_owned(),
            _ => format!("class {class}"),
        };
        let pod = endpoint.pod.as_deref().unwrap_or("(unknown)").to_owned();
        let pod = if endpoint.departed { pod + " (gone)" } else { pod };
        let (ingress, egress) = (class(endpoint.ingress_class), class(endpoint.egress_class));
        let guarded = if endpoint.guarded { "yes" } else { "no" };
        table.add_row([&pod, &endpoint.interface, &ingress, &egress, guarded]);
    }
    table
}

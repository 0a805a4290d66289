//! `postern load`

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::datapath::attach::{self, Mode};
use crate::datapath::behind_nat;
use crate::datapath::object::{self, ALL_PROGRAMS, Settings};
use crate::datapath::realtime::is_realtime;
use crate::datapath::wanted::Wanted;
use crate::datapath::{Datapath, ExecuteError};

/// Pins of programs that `--iface` attached: apart from any agent's.
const PINS: &str = "/sys/fs/bpf/postern-load";

/// Loads every program into the running kernel and says what its verifier made of them: a check before installing.
///
/// Nothing stays loaded, unless --iface attaches the programs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern load
  postern load --iface veth1234
  postern load --detach

Exit codes: 0 every program loads; 1 one does not, or no privileges; 2 bad usage.")]
pub(super) struct Load {
    /// Attach to this interface too, and leave the programs there. Without policy, everything passes
    #[arg(long, value_name = "IF")]
    iface: Option<String>,

    /// Take off again what an earlier --iface attached
    #[arg(long, conflicts_with = "iface")]
    detach: bool,
}

impl Load {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.detach {
            detach_all(attach::probe())?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = super::plain_table(["PROGRAM", "ESTABLISHED", "DEBUG", "VERIFIED INSTRUCTIONS"]);
        let netfilter = behind_nat::probe();
        let realtime = is_realtime();
        for settings in Settings::ALL {
            let mut ebpf = object::load(None, Settings { realtime, ..settings })?;
            let established = format!("{:?}", settings.established).to_lowercase();
            let debug = if settings.debug { "on" } else { "off" };
            if netfilter.is_ok() {
                for (name, verified) in behind_nat::verify(&ebpf)? {
                    table.add_row([name, &established, debug, &verified.to_string()]);
                }
            }
            for name in ALL_PROGRAMS {
                object::load_program(&mut ebpf, name)?;
                let info = object::program(&mut ebpf, name)?.info()?;
                // The kernel tells since 5.16.
                let verified =
                    info.verified_instruction_count().map_or("unknown".to_owned(), |it| it.to_string());
                table.add_row([name, &established, debug, &verified]);
            }
        }
        out!("{table}");
        let mode = attach::probe();
        out!("\n{}", features(mode, netfilter, realtime));
        if let Some(interface) = self.iface {
            attach_to(&interface, mode)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What Postern uses of a kernel that not every one has, and what is done without.
fn features(mode: Mode, netfilter: Result<(), &'static str>, realtime: bool) -> comfy_table::Table {
    let mut table = super::plain_table(["FEATURE", "HERE", "SO"]);
    let tcx = match mode {
        Mode::Tcx => ["yes", "programs are attached by links, in front of all filters"],
        Mode::Clsact => [
            "no",
            "programs are filters of a clsact qdisc; an ingress qdisc on a pod's veth is replaced if it can be",
        ],
    };
    table.add_row(["TCX (6.6)", tcx[0], tcx[1]]);
    let netfilter = match netfilter {
        Ok(()) => (
            "yes".to_owned(),
            "a Service is allowed by the backend that a packet reaches; what is denied leaves no conntrack entry",
        ),
        Err(missing) => (
            format!("no: {missing}"),
            "that is judged on every device that packets leave by; what pods may not get leaves entries in the node's conntrack table",
        ),
    };
    table.add_row(["netfilter programs (6.4)", &netfilter.0, netfilter.1]);
    let realtime = if realtime {
        ["yes", "a packet claims memory of its own, and is dropped (reentered) where there is none left"]
    } else {
        ["no", "packets of one processor come one after the other"]
    };
    table.add_row(["PREEMPT_RT", realtime[0], realtime[1]]);
    table
}

fn attach_to(interface: &str, mode: Mode) -> Result<()> {
    let Ok(ifindex) = nix::net::if_::if_nametoindex(interface) else {
        bail!("there is no interface {interface} in this network namespace; `ip link` lists those there are");
    };
    let (mut datapath, _) = Datapath::start(Path::new(PINS), mode, settings())?;
    let mut wanted: BTreeMap<u32, Wanted> = datapath.endpoints().left_behind().collect();
    wanted.insert(ifindex, Wanted::open(interface.to_owned()));
    report(datapath.reconcile(&wanted, false)).with_context(|| format!("attaching to {interface}"))?;
    out!("attached to {interface}; `postern load --detach` takes the programs off");
    Ok(())
}

fn detach_all(mode: Mode) -> Result<()> {
    let (mut datapath, _) = Datapath::start(Path::new(PINS), mode, settings())?;
    report(datapath.reconcile(&BTreeMap::new(), false))?;
    drop(datapath);
    std::fs::remove_dir_all(PINS).with_context(|| format!("removing {PINS}"))?;
    out!("detached");
    Ok(())
}

/// As the agent has them on this kernel.
fn settings() -> Settings {
    Settings { realtime: is_realtime(), ..Settings::default() }
}

fn report(errors: Vec<ExecuteError>) -> Result<()> {
    match errors.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mode, features};

    #[test]
    fn what_is_missing_is_said_with_what_is_done_without() {
        let all = features(Mode::Tcx, Ok(()), false).to_string();
        assert!(!all.contains("clsact") && !all.contains("every device"), "{all}");
        let none = features(Mode::Clsact, Err("it has no netfilter programs"), true).to_string();
        for words in ["clsact", "no: it has no netfilter programs", "every device", "reentered"] {
            assert!(none.contains(words), "{none}");
        }
    }
}

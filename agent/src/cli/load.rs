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
                let info = object::program(&mut ebpf, name)?.info()?;
                // The kernel tells since 5.16.
                let verified =
                    info.verified_instruction_count().map_or("unknown".to_owned(), |it| it.to_string());
                table.add_row([name, &established, debug, &verified]);
            }
        }
        out!("{table}");
        if let Err(missing) = netfilter {
            out!(
                "\nthis kernel cannot judge behind the choice of a Service's backend (--services together), and what pods may not get \
                 leaves entries in the node's conntrack table: {missing}"
            );
        }
        if realtime {
            out!("\nthis kernel is PREEMPT_RT: memory for the packet at hand is claimed");
        }
        let mode = attach::probe();
        out!("\nattach mode on this kernel: {mode:?}");
        if let Some(interface) = self.iface {
            attach_to(&interface, mode)?;
        }
        Ok(ExitCode::SUCCESS)
    }
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

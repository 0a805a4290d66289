//! `postern dump`

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use ipnet::IpNet;
use postern_common::endpoint::{GUARDED, NOT_ISOLATED, QUARANTINE};
use postern_policy::services::Frontend;
use postern_policy::{ClassId, FrontendEntry, PeerClass, PeerEntry, PortSet};
use serde::Serialize;

use super::Output;
use crate::datapath::addresses::PodAddresses;
use crate::datapath::maps::Maps;
use crate::datapath::object::map_folder;
use crate::datapath::pins;
use crate::datapath::tables::{read_frontends, read_peers, read_verdicts};
use crate::links;

/// Where an agent pins its maps unless told otherwise.
pub(super) const PINS: &str = "/sys/fs/bpf/postern";

/// Prints what is enforced, read back from the pinned maps: no agent needs to run.
///
/// Classes are resolved, so that two dumps compare equal when they enforce the same.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern dump
  postern dump -o json > before.json

Exit codes: 0 printed; 1 no maps there, or made by another version; 2 bad usage.")]
pub(super) struct Dump {
    /// Folder of pinned maps
    #[arg(long, value_name = "DIR", env = "POSTERN_BPFFS_DIR", default_value = PINS)]
    bpffs_dir: PathBuf,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What one veth enforces: by direction, by address.
#[derive(Debug, Serialize)]
struct Enforced {
    interface: String,
    ingress: Verdicts,
    egress: Verdicts,
    /// Whether the pod may send from its own addresses alone.
    guarded: bool,
    /// The pod's own addresses.
    addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdicts {
    /// The direction is not isolated.
    Open,
    /// Nobody knows whose veth this is.
    Quarantined,
    /// What is allowed, by prefix: the longest one decides. What is in none of them is `other`.
    Isolated {
        prefixes: BTreeMap<String, String>,
        other: String,
        /// Frontends of Services, for what goes there instead of the prefix: only of what the pod sends.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        frontends: BTreeMap<String, &'static str>,
    },
}

impl Dump {
    pub(super) fn run(self) -> Result<ExitCode> {
        let pins = pins::find(&self.bpffs_dir)
            .with_context(|| format!("looking for pins in {}", self.bpffs_dir.display()))?;
        let folder = map_folder(&pins);
        let maps = Maps::open(&folder).with_context(|| {
            format!(
                "no maps of this version in {}; is the agent's --bpffs-dir another one?",
                folder.display()
            )
        })?;
        let verdicts = read_verdicts(&maps)?;
        let mut addresses = PodAddresses::read(&maps)?.by_veth().clone();
        let mut enforced = BTreeMap::new();
        let mut tables = BTreeMap::new();
        for item in &maps.endpoints {
            let (ifindex, endpoint) = item?;
            if let std::collections::btree_map::Entry::Vacant(slot) = tables.entry(endpoint.epoch) {
                slot.insert((read_peers(&maps, endpoint.epoch)?, read_frontends(&maps, endpoint.epoch)?));
            }
            let (peers, frontends) = &tables[&endpoint.epoch];
            let enforce = |class, frontends| resolve(class, peers, frontends, &verdicts);
            let entry = Enforced {
                interface: interface(ifindex),
                ingress: enforce(endpoint.ingress_class, &BTreeMap::new()),
                egress: enforce(endpoint.egress_class, frontends),
                guarded: endpoint.flags & GUARDED != 0,
                addresses: addresses.remove(&ifindex).unwrap_or_default(),
            };
            enforced.insert(ifindex, entry);
        }
        // The guard needs no endpoint, but addresses.
        for (ifindex, addresses) in addresses {
            let (interface, ingress, egress) = (interface(ifindex), Verdicts::Open, Verdicts::Open);
            enforced.insert(ifindex, Enforced { interface, ingress, egress, guarded: true, addresses });
        }
        match self.output {
            Output::Json => out!("{}", serde_json::to_string_pretty(&enforced)?),
            Output::Table => print(&enforced),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn interface(ifindex: u32) -> String {
    let name = links::name(ifindex);
    name.unwrap_or_else(|| "(gone)".to_owned())
}

fn resolve(
    class: u32,
    peers: &BTreeMap<IpNet, PeerEntry>,
    frontends: &BTreeMap<Frontend, FrontendEntry>,
    verdicts: &BTreeMap<(ClassId, PeerClass), PortSet>,
) -> Verdicts {
    if class == NOT_ISOLATED {
        return Verdicts::Open;
    }
    if class == QUARANTINE {
        return Verdicts::Quarantined;
    }
    let ports = |peer: PeerEntry| {
        if peer.local {
            return "everything (own node)".to_owned();
        }
        verdicts.get(&(ClassId(class), peer.class)).cloned().unwrap_or_default().to_string()
    };
    let prefixes = peers.iter().map(|(prefix, peer)| (prefix.to_string(), ports(*peer))).collect();
    let judged = |entry: &FrontendEntry| match entry {
        FrontendEntry::BehindNat => "judged by the backend",
        FrontendEntry::Together(peer) if verdicts.contains_key(&(ClassId(class), *peer)) => "allowed",
        FrontendEntry::Together(_) => "denied",
    };
    let frontends = frontends.iter().map(|(frontend, entry)| (name(*frontend), judged(entry))).collect();
    Verdicts::Isolated { prefixes, other: ports(PeerEntry::default()), frontends }
}

/// A frontend's address and port, as URLs have them, and its protocol.
fn name(Frontend { address, protocol, port }: Frontend) -> String {
    format!("{}/{protocol}", SocketAddr::new(address, port))
}

fn print(enforced: &BTreeMap<u32, Enforced>) {
    if enforced.is_empty() {
        out!("nothing is enforced: no veth carries programs");
    }
    for (ifindex, it) in enforced {
        out!("{} (index {ifindex})", it.interface);
        let addresses: Vec<String> = it.addresses.iter().map(ToString::to_string).collect();
        let from = if it.guarded { "these alone" } else { "any" };
        out!("  addresses: {}; sends from {from}", addresses.join(", "));
        for (direction, verdicts) in [("ingress", &it.ingress), ("egress", &it.egress)] {
            match verdicts {
                Verdicts::Open => out!("  {direction}: not isolated"),
                Verdicts::Quarantined => out!("  {direction}: quarantined, nothing passes"),
                Verdicts::Isolated { prefixes, other, frontends } => {
                    out!("  {direction}: isolated");
                    for (prefix, ports) in prefixes.iter().filter(|(_, ports)| *ports != "nothing") {
                        out!("    {prefix}: {ports}");
                    }
                    out!("    any other address: {other}");
                    for (frontend, judged) in frontends {
                        out!("    Service at {frontend}: {judged}");
                    }
                }
            }
        }
    }
}

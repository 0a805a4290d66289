//! What the programs' globals are set to before the kernel verifies them (`ebpf/src/config.rs`).

use aya::EbpfLoader;
use postern_common::conntrack::Lifetimes;
use postern_common::service::{self, SkbLayout};

use super::btf;
use super::object::{Established, Settings, tick};

/// All of them. Programs of the same object and the same globals are the same programs.
#[derive(Debug)]
pub(super) struct Globals {
    recheck: u8,
    lifetimes: Lifetimes,
    log_level: u8,
    tick: u64,
    rows: u32,
    crossings: u32,
    seed: u64,
    realtime: u8,
    asked: u32,
    skb: SkbLayout,
}

impl Globals {
    /// As settings and this kernel have them, with a seed for hashes.
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        let Settings { established, debug, lifetimes, services: _, rows, realtime, asked } = settings;
        Self {
            recheck: u8::from(established == Established::Recheck),
            lifetimes,
            log_level: if debug { u8::MAX } else { 0 },
            tick: tick(),
            rows,
            crossings: crossings_per_cpu(),
            seed,
            realtime: u8::from(realtime),
            asked,
            // Without, there are no programs that would read it (see `behind_nat`).
            skb: btf::skb_layout().unwrap_or_default(),
        }
    }

    /// Has a loader set them.
    pub(super) fn override_in<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let Self { recheck, lifetimes, log_level, tick, rows, crossings, seed, realtime, asked, skb } = self;
        loader.override_global("POSTERN_RECHECK", recheck, true);
        loader.override_global("POSTERN_LIFETIMES", lifetimes, true);
        loader.override_global("AYA_LOG_LEVEL", log_level, true);
        loader.override_global("POSTERN_TICK", tick, true);
        loader.override_global("POSTERN_ROWS", rows, true);
        loader.override_global("POSTERN_CROSSINGS", crossings, true);
        loader.override_global("POSTERN_SEED", seed, true);
        loader.override_global("POSTERN_REALTIME", realtime, true);
        loader.override_global("POSTERN_ASKED", asked, true);
        loader.override_global("POSTERN_SKB", skb, true);
    }
}

/// Slots of each CPU for packets on their way to the choice of a backend.
fn crossings_per_cpu() -> u32 {
    // More than there are, where the kernel does not say it: each has fewer.
    let cpus = aya::util::nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    service::crossings_per_cpu(cpus.unwrap_or(MANY_CPUS))
}

/// What nodes have at most, almost all of them.
const MANY_CPUS: u32 = 512;

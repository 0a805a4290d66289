//! What a kernel lacks. Tests of such a thing say so, and have nothing to do there: docs/kernels.md has which kernels these are.

use postern::datapath::attach::{Mode, probe};
use postern::datapath::behind_nat;

/// Whether there is TCX (6.6).
pub(crate) fn tcx() -> bool {
    has(probe() == Mode::Tcx, "TCX")
}

/// Whether there are netfilter programs (6.4).
pub(crate) fn netfilter() -> bool {
    has(behind_nat::probe().is_ok(), "netfilter programs")
}

fn has(it: bool, what: &str) -> bool {
    if !it {
        println!("this kernel has no {what}: nothing to test here");
    }
    it
}

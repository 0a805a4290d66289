//! Rule sets as nft, iptables and ipset load them, in the namespace of the node that forwards.

mod iptables;
mod nftables;

use super::enforcer::Shape;
use super::policy::Pods;
pub use crate::feed::Error;
use crate::feed::feed;

pub(super) use iptables::{load as load_iptables, version as iptables_version};
pub(super) use nftables::load as load_nftables;

/// The rules of a scenario.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleSet {
    /// Whose traffic.
    pub(super) pods: Pods,
    /// How it is written.
    pub(super) shape: Shape,
    /// How many are allowed.
    pub(super) rules: u32,
}

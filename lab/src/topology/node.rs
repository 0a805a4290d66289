//! A node: a namespace that routes between the fabric and its pods.

use super::plan::NodePlan;
use super::{Error, mac, set_up_host};
use crate::netlink::Netlink;
use crate::netns::Netns;
use crate::scenario::Style;
use crate::topology::host;

/// Interface index of the pods' bridge.
pub(super) const CNI0: u32 = 101;
/// Interface indexes of host-side veths start here.
const VETHS: u32 = 1000;

/// A node that is up.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) plan: NodePlan,
    pub(super) netns: Netns,
    pub(super) netlink: Netlink,
    last_veth: u32,
}

impl Node {
    /// Addresses the node, and gives it a bridge in bridge style. Its `eth0` is plugged in already.
    pub(super) fn set_up(plan: NodePlan, netns: Netns) -> Result<Self, Error> {
        let mut netlink = set_up_host(&netns, &plan.addresses)?;
        if plan.style == Style::Bridge {
            netlink.add_bridge(CNI0, "cni0", mac(0xcb, 0))?;
            for gateway in &plan.gateways {
                netlink.add_address(CNI0, host(*gateway))?;
            }
        }
        Ok(Self { plan, netns, netlink, last_veth: VETHS })
    }

    /// An interface index that this node never used before, as the kernel would choose.
    pub(super) fn next_veth(&mut self) -> u32 {
        self.last_veth += 1;
        self.last_veth
    }
}

//! How a pod may be isolated: the API's words, and the same by hand.

use std::net::IpAddr;

use super::shape::{TCP, UDP};
use super::world::{BACKEND_PORT, Place, SERVICE_PORT, Who};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Not at all.
    Open,
    /// Both ways, without rules.
    #[default]
    Nothing,
    /// Sends to good pods, on the port of backends.
    Client,
    /// Gets what the accomplice asks for, on two ports, and everything from good pods.
    Server,
    /// Exchanges everything with a block, and may send to where frontends are, on their port, by address.
    Block,
    /// Gets nothing, and sends what it likes.
    Ingress,
    /// Sends nothing, and gets everything.
    Egress,
}

impl Policy {
    pub(super) fn isolates_ingress(self) -> bool {
        !matches!(self, Self::Open | Self::Egress)
    }

    pub(super) fn isolates_egress(self) -> bool {
        !matches!(self, Self::Open | Self::Ingress)
    }

    /// Whether the pod may get something that another one starts.
    pub(super) fn lets_in(self, good: Good, peer: IpAddr, protocol: u8, port: u16) -> bool {
        !self.isolates_ingress()
            || match self {
                Self::Server => {
                    good.is(peer)
                        || is(peer, Who::Of(Place::Accomplice))
                            && matches!((protocol, port), (UDP, 53) | (TCP, 80))
                }
                Self::Block => is(peer, Who::Block),
                _ => false,
            }
    }

    /// Whether the pod may send something that starts something.
    pub(super) fn lets_out(self, good: Good, peer: IpAddr, protocol: u8, port: u16) -> bool {
        !self.isolates_egress()
            || match self {
                Self::Client => good.is(peer) && matches!(protocol, TCP | UDP) && port == BACKEND_PORT,
                Self::Block => {
                    is(peer, Who::Block) || is(peer, Who::Frontend) && (protocol, port) == (UDP, SERVICE_PORT)
                }
                _ => false,
            }
    }

    /// A policy of this name for pods of that label; none where nothing is isolated.
    pub(super) fn manifest(self, name: &str) -> Option<String> {
        let (types, rules) = match self {
            Self::Open => return None,
            Self::Nothing => ("Ingress, Egress", ""),
            Self::Client => (
                "Ingress, Egress",
                "  egress:\n  - {to: [{podSelector: {matchLabels: {role: good}}}], ports: [{port: 8080}, {port: 8080, protocol: UDP}]}\n",
            ),
            Self::Server => (
                "Ingress, Egress",
                "  ingress:\n  - {from: [{podSelector: {matchLabels: {role: good}}}]}\n  \
                 - {from: [{podSelector: {matchLabels: {app: accomplice}}}], ports: [{port: 53, protocol: UDP}, {port: 80}]}\n",
            ),
            Self::Block => (
                "Ingress, Egress",
                "  ingress:\n  - {from: [{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: 'fd99::/64'}}]}\n  egress:\n  \
                 - {to: [{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: 'fd99::/64'}}]}\n  \
                 - {to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: 'fd96::/64'}}], ports: [{port: 80, protocol: UDP}]}\n",
            ),
            Self::Ingress => ("Ingress", ""),
            Self::Egress => ("Egress", ""),
        };
        Some(format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
             podSelector: {{matchLabels: {{app: {name}}}}}\n  policyTypes: [{types}]\n{rules}"
        ))
    }
}

/// Which of the two pods that may be backends are good: the one on the node, and the one elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Good(pub(super) [bool; 2]);

impl Good {
    fn is(self, address: IpAddr) -> bool {
        self.0[0] && is(address, Who::Of(Place::Backend)) || self.0[1] && is(address, Who::Remote)
    }
}

fn is(address: IpAddr, who: Who) -> bool {
    address == who.address(address.is_ipv6())
}

//! The policy that every scenario expresses in its own way: both pods are isolated in both directions, and a number of
//! consumers, of which the client is the last, may reach the server on two ports.

use std::net::Ipv4Addr;

use postern_policy::model::Protocol;

/// Where the server serves TCP.
pub(super) const TCP_PORT: u16 = 8080;
/// Where the server serves UDP.
pub(super) const UDP_PORT: u16 = 5353;
/// Where the server listens too, and nobody may reach it.
pub(super) const FORBIDDEN_PORT: u16 = 9999;
/// What the consumers may reach.
pub(super) const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)];

/// The two pods of a scenario.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pods {
    /// Sends requests.
    pub(super) client: Ipv4Addr,
    /// Answers them.
    pub(super) server: Ipv4Addr,
}

impl Pods {
    /// Of the scenario with this number.
    pub(super) fn of(scenario: u8) -> Self {
        Self { client: Ipv4Addr::new(10, 200, scenario, 2), server: Ipv4Addr::new(10, 200, scenario, 3) }
    }
}

/// One thing that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// From where.
    pub(super) from: Ipv4Addr,
    /// To where.
    pub(super) to: Ipv4Addr,
    /// How.
    pub(super) protocol: Protocol,
    /// To which port.
    pub(super) port: u16,
}

/// Consumers beside the client, for a policy of so many rules: each takes one rule a port.
pub(super) fn consumers(rules: u32) -> impl Iterator<Item = Ipv4Addr> {
    const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
    (0..(rules / 2).saturating_sub(1)).map(|number| Ipv4Addr::from_bits(FIRST.to_bits() + number))
}

/// The policy, one rule a line, with those for the measured traffic last: where a list is walked, all of it is.
pub(super) fn rules(pods: Pods, count: u32) -> impl Iterator<Item = Allowed> {
    let to_server =
        move |from| PORTS.map(|(protocol, port)| Allowed { from, to: pods.server, protocol, port });
    consumers(count).chain([pods.client]).flat_map(to_server)
}

/// `tcp` or `udp`.
pub(super) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::{Pods, rules};

    #[test]
    fn a_policy_has_as_many_rules_as_asked_for_and_the_clients_are_last() {
        let pods = Pods::of(7);
        for count in [10, 1_000, 10_000] {
            let rules: Vec<_> = rules(pods, count).collect();
            assert_eq!(rules.len(), count as usize);
            let of_client = rules.iter().filter(|rule| rule.from == pods.client).count();
            assert_eq!(of_client, 2);
            assert!(rules[rules.len() - 2..].iter().all(|rule| rule.from == pods.client));
        }
    }
}

//! Port sets of every size: inline, paged, whole protocols, everything.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use postern_common::reason::Reason;

use crate::frames;
use crate::rig::{Answer, Rig};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
";

fn rig(ports: &str) -> Rig {
    let policy = format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: shop, name: ports}}
spec:
  podSelector: {{}}
  ingress: [{ports}]
"
    );
    Rig::new("shop/web", &format!("{PODS}{policy}"))
}

fn check(rig: &mut Rig, what: &str, allowed: impl Fn(u16) -> bool, ports: impl IntoIterator<Item = u16>) {
    for (index, port) in ports.into_iter().enumerate() {
        // A source port each, so that none belongs to the flow of another.
        let source = ("10.0.0.2", 1024 + u16::try_from(index).unwrap());
        let expected = if allowed(port) { Reason::AllowedByPolicy } else { Reason::DeniedByPolicy };
        assert_eq!(
            rig.gets(&frames::tcp(source, ("10.0.0.1", port), "S")),
            Answer(expected),
            "{what}: TCP {port}"
        );
        let udp = frames::udp(source, ("10.0.0.1", port));
        assert_eq!(rig.gets(&udp), Answer(Reason::DeniedByPolicy), "{what}: UDP {port}");
    }
}

const EDGES: [u16; 16] = [1, 2, 79, 80, 81, 255, 256, 257, 511, 512, 1023, 1024, 32767, 32768, 65534, 65535];

#[test]
fn ranges_are_inclusive_at_both_ends() {
    let mut rig = rig("{ports: [{port: 80, endPort: 256}, {port: 1024}, {port: 32768, endPort: 65535}]}");
    let allowed = |port| matches!(port, 80..=256 | 1024 | 32768..);
    check(&mut rig, "three ranges", allowed, EDGES);
}

#[test]
fn more_ranges_than_fit_into_a_verdict() {
    let odd: BTreeSet<u16> = (0..500).map(|index| 1 + index * 131).collect();
    let mut ports = String::from("{ports: [");
    for port in &odd {
        write!(ports, "{{port: {port}}}, ").unwrap();
    }
    ports.push_str("{port: 60000, endPort: 60700}]}");
    let mut rig = rig(&ports);
    let allowed = |port| odd.contains(&port) || (60000..=60700).contains(&port);
    let neighbours =
        odd.iter().flat_map(|port| [port.saturating_sub(1).max(1), *port, port.saturating_add(1)]);
    check(&mut rig, "five hundred ports", allowed, neighbours.chain([60000, 60255, 60256, 60700, 60701]));
}

#[test]
fn a_whole_protocol_is_not_everything() {
    let mut rig = rig("{ports: [{protocol: TCP}]}");
    check(&mut rig, "every TCP port", |_| true, EDGES);
    assert_eq!(rig.gets(&frames::echo("10.0.0.2", "10.0.0.1", 1, false)), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.gets(&frames::other("10.0.0.2", "10.0.0.1", 47)), Answer(Reason::DeniedByPolicy));
}

#[test]
fn a_rule_without_ports_is_everything() {
    let mut rig = rig("{}");
    assert_eq!(rig.gets(&frames::echo("10.0.0.2", "10.0.0.1", 1, false)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&frames::other("10.0.0.2", "10.0.0.1", 47)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&frames::sctp(("10.0.0.2", 1), ("10.0.0.1", 1))), Answer(Reason::AllowedByPolicy));
}

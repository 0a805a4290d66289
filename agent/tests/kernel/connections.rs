//! Flows: replies pass, unsolicited packets do not, and policy changes reach what is established.

use postern_common::reason::Reason;

use crate::frames::{echo, sctp, tcp, udp};
use crate::rig::{Answer, Rig};

const WORLD: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.9}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
";

const WEB: (&str, u16) = ("10.0.0.1", 80);
const CLIENT: (&str, u16) = ("10.0.0.2", 40000);
const DB: (&str, u16) = ("10.0.0.9", 5432);
const WEB_TO_DB: (&str, u16) = ("10.0.0.1", 33000);

#[test]
fn replies_pass_in_both_directions() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "SA")), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "FA")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "SA")), Answer(Reason::Established));
    assert_eq!(rig.sends(&sctp(WEB_TO_DB, DB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&sctp(DB, WEB_TO_DB)), Answer(Reason::Established));
    assert_eq!(rig.gets(&udp(CLIENT, WEB)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&udp(WEB, CLIENT)), Answer(Reason::Established));
    assert_eq!(rig.sends(&echo("10.0.0.1", "10.0.0.9", 77, false)), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 77, true)), Answer(Reason::Established));
}

#[test]
fn what_is_no_reply_is_judged_as_new() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "SA")), Answer(Reason::DeniedByPolicy), "forged SYN-ACK");
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "A")), Answer(Reason::DeniedByPolicy), "ACK scan");
    assert_eq!(rig.gets(&udp(("10.0.0.9", 53), ("10.0.0.1", 5353))), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 78, true)), Answer(Reason::DeniedByPolicy));
    assert_eq!(rig.sends(&echo("10.0.0.1", "10.0.0.9", 79, false)), Answer(Reason::AllowedByPolicy));
    let request = echo("10.0.0.9", "10.0.0.1", 79, false);
    assert_eq!(rig.gets(&request), Answer(Reason::DeniedByPolicy), "a request with the identifier of ours");
    assert_eq!(rig.gets(&echo("10.0.0.9", "10.0.0.1", 79, true)), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(
        rig.sends(&tcp(("10.0.0.1", 81), CLIENT, "SA")),
        Answer(Reason::DeniedByPolicy),
        "another port"
    );
    assert_eq!(
        rig.sends(&tcp(WEB, CLIENT, "S")),
        Answer(Reason::DeniedByPolicy),
        "a SYN of the pod's own from the port it was reached on"
    );
}

#[test]
fn a_policy_change_reaches_established_flows() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "S")), Answer(Reason::AllowedByPolicy));
    rig.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
",
    );
    assert_eq!(
        rig.sends(&tcp(WEB, CLIENT, "SA")),
        Answer(Reason::Established),
        "still allowed, seen from the reply"
    );
    assert_eq!(rig.gets(&tcp(DB, WEB_TO_DB, "A")), Answer(Reason::DeniedByPolicy), "not allowed any more");
    assert_eq!(rig.sends(&tcp(WEB_TO_DB, DB, "A")), Answer(Reason::DeniedByPolicy));
    rig.delete_policy("shop/web");
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::DeniedByPolicy));
}

#[test]
fn established_flows_are_kept_when_told_so() {
    let mut rig = Rig::keeping("shop/web", WORLD);
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "S")), Answer(Reason::AllowedByPolicy));
    rig.delete_policy("shop/web");
    assert_eq!(rig.gets(&tcp(CLIENT, WEB, "A")), Answer(Reason::Established));
    assert_eq!(rig.sends(&tcp(WEB, CLIENT, "A")), Answer(Reason::Established));
    assert_eq!(rig.gets(&tcp(("10.0.0.2", 40001), WEB, "S")), Answer(Reason::DeniedByPolicy), "a new one");
}

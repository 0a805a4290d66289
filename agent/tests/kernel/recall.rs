//! What a CPU knows by heart is never given to another question, and is forgotten when anything changes.

use postern::datapath::half_open;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason::{self, AllowedByPolicy, DeniedByPolicy, NotIsolated, Spoofed};

use crate::frames::{tcp, udp};
use crate::pod_netns;
use crate::rig::{Answer, IFINDEX, Rig};

/// A pod that one other may reach, on one port of one protocol, and that may send anywhere.
const WORLD: &str = web!(
    r"
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.2/32}}, {ipBlock: {cidr: fd00:0:0:1::2/128}}]
    ports: [{port: 80}]
"
);

/// Nobody may reach anything but DNS.
const SILENT: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: silent}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 53, protocol: UDP}]}]
";

const POD: &str = "10.0.0.1";

/// What each of these gets does not depend on which of them came before.
#[test]
fn answers_to_one_question_are_none_to_another() {
    let mut rig = Rig::new("shop/web", WORLD);
    let pod6 = |port| ("fd00::1", port);
    let table: [(&str, Vec<u8>, Reason); 8] = [
        ("allowed", tcp(("10.0.0.2", 1), (POD, 80), "S"), AllowedByPolicy),
        ("another port", tcp(("10.0.0.2", 1), (POD, 81), "S"), DeniedByPolicy),
        ("another protocol", udp(("10.0.0.2", 1), (POD, 80)), DeniedByPolicy),
        ("another peer", tcp(("10.0.0.3", 1), (POD, 80), "S"), DeniedByPolicy),
        // The same bytes in front, and nothing behind.
        ("another family", tcp(("a00:2::", 1), pod6(80), "S"), DeniedByPolicy),
        ("allowed over IPv6", tcp(("fd00:0:0:1::2", 1), pod6(80), "S"), AllowedByPolicy),
        ("another host", tcp(("fd00:0:0:1::3", 1), pod6(80), "S"), DeniedByPolicy),
        ("another network", tcp(("fd00:0:0:2::2", 1), pod6(80), "S"), DeniedByPolicy),
    ];
    for (first, frame, reason) in &table {
        assert_eq!(rig.gets(frame), Answer(*reason), "{first}");
        for (second, frame, reason) in &table {
            assert_eq!(rig.gets(frame), Answer(*reason), "{second} after {first}");
        }
    }
}

/// The other direction of the pod has other rules for the same peer and port.
#[test]
fn answers_for_one_direction_are_none_for_the_other() {
    let mut rig = Rig::new("shop/web", &format!("{WORLD}---{SILENT}"));
    for _ in 0..2 {
        assert_eq!(rig.gets(&tcp(("10.0.0.2", 1), (POD, 80), "S")), Answer(AllowedByPolicy));
        assert_eq!(rig.sends(&tcp((POD, 1), ("10.0.0.2", 80), "S")), Answer(DeniedByPolicy));
    }
}

#[test]
fn a_change_of_policy_is_seen_by_the_next_packet() {
    let mut rig = Rig::new("shop/web", WORLD);
    for port in 0..5 {
        let syn = tcp((POD, 1000 + port), ("10.0.0.2", 443), "S");
        assert_eq!(rig.sends(&syn), Answer(NotIsolated));
        rig.apply(SILENT);
        assert_eq!(rig.sends(&syn), Answer(DeniedByPolicy));
        rig.delete_policy("shop/silent");
    }
}

#[test]
fn an_address_that_was_taken_away_is_spoofed_from_then_on() {
    let mut rig = Rig::new("shop/web", WORLD);
    rig.guard();
    for _ in 0..2 {
        for (port, (pod, peer)) in [(1, (POD, "10.0.0.2")), (2, ("fd00::1", "fd00::2"))] {
            let syn = tcp((pod, port), (peer, 443), "S");
            let address = pod.parse().unwrap();
            assert_eq!(rig.sends(&syn), Answer(NotIsolated));
            rig.maps.remove_pod_address(IFINDEX, address).unwrap();
            assert_eq!(rig.sends(&syn), Answer(Spoofed), "{pod}");
            rig.maps.add_pod_address(IFINDEX, address).unwrap();
            assert_eq!(rig.sends(&syn), Answer(NotIsolated));
        }
    }
}

/// Interface indices are handed out one after the other, so that two pods of one node can be any distance apart.
#[test]
fn veths_that_share_a_place_are_told_apart() {
    pod_netns::enter_node();
    let mut rig = Rig::new("shop/web", WORLD);
    rig.guard();
    let sent = tcp((POD, 1), ("10.0.0.2", 443), "S");
    let allowed = tcp(("10.0.0.2", 1), (POD, 80), "S");
    let denied = tcp(("10.0.0.3", 1), (POD, 80), "S");
    let guarded = rig.maps.endpoints.get(&IFINDEX, 0).unwrap();
    // A class that nothing is allowed to.
    let closed = Endpoint { ingress_class: u32::MAX / 2, ..guarded };
    for distance in [256, 1024, 65_536] {
        let other = IFINDEX + distance;
        pod_netns::add_veth(other);
        half_open::make_room(&mut rig.maps, other).unwrap();
        for _ in 0..2 {
            assert!(rig.passes_on(IFINDEX, EGRESS, &sent), "its own address");
            assert!(!rig.passes_on(other, EGRESS, &sent), "no endpoint");
            rig.maps.set_endpoint(other, closed).unwrap();
            for _ in 0..2 {
                assert!(rig.passes_on(IFINDEX, EGRESS, &sent), "its own address");
                assert!(!rig.passes_on(other, EGRESS, &sent), "not its address");
                assert!(rig.passes_on(IFINDEX, INGRESS, &allowed), "allowed");
                assert!(!rig.passes_on(other, INGRESS, &allowed), "of another class");
            }
            rig.maps.set_endpoint(other, Endpoint::default()).unwrap();
            assert!(!rig.passes_on(IFINDEX, INGRESS, &denied), "isolated");
            assert!(rig.passes_on(other, INGRESS, &denied), "not isolated");
            rig.maps.remove_endpoint(other).unwrap();
        }
    }
}

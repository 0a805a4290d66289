//! Floods and full tables: one pod's cost no other pod anything, and nothing opens.

use postern::datapath::half_open;
use postern_common::conntrack::Flow4;
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason::{AllowedByPolicy, DeniedByPolicy, Established, FlowTableFull};

use crate::frames::{self, End};
use crate::pod_netns::{self, PodNetns};
use crate::rig::{Answer, IFINDEX, Rig};

/// A pod that may send anywhere to TCP and UDP 443, and be reached on TCP 80.
const WORLD: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
  egress: [{ports: [{port: 443}, {port: 443, protocol: UDP}]}]
";

const POD: &str = "10.0.0.1";
const SERVER: End = ("10.9.9.9", 443);

/// Packets of one flood.
const FLOOD: u32 = 1_000_000;

/// Offset of the destination address in an IPv4 frame; ports follow.
const DESTINATION: usize = 14 + 16;
const SOURCE_PORT: usize = 14 + 20;

/// Frames that differ in their destination, and now and then in their source port.
fn flood(frame: &[u8], mut each: impl FnMut(u32, &[u8])) {
    let mut frame = frame.to_vec();
    for number in 0..FLOOD {
        frame[DESTINATION..][..4].copy_from_slice(&(0x0b00_0000 + number % 65_536).to_be_bytes());
        let port = u16::try_from(1024 + number / 65_536).unwrap();
        frame[SOURCE_PORT..][..2].copy_from_slice(&port.to_be_bytes());
        each(number, &frame);
    }
}

/// The frame that answers one of IPv4 with ports.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    answer[26..30].copy_from_slice(&frame[30..34]);
    answer[30..34].copy_from_slice(&frame[26..30]);
    answer[34..36].copy_from_slice(&frame[36..38]);
    answer[36..38].copy_from_slice(&frame[34..36]);
    answer
}

/// Two pods of the same class: the rig's, and one that floods through the loopback device.
fn two_pods(node: &str) -> (Rig, PodNetns) {
    pod_netns::enter_node();
    let netns = PodNetns::create(node, &[], &[]);
    let mut rig = Rig::new("shop/web", WORLD);
    let flooding: Endpoint = rig.maps.endpoints.get(&IFINDEX, 0).unwrap();
    rig.on_veth(netns.veth.ifindex, None);
    assert_eq!(rig.maps.endpoints.get(&IFINDEX, 0).unwrap(), flooding);
    (rig, netns)
}

/// Floods through another pod, before, during and after which the rig's pod does what it may.
fn unmoved(rig: &mut Rig, first: &[u8], mut one: impl FnMut(&mut Rig, &[u8])) {
    let web = |port| (POD, port);
    // Established, half-open, and what is denied.
    assert_eq!(rig.sends(&frames::tcp(web(5000), SERVER, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5000), "SA")), Answer(Established));
    assert_eq!(rig.sends(&frames::tcp(web(5000), SERVER, "A")), Answer(Established));
    assert_eq!(rig.sends(&frames::udp(web(5001), SERVER)), Answer(AllowedByPolicy));
    let established = |rig: &Rig| rig.maps.flows4.keys().map(Result::unwrap).collect::<Vec<Flow4>>();
    let before = established(rig);
    assert_eq!(before.len(), 1);

    flood(first, |number, frame| {
        one(rig, frame);
        if number % 50_000 == 0 {
            let port = 6000 + u16::try_from(number / 50_000).unwrap();
            assert_eq!(rig.sends(&frames::tcp(web(port), SERVER, "S")), Answer(AllowedByPolicy));
            assert_eq!(rig.gets(&frames::tcp(SERVER, web(port), "SA")), Answer(Established));
        }
    });

    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5000), "A")), Answer(Established), "established before");
    assert_eq!(rig.gets(&frames::udp(SERVER, web(5001))), Answer(Established), "half-open before");
    assert_eq!(rig.gets(&frames::tcp(SERVER, web(5002), "A")), Answer(DeniedByPolicy), "nothing opened");
    assert_eq!(established(rig), before, "the flood established nothing");
}

#[test]
fn a_million_unanswered_syns() {
    let (mut rig, _netns) = two_pods("floods-syn");
    let syn = frames::tcp((POD, 1024), ("11.0.0.0", 443), "S");
    unmoved(&mut rig, &syn, |rig, frame| assert!(rig.passes_on(IFINDEX, EGRESS, frame)));
}

#[test]
fn a_million_syns_that_are_answered() {
    let (mut rig, _netns) = two_pods("floods-synack");
    let syn = frames::tcp((POD, 1024), ("11.0.0.0", 443), "S");
    unmoved(&mut rig, &syn, |rig, frame| {
        assert!(rig.passes_on(IFINDEX, EGRESS, frame));
        let mut answer = answer(frame);
        answer[14 + 20 + 13] = 0x12;
        assert!(rig.passes_on(IFINDEX, INGRESS, &answer));
    });
}

#[test]
fn a_million_udp_flows() {
    let (mut rig, _netns) = two_pods("floods-udp");
    let datagram = frames::udp((POD, 1024), ("11.0.0.0", 443));
    unmoved(&mut rig, &datagram, |rig, frame| {
        assert!(rig.passes_on(IFINDEX, EGRESS, frame));
        assert!(rig.passes_on(IFINDEX, INGRESS, &answer(frame)));
    });
}

#[test]
fn a_flood_from_outside_leaves_the_pods_own_connections_alone() {
    let mut rig = Rig::new("shop/web", WORLD);
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), SERVER, "S")), Answer(AllowedByPolicy));
    let mut syn = frames::tcp(("11.0.0.0", 1024), (POD, 80), "S");
    for number in 0..100_000_u32 {
        syn[26..30].copy_from_slice(&(0x0b00_0000 + number).to_be_bytes());
        assert!(rig.passes_on(IFINDEX, INGRESS, &syn));
    }
    assert_eq!(rig.gets(&frames::tcp(SERVER, (POD, 5000), "SA")), Answer(Established));
}

#[test]
fn without_room_nothing_opens() {
    let mut rig = Rig::new("shop/web", WORLD);
    half_open::give_back(&mut rig.maps, IFINDEX).unwrap();
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), SERVER, "S")), Answer(FlowTableFull));
    assert_eq!(rig.gets(&frames::tcp(SERVER, (POD, 5000), "SA")), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&frames::udp((POD, 5000), SERVER)), Answer(FlowTableFull));
    assert_eq!(rig.gets(&frames::udp(SERVER, (POD, 5000))), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&frames::tcp((POD, 5000), ("10.9.9.9", 444), "S")), Answer(DeniedByPolicy));
}

//! What a pod sends passes as the node's, or a Service's, only where it is addressed to the node by its MAC address as well; what it gets
//! is of a flow that its node started only where it came in by no interface.

use postern_common::direction::{EGRESS, INGRESS};
use postern_common::endpoint::{Endpoint, QUARANTINE};
use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Established, Node, NotIsolated, OrphanFragment, Quarantined,
    Service,
};

use crate::frames::{End, NODE_MAC, echo, fragment, icmp_error, other, tcp, udp};
use crate::rig::{Answer, IFINDEX, Rig};

/// A pod that gets and sends nothing, and a Service.
const WORLD: &str = web!(
    r"
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  selector: {app: db}
  ports: [{port: 80, protocol: TCP}, {name: u, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 80, protocol: TCP}, {name: u, port: 53, protocol: UDP}]
endpoints: [{addresses: [10.0.0.3], conditions: {ready: true}}]
"
);

/// The pod, and its node, of both families.
const ENDS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.254"), ("fd00::1", "fd00::fe")];

/// Another pod on the bridge, and everybody there.
const OTHERS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 3], [255; 6], [0x33, 0x33, 0, 0, 0, 1]];

fn astray(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    [&mac, &frame[6..]].concat()
}

fn rig(yaml: &str) -> Rig {
    let mut rig = Rig::new("shop/web", yaml);
    rig.own_addresses(&["10.0.0.254", "fd00::fe"]);
    rig.judge_behind_nat(true);
    rig
}

/// What policy says of the node's address, where it is not the node's for being astray.
fn each_policy() -> [(String, Reason); 3] {
    let allowing =
        "[Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: \"fd00::/8\"}}]}]";
    [
        (WORLD.to_owned(), DeniedByPolicy),
        (WORLD.replace("[Ingress, Egress]", allowing), AllowedByPolicy),
        (WORLD.replace("[Ingress, Egress]", "[Ingress]"), NotIsolated),
    ]
}

#[test]
fn what_starts_something() {
    for (yaml, reason) in each_policy() {
        let mut rig = rig(&yaml);
        for (number, (pod, node)) in (0..).step_by(10).zip(ENDS) {
            let frames = [
                tcp((pod, number + 1), (node, 80), "S"),
                tcp((pod, number + 2), (node, 80), "A"),
                udp((pod, number + 3), (node, 53)),
                echo(pod, node, number + 7, false),
                other(pod, node, 99),
            ];
            for frame in frames {
                if reason == NotIsolated {
                    // Any frame opens a flow here, which the next one is of.
                    assert_eq!(rig.sends(&astray(&frame, OTHERS[0])), Answer(reason));
                    continue;
                }
                for mac in OTHERS {
                    assert_eq!(rig.sends(&astray(&frame, mac)), Answer(reason), "{reason:?} {mac:x?}");
                }
                assert_eq!(rig.sends(&frame), Answer(Node), "{reason:?}");
            }
        }
    }
}

/// What is astray opens no flow that it could be answered in.
#[test]
fn what_is_allowed_astray_is_not_answered() {
    let [_, (allowing, _), (open, _)] = each_policy();
    let (pod, node) = (("10.0.0.1", 1), ("10.0.0.9", 53));
    let mut rig = rig(&allowing);
    let there = astray(&udp(pod, ("10.0.0.254", 53)), OTHERS[0]);
    for _ in 0..10 {
        assert_eq!(rig.sends(&there), Answer(AllowedByPolicy));
    }
    assert_eq!(rig.sends(&astray(&tcp(pod, ("10.0.0.254", 53), "S"), OTHERS[0])), Answer(AllowedByPolicy));
    assert!(rig.maps.flows4.keys().next().is_none());
    let flows = |rig: &Rig| -> usize {
        let rows = rig.maps.half_open.iter().map(Result::unwrap).filter(|(key, _)| key.ifindex == IFINDEX);
        rows.map(|(_, row)| row.flows.iter().filter(|flow| flow.expires != 0).count()).sum()
    };
    assert_eq!(flows(&rig), 0);
    // To others it does, whoever gets the frame.
    assert_eq!(rig.sends(&astray(&udp(pod, node), OTHERS[0])), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&udp(node, pod)), Answer(Established));
    // A direction that is not isolated opens flows as ever.
    let mut rig = self::rig(&open);
    assert_eq!(rig.sends(&there), Answer(NotIsolated));
    assert_eq!(flows(&rig), 1);
}

/// A flow with the node that is established: who started it, over which protocol.
fn established(rig: &mut Rig, (pod, node): (End, End), initiator: u8, is_tcp: bool) {
    let frame = |from, to, flags| if is_tcp { tcp(from, to, flags) } else { udp(from, to) };
    let (there, back) = if initiator == EGRESS { (pod, node) } else { (node, pod) };
    let mut show = |frame: &[u8], is_there: bool| {
        if is_there == (initiator == EGRESS) { rig.sends(frame) } else { rig.gets(frame) }
    };
    show(&frame(there, back, "S"), true);
    show(&frame(back, there, "SA"), false);
    show(&frame(there, back, "A"), true);
    assert_eq!(show(&frame(there, back, "A"), true), Answer(Established));
}

#[test]
fn what_goes_on_in_flows_with_the_node() {
    let mut rig = rig(WORLD);
    let mut port = 0;
    for (pod, node) in ENDS {
        for initiator in [0, EGRESS] {
            for is_tcp in [true, false] {
                port += 1;
                let ends = ((pod, port), (node, port));
                established(&mut rig, ends, initiator, is_tcp);
                let frame = if is_tcp { tcp(ends.0, ends.1, "A") } else { udp(ends.0, ends.1) };
                let back = if is_tcp { tcp(ends.1, ends.0, "A") } else { udp(ends.1, ends.0) };
                for mac in OTHERS {
                    assert_eq!(rig.sends(&astray(&frame, mac)), Answer(DeniedByPolicy), "{mac:x?}");
                    assert_eq!(rig.sends(&frame), Answer(Established), "the flow goes on");
                    assert_eq!(rig.gets(&back), Answer(Established));
                }
                let error = icmp_error(pod, node, if pod.contains(':') { 1 } else { 3 }, 3, &back);
                assert_eq!(rig.sends(&error), Answer(Reason::Related));
                assert_eq!(rig.sends(&astray(&error, OTHERS[0])), Answer(DeniedByPolicy), "an error");
                rig.advance_generation();
                assert_eq!(rig.sends(&astray(&frame, OTHERS[0])), Answer(DeniedByPolicy), "judged again");
                assert_eq!(rig.gets(&back), Answer(Established));
                assert_eq!(rig.sends(&frame), Answer(Established));
            }
        }
    }
}

/// The veth of another pod on the bridge.
const ANOTHER: u32 = 77;

#[test]
fn another_pod_sends_into_a_flow_that_the_node_started() {
    let mut port = 100;
    for recheck in [false, true] {
        for (pod, node) in ENDS {
            for is_tcp in [true, false] {
                port += 1;
                let mut rig = rig(WORLD);
                let (pod, node): (End, End) = ((pod, port), (node, port));
                let frame = |from, to, flags| if is_tcp { tcp(from, to, flags) } else { udp(from, to) };
                let (there, back) = (frame(node, pod, "A"), frame(pod, node, "SA"));
                assert_eq!(rig.gets(&frame(node, pod, "S")), Answer(Node));
                assert_eq!(rig.gets_by(ANOTHER, &there), Answer(DeniedByPolicy), "opening");
                assert_eq!(rig.sends(&back), Answer(Established));
                assert_eq!(rig.gets_by(ANOTHER, &there), Answer(DeniedByPolicy), "answered");
                // A datagram may be the first until both sides were heard and one more.
                assert_eq!(rig.gets(&there), Answer(if is_tcp { Established } else { Node }));
                assert_eq!(rig.gets(&there), Answer(Established));
                assert_eq!(rig.gets_by(ANOTHER, &there), Answer(DeniedByPolicy), "established");
                let (kind, code) = if pod.0.contains(':') { (1, 4) } else { (3, 3) };
                let error = icmp_error(node.0, pod.0, kind, code, &frame(pod, node, "A"));
                assert_eq!(rig.gets(&error), Answer(Reason::Related));
                assert_eq!(rig.gets_by(ANOTHER, &error), Answer(DeniedByPolicy), "an error");
                if recheck {
                    rig.advance_generation();
                    assert_eq!(rig.gets_by(ANOTHER, &there), Answer(DeniedByPolicy), "judged again");
                }
                assert_eq!(rig.gets(&there), Answer(Established), "the flow goes on");
                assert_eq!(rig.sends(&frame(pod, node, "A")), Answer(Established));
            }
        }
    }
}

/// By which right a flow from the node's address goes on is found out anew whenever policy changes.
#[test]
fn policy_comes_and_goes_in_a_flow_that_the_node_started() {
    let allowing = "[Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]";
    let (pod, node): (End, End) = (("10.0.0.1", 80), ("10.0.0.254", 9));
    let there = tcp(node, pod, "A");
    let mut rig = rig(WORLD);
    established(&mut rig, (pod, node), INGRESS, true);
    rig.apply(&WORLD.replace("[Ingress, Egress]", allowing));
    assert_eq!(rig.gets(&there), Answer(Established));
    rig.apply(WORLD);
    assert_eq!(rig.gets(&there), Answer(Established), "now by the node's right");
    assert_eq!(rig.gets_by(ANOTHER, &there), Answer(DeniedByPolicy));
    assert_eq!(rig.gets(&there), Answer(Established));
}

/// The pod's answers do not tell who sent what they answer.
#[test]
fn what_policy_allows_of_the_nodes_address_is_anybodys() {
    let allowing = "[Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]";
    let (pod, node): (End, End) = (("10.0.0.1", 80), ("10.0.0.254", 9));
    let mut rig = rig(&WORLD.replace("[Ingress, Egress]", allowing));
    assert_eq!(rig.gets_by(ANOTHER, &tcp(node, pod, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.sends(&tcp(pod, node, "SA")), Answer(Established));
    for _ in 0..3 {
        assert_eq!(rig.gets_by(ANOTHER, &tcp(node, pod, "A")), Answer(Established));
        rig.advance_generation();
    }
    assert_eq!(rig.sends(&tcp(pod, node, "A")), Answer(Node));
    assert_eq!(rig.gets_by(ANOTHER, &tcp(node, pod, "A")), Answer(Established));
}

#[test]
fn half_open_flows_with_the_node() {
    let (pod, node): (End, End) = (("10.0.0.1", 80), ("10.0.0.254", 9));
    let mut rig = rig(WORLD);
    assert_eq!(rig.gets(&tcp(node, pod, "S")), Answer(Node));
    assert_eq!(rig.sends(&astray(&tcp(pod, node, "SA"), OTHERS[0])), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&tcp(pod, node, "SA")), Answer(Established));
    assert_eq!(rig.gets(&udp(node, pod)), Answer(Node));
    assert_eq!(rig.sends(&astray(&udp(pod, node), OTHERS[0])), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&udp(pod, node)), Answer(Established));
}

#[test]
fn services() {
    let (pod, frontend): (End, End) = (("10.0.0.1", 1), ("10.96.0.1", 53));
    let mut rig = rig(WORLD);
    for (number, mac) in (1..).zip(OTHERS) {
        let pod = (pod.0, number);
        let frame = udp(pod, frontend);
        assert_eq!(rig.sends(&astray(&frame, mac)), Answer(DeniedByPolicy), "{mac:x?}");
        for _ in 0..8 {
            assert_eq!(rig.sends(&frame), Answer(Service));
        }
        assert_eq!(rig.sends(&frame), Answer(Established));
        assert_eq!(rig.sends(&astray(&frame, mac)), Answer(DeniedByPolicy), "{mac:x?}");
        assert_eq!(rig.sends(&frame), Answer(Established));
        let syn = tcp(pod, ("10.96.0.1", 80), "S");
        assert_eq!(rig.sends(&astray(&syn, mac)), Answer(DeniedByPolicy), "{mac:x?}");
        assert_eq!(rig.sends(&syn), Answer(Service));
    }
}

#[test]
fn later_fragments_follow_to_whom_the_first_went() {
    let (pod, node): (End, End) = (("10.0.0.1", 9), ("10.0.0.254", 53));
    let mut rig = rig(WORLD);
    let (first, later) = (fragment(pod, node, 7, 0, true), fragment(pod, node, 7, 1480, false));
    assert_eq!(rig.sends(&first), Answer(Node));
    assert_eq!(rig.sends(&astray(&later, OTHERS[0])), Answer(OrphanFragment));
    assert_eq!(rig.sends(&later), Answer(Established));
    assert_eq!(rig.sends(&astray(&first, OTHERS[0])), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&later), Answer(OrphanFragment), "a first one that is denied takes the leave away");
}

#[test]
fn later_fragments_come_from_where_the_first_came() {
    let (pod, node): (End, End) = (("10.0.0.1", 9), ("10.0.0.254", 53));
    let mut rig = rig(WORLD);
    let (first, later) = (fragment(node, pod, 7, 0, true), fragment(node, pod, 7, 1480, false));
    assert_eq!(rig.gets(&first), Answer(Node));
    assert_eq!(rig.gets_by(ANOTHER, &later), Answer(OrphanFragment));
    assert_eq!(rig.gets(&later), Answer(Established));
}

#[test]
fn in_quarantine() {
    let mut rig = rig(WORLD);
    let quarantine = Endpoint {
        ingress_class: QUARANTINE,
        egress_class: QUARANTINE,
        epoch: 1,
        master: 7,
        master_mac: NODE_MAC,
        ..Endpoint::default()
    };
    rig.set_endpoint(quarantine);
    let frame = udp(("10.0.0.1", 9), ("10.0.0.254", 53));
    assert_eq!(rig.sends(&astray(&frame, OTHERS[0])), Answer(Quarantined));
    assert_eq!(rig.sends(&frame), Answer(Node));
}

/// Whether it is addressed to the node is known by the veth's own address (which a test run's device does not have), by the bridge's, or
/// not at all.
#[test]
fn who_the_node_is() {
    let mut rig = rig(WORLD);
    let mut port = 1;
    for (master, mac, reason) in [
        (0, [0; 6], DeniedByPolicy),
        (7, NODE_MAC, Node),
        (7, OTHERS[0], DeniedByPolicy),
        // A port of something that is no bridge: any frame may be the node's.
        (7, [0; 6], Node),
    ] {
        rig.port_of(master, mac);
        let frame = udp(("10.0.0.1", port), ("10.0.0.254", 53));
        port += 1;
        assert_eq!(rig.sends(&frame), Answer(reason), "{master} {mac:x?}");
    }
    rig.port_of(0, [0; 6]);
    let frame = udp(("10.0.0.1", port), ("10.0.0.254", 53));
    // The address of the device that test runs show packets on.
    assert_eq!(rig.sends(&astray(&frame, [0; 6])), Answer(Node));
}

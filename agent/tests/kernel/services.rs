//! Services on the pod's side of the choice of a backend: what may go on to it, what is noted of it, and what becomes of it when
//! policy changes. The far side needs a node that forwards: lab/tests/lab/services.rs.

use postern_common::conntrack::wide;
use postern_common::direction::EGRESS;
use postern_common::reason::Reason::{
    AllowedByPolicy, DeniedByPolicy, Established, Node, NotIsolated, Service,
};
use postern_common::service::{Crossing, JUDGED, KEPT, NOTHING_NOTED, UNTAGGED, crossings_per_cpu};
use postern_common::{IPPROTO_TCP, IPPROTO_UDP};

use crate::frames::{self, End, tcp, udp};
use crate::rig::{Answer, Rig};

const POD: End = ("10.0.0.1", 4000);
const POD6: End = ("fd00::1", 4000);
const CLUSTER_IP: &str = "10.96.0.10";
const FRONTEND: End = (CLUSTER_IP, 80);
const FRONTEND6: End = ("fd96::10", 80);
const OWN_NODE: &str = "192.0.2.1";
const REMOTE_NODE: &str = "192.0.2.2";

/// Sequence and acknowledgment number of every frame of TCP here.
const CONTENT: u64 = u64::from_ne_bytes([0, 0, 3, 232, 0, 0, 0, 0]);

/// A client that may send to pods `role: good` on port 8080, and a Service with one of them and one other behind it.
const WORLD: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: good, labels: {app: web, role: good}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.1.1}, {ip: "fd00:1::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: bad, labels: {app: web, role: bad}}
spec: {nodeName: node-b, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.1.2}, {ip: "fd00:1::2"}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: NodePort
  clusterIPs: [10.96.0.10, "fd96::10"]
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, port: 80, protocol: UDP, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: nobody}
spec: {clusterIPs: [10.96.0.11], selector: {app: nobody}, ports: [{port: 80}]}
"#;

/// Egress to good pods, and nothing comes in.
const POLICY: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Ingress, Egress]
  egress:
    - to: [{podSelector: {matchLabels: {role: good}}}]
      ports: [{port: 8080}, {port: 8080, protocol: UDP}]
";

/// The same, but to nobody.
const DENY: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress, Egress]}
";

fn rig() -> Rig {
    let mut rig = Rig::new("shop/client", WORLD);
    rig.judge_behind_nat(true);
    rig.own_addresses(&[OWN_NODE]);
    rig.apply(POLICY);
    rig
}

/// A flow from the pod to a frontend, as TCP connections are: the backend answers, the pod goes on.
fn establish(rig: &mut Rig, pod: End, frontend: End) {
    assert_eq!(rig.sends(&tcp(pod, frontend, "S")), Answer(Service));
    assert_eq!(rig.gets(&tcp(frontend, pod, "SA")), Answer(Established));
    assert_eq!(rig.sends(&tcp(pod, frontend, "A")), Answer(Established));
    assert_eq!(rig.gets(&tcp(frontend, pod, "A")), Answer(Established));
}

#[test]
fn what_goes_to_a_frontend_is_left_to_its_backend() {
    let mut rig = rig();
    for (pod, frontend) in [(POD, FRONTEND), (POD6, FRONTEND6)] {
        assert_eq!(rig.sends(&tcp(pod, frontend, "S")), Answer(Service));
        assert_eq!(rig.sends(&udp(pod, frontend)), Answer(Service));
        assert_eq!(rig.sends(&tcp(pod, (frontend.0, 81), "S")), Answer(DeniedByPolicy), "no such port");
    }
    assert_eq!(rig.sends(&frames::echo(POD.0, CLUSTER_IP, 1, false)), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&tcp(POD, ("10.96.0.11", 80), "S")), Answer(DeniedByPolicy), "no backends");
    // Answers come, others do not.
    assert_eq!(rig.gets(&tcp(FRONTEND, POD, "SA")), Answer(Established));
    assert_eq!(rig.gets(&tcp(FRONTEND, (POD.0, 4001), "SA")), Answer(DeniedByPolicy));
}

#[test]
fn nothing_is_left_to_nobody() {
    let mut rig = rig();
    rig.judge_behind_nat(false);
    assert_eq!(rig.sends(&tcp(POD, FRONTEND, "S")), Answer(DeniedByPolicy));
}

#[test]
fn what_may_end_elsewhere_is_noted() {
    let mut rig = rig();
    let noted = |rig: &mut Rig, frame: &[u8]| {
        let before = rig.crossings();
        rig.sends(frame);
        let after = rig.crossings();
        after
            .into_iter()
            .zip(before)
            .filter(|(after, before)| after != before)
            .map(|(after, _)| after)
            .collect::<Vec<_>>()
    };
    let crossing = |peer: End, flags| Crossing {
        ifindex: crate::rig::IFINDEX,
        flags,
        pod: wide([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        peer: match peer.0.parse().unwrap() {
            std::net::IpAddr::V4(it) => {
                let [a, b, c, d] = it.octets();
                wide([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
            std::net::IpAddr::V6(it) => wide(it.octets()),
        },
        pod_port: POD.1,
        peer_port: peer.1,
        protocol: IPPROTO_TCP.into(),
        content: CONTENT,
    };
    // A Service, policy's own word for an address, and the pod's node: a port of it may be anybody's.
    assert_eq!(noted(&mut rig, &tcp(POD, FRONTEND, "S")), [crossing(FRONTEND, 0)]);
    assert_eq!(noted(&mut rig, &tcp(POD, ("10.0.1.1", 8080), "S")), [crossing(("10.0.1.1", 8080), JUDGED)]);
    assert_eq!(noted(&mut rig, &tcp(POD, (OWN_NODE, 30080), "S")), [crossing((OWN_NODE, 30080), 0)]);
    // Nothing of what is dropped, and of a flow that goes on only what goes to a Service.
    assert_eq!(noted(&mut rig, &tcp(POD, ("10.0.1.2", 8080), "S")), []);
    for (peer, often) in [(FRONTEND, 1), (("10.0.1.1", 8080), 0)] {
        rig.sends(&tcp(POD, peer, "S"));
        rig.gets(&tcp(peer, POD, "SA"));
        for _ in 0..3 {
            assert_eq!(noted(&mut rig, &tcp(POD, peer, "A")).len(), often, "{peer:?}");
        }
    }
}

#[test]
fn a_change_of_policy_is_about_the_backend() {
    for (pod, frontend, good, bad) in
        [(POD, FRONTEND, "10.0.1.1", "10.0.1.2"), (POD6, FRONTEND6, "fd00:1::1", "fd00:1::2")]
    {
        let mut rig = rig();
        for (pod, backend, passes) in [((pod.0, 4000), good, true), ((pod.0, 4001), bad, false)] {
            establish(&mut rig, pod, frontend);
            rig.set_backend(pod, frontend, IPPROTO_TCP, (backend, 8080));
            rig.advance_generation();
            let expected = if passes { Answer(Established) } else { Answer(DeniedByPolicy) };
            assert_eq!(rig.gets(&tcp(frontend, pod, "A")), expected, "from {backend}");
            // Whatever the backend was, this one's is looked at where it is known.
            assert_eq!(rig.sends(&tcp(pod, frontend, "A")), Answer(Established), "to {backend}");
            // The port counts too.
            rig.set_backend(pod, frontend, IPPROTO_TCP, (backend, 8081));
            rig.advance_generation();
            assert_eq!(rig.gets(&tcp(frontend, pod, "A")), Answer(DeniedByPolicy), "port of {backend}");
        }
        // What the pod sends passes on this side, whatever policy says: it may go elsewhere by now. Answers do not.
        establish(&mut rig, (pod.0, 4002), frontend);
        rig.apply(DENY);
        assert_eq!(rig.sends(&tcp((pod.0, 4002), frontend, "A")), Answer(Established));
        rig.set_backend((pod.0, 4002), frontend, IPPROTO_TCP, (good, 8080));
        assert_eq!(rig.gets(&tcp(frontend, (pod.0, 4002), "A")), Answer(DeniedByPolicy));
        rig.apply(POLICY);
        assert_eq!(rig.gets(&tcp(frontend, (pod.0, 4002), "A")), Answer(Established));
    }
}

#[test]
fn a_flow_to_the_own_node_stays_one() {
    let mut rig = rig();
    let node = (OWN_NODE, 53);
    assert_eq!(rig.sends(&udp(POD, node)), Answer(Node));
    assert_eq!(rig.gets(&udp(node, POD)), Answer(Established));
    rig.sends(&udp(POD, node));
    rig.apply(DENY);
    assert_eq!(rig.gets(&udp(node, POD)), Answer(Established));
    assert_eq!(rig.sends(&udp(POD, node)), Answer(Established));
}

#[test]
fn an_address_that_the_node_gave_up_is_one_like_any_other() {
    let mut rig = rig();
    let frames = [
        udp(POD, (OWN_NODE, 53)),
        tcp(POD, (OWN_NODE, 53), "A"),
        udp((OWN_NODE, 53), POD),
        tcp((OWN_NODE, 53), POD, "A"),
    ];
    assert_eq!(rig.sends(&tcp(POD, (OWN_NODE, 53), "S")), Answer(Node));
    assert_eq!(rig.gets(&tcp((OWN_NODE, 53), POD, "SA")), Answer(Established));
    rig.sends(&frames[0]);
    for frame in &frames[..2] {
        rig.sends(frame);
    }
    for frame in &frames[2..] {
        assert_eq!(rig.gets(frame), Answer(Established));
    }
    rig.own_addresses(&[]);
    for frame in &frames[..2] {
        assert_eq!(rig.sends(frame), Answer(DeniedByPolicy));
    }
    for frame in &frames[2..] {
        assert_eq!(rig.gets(frame), Answer(DeniedByPolicy));
    }
}

#[test]
fn a_frontend_of_another_node_is_all_its_backends() {
    let mut rig = rig();
    let node_port = (REMOTE_NODE, 30080);
    assert_eq!(rig.sends(&tcp(POD, node_port, "S")), Answer(DeniedByPolicy), "one of two");
    rig.apply(
        "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: bad, labels: {app: web, role: good}},
          spec: {nodeName: node-b, containers: [{name: c}]}, status: {podIPs: [{ip: 10.0.1.2}]}}",
    );
    assert_eq!(rig.sends(&tcp(POD, node_port, "S")), Answer(AllowedByPolicy), "both");
    assert_eq!(rig.gets(&tcp(node_port, POD, "SA")), Answer(Established));
    rig.apply(DENY);
    assert_eq!(rig.gets(&tcp(node_port, POD, "A")), Answer(DeniedByPolicy), "none");
    assert_eq!(rig.sends(&tcp(POD, (REMOTE_NODE, 30081), "S")), Answer(DeniedByPolicy), "no such port");
}

#[test]
fn a_direction_that_is_not_isolated_is_noted_for_the_way_back() {
    let mut rig = rig();
    rig.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: client},
          spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress]}}",
    );
    let before = rig.crossings();
    assert_eq!(rig.sends(&udp(POD, FRONTEND)), Answer(NotIsolated));
    let noted = rig.crossings().into_iter().zip(before).find(|(after, before)| after != before).unwrap().0;
    assert_eq!((noted.protocol, noted.flags), (IPPROTO_UDP.into(), JUDGED));
}

#[test]
fn every_packet_on_its_way_has_a_slot_of_its_own() {
    let mut rig = rig();
    establish(&mut rig, POD, FRONTEND);
    let frame = tcp(POD, FRONTEND, "A");
    // One family has every other slot of its CPU, and the thread may move to another one.
    let slots = crossings_per_cpu(u32::try_from(aya::util::nr_cpus().unwrap()).unwrap());
    let packets = slots / 2 - 1;
    let before = rig.crossings().iter().filter(|it| it.ifindex != 0).count();
    for _ in 0..packets {
        assert!(rig.passes_on(crate::rig::IFINDEX, EGRESS, &frame));
    }
    let crossings = rig.crossings();
    let used = crossings.iter().filter(|it| it.ifindex != 0).count();
    // Two of the first packets' slots may be used again.
    assert!(used + before >= packets as usize, "{used} slots for {packets} packets");
    let (none, unnoted) = (usize::from(UNTAGGED), usize::from(NOTHING_NOTED));
    assert_eq!((crossings.len(), crossings[none].ifindex, crossings[unnoted].ifindex), (65_536, 0, 0));
}

/// The same as [`POLICY`], and egress to an address outside.
const OUTSIDE: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}]}, {to: [{podSelector: {matchLabels: {role: good}}}]}]
";

/// A Service that has the address outside.
const LATE: &str = r"
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: late}
spec: {clusterIPs: [10.96.0.12], externalIPs: [198.51.100.1], selector: {role: good}, ports: [{port: 80, targetPort: 8080}]}
";

/// The flags of what is noted of a packet, if it is.
fn flags_of(rig: &mut Rig, frame: &[u8]) -> Option<u32> {
    let before = rig.crossings();
    assert_eq!(rig.sends(frame), Answer(Established));
    let after = rig.crossings();
    after.into_iter().zip(before).find(|(after, before)| after != before).map(|(after, _)| after.flags)
}

#[test]
fn a_flow_that_is_judged_again_learns_that_it_goes_to_a_service() {
    let mut rig = rig();
    rig.apply(OUTSIDE);
    let outside = ("198.51.100.1", 80);
    assert_eq!(rig.sends(&tcp(POD, outside, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&tcp(outside, POD, "SA")), Answer(Established));
    assert_eq!(flags_of(&mut rig, &tcp(POD, outside, "A")), None);
    assert_eq!(flags_of(&mut rig, &tcp(POD, outside, "A")), None);
    rig.apply(LATE);
    // It may talk on until the pod says something.
    for _ in 0..2 {
        assert_eq!(rig.gets(&tcp(outside, POD, "A")), Answer(Established));
    }
    for _ in 0..2 {
        assert_eq!(flags_of(&mut rig, &tcp(POD, outside, "A")), Some(0));
    }
    // Behind NAT it is seen where the packets went.
    rig.set_backend(POD, outside, IPPROTO_TCP, outside);
    assert_eq!(rig.gets(&tcp(outside, POD, "A")), Answer(Established));
    assert_eq!(flags_of(&mut rig, &tcp(POD, outside, "A")), Some(0));
}

#[test]
fn what_is_kept_is_noted_as_such() {
    let mut rig = Rig::keeping("shop/client", WORLD);
    rig.judge_behind_nat(true);
    rig.apply(POLICY);
    establish(&mut rig, POD, FRONTEND);
    assert_eq!(flags_of(&mut rig, &tcp(POD, FRONTEND, "A")), Some(KEPT));
}

//! TCP's simultaneous open (RFC 9293 3.5): both sides send a SYN, and neither is an answer by its flags.

use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockopt, socket, sockopt,
};
use postern_common::endpoint::{Endpoint, QUARANTINE};
use postern_common::reason::Reason::{AllowedByPolicy, DeniedByPolicy, Established, Quarantined};
use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::agents::{Agent, WEB, dropped, route, sh};
use crate::frames::tcp;
use crate::pod_netns::PodNetns;
use crate::removal::on_node;
use crate::rig::{Answer, Rig};

/// A pod that may start connections, and that nobody may.
const CLIENT: &str = r"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}]}
";

const POD: (&str, u16) = ("10.0.0.1", 5000);
const PEER: (&str, u16) = ("10.0.0.9", 6000);

#[test]
fn a_syn_against_a_flow_that_only_opens_is_an_answer() {
    let mut rig = Rig::new("shop/web", CLIENT);
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy), "before the pod sent one");
    assert_eq!(rig.sends(&tcp(POD, PEER, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&tcp((PEER.0, 6001), POD, "S")), Answer(DeniedByPolicy), "of another port");
    assert_eq!(rig.sends(&tcp(POD, PEER, "SA")), Answer(DeniedByPolicy), "nothing was heard of the peer");
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy), "one answer, not many");
    assert_eq!(rig.sends(&tcp(POD, PEER, "SA")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "SA")), Answer(Established));
    assert_eq!(rig.sends(&tcp(POD, PEER, "A")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "A")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy), "the connection is there");
}

#[test]
fn a_syn_against_an_answered_flow_is_none() {
    let mut rig = Rig::new("shop/web", CLIENT);
    assert_eq!(rig.sends(&tcp(POD, PEER, "S")), Answer(AllowedByPolicy));
    assert_eq!(rig.gets(&tcp(PEER, POD, "SA")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy));
    assert_eq!(rig.sends(&tcp(POD, PEER, "A")), Answer(Established));
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy));
}

#[test]
fn nor_is_one_to_a_pod_in_quarantine_or_after_policy_changed() {
    let mut rig = Rig::new("shop/web", CLIENT);
    assert_eq!(rig.sends(&tcp(POD, PEER, "S")), Answer(AllowedByPolicy));
    let quarantine =
        Endpoint { ingress_class: QUARANTINE, egress_class: QUARANTINE, epoch: 1, ..Endpoint::default() };
    rig.set_endpoint(quarantine);
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(Quarantined));
    let mut rig = Rig::new("shop/web", CLIENT);
    assert_eq!(rig.sends(&tcp(POD, PEER, "S")), Answer(AllowedByPolicy));
    rig.apply(&CLIENT.replace("egress: [{}]", "egress: []"));
    assert_eq!(rig.gets(&tcp(PEER, POD, "S")), Answer(DeniedByPolicy));
}

/// Begins a connection from one port of a pod to one of another.
fn begin(pod: &PodNetns, from: SockaddrIn, to: SockaddrIn) -> OwnedFd {
    pod.within(|| {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        bind(socket.as_raw_fd(), &from).unwrap();
        assert_eq!(connect(socket.as_raw_fd(), &to), Err(nix::errno::Errno::EINPROGRESS));
        socket
    })
}

fn is_connected(socket: &OwnedFd) -> bool {
    assert_eq!(getsockopt(socket, sockopt::SocketError), Ok(0));
    nix::sys::socket::getpeername::<SockaddrIn>(socket.as_raw_fd()).is_ok()
}

#[test]
fn two_pods_that_connect_to_each_other_at_once_are_connected() {
    on_node(|pods| {
        route(pods);
        let policy = "spec: { podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}] }\n";
        let agent = Agent::start("simultaneous", &format!("{WEB}{policy}"), &[]);
        agent.wait_for(|status| status.ready);
        // As kube-proxy has it: what starts a connection for conntrack is judged before it is on its veth, too.
        sh("iptables -t nat -A POSTROUTING -s 198.51.100.1 -j MASQUERADE");
        let ends = [SockaddrIn::new(10, 9, 1, 2, 5000), SockaddrIn::new(10, 9, 2, 2, 6000)];
        // Neither SYN arrives. The second pod's comes again first, while the first pod waits for an answer to its own.
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let begun = Instant::now();
        let other = begin(&pods[1], ends[1], ends[0]);
        std::thread::sleep(Duration::from_millis(400));
        let web = begin(&pods[0], ends[0], ends[1]);
        std::thread::sleep(Duration::from_millis(200));
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        while !(is_connected(&web) && is_connected(&other)) {
            assert!(begun.elapsed() < Duration::from_secs(10), "never connected");
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = begun.elapsed();
        let status = agent.wait_for(|_| true);
        assert_eq!(dropped(&status, "ingress", "denied-by-policy"), 0, "{status:?}");
        assert_eq!(dropped(&status, "egress", "denied-by-policy"), 0, "{status:?}");
        assert!(took < Duration::from_millis(1350), "by the first pod's second SYN, after {took:?}");
    });
}

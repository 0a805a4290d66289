//! Statements 12 to 15, and 30: what ports name.

use super::{ICMP, TCP_80, check, objects, sctp, tcp as on_tcp, udp};
use crate::model::{Object, Port, PortMatch, Protocol};
use crate::testkit::build::{any, block, named, namespace, pod, pods, policy, range, rule, tcp};

const T: Protocol = Protocol::Tcp;
const U: Protocol = Protocol::Udp;
const S: Protocol = Protocol::Sctp;

fn ingress(ports: Vec<Port>) -> Vec<Object> {
    objects![
        namespace("a", &[]),
        pod("a", "one", "10.0.0.1").port("http", 80, T).port("http", 81, U).labelled(&[("app", "web")]),
        pod("a", "two", "10.0.0.2").port("http", 8080, T).port("", 80, T).labelled(&[("app", "web")]),
        pod("a", "client", "10.0.0.3").on("node-b"),
        policy("a", "p").selecting(&[("app", "web")]).ingress([rule([], ports)]),
    ]
}

#[test]
fn absent_ports_and_protocols() {
    check(
        "12: no ports",
        ingress(vec![]),
        &[
            ("a/client", "a/one", ICMP, true),
            ("a/client", "a/one", sctp(9), true),
            ("a/client", "a/one", udp(0), true),
        ],
    );
    check(
        "12: every port of a protocol",
        ingress(vec![any(T)]),
        &[
            ("a/client", "a/one", on_tcp(65535), true),
            ("a/client", "a/one", on_tcp(0), true),
            ("a/client", "a/one", udp(80), false),
            ("a/client", "a/one", ICMP, false),
        ],
    );
    check(
        "15: all three protocols are not ICMP",
        ingress(vec![any(T), any(U), any(S)]),
        &[("a/client", "a/one", sctp(1), true), ("a/client", "a/one", ICMP, false)],
    );
    check(
        "25: a port that could not be parsed",
        ingress(vec![Port { protocol: T, ports: PortMatch::Nothing }]),
        &[("a/client", "a/one", TCP_80, false), ("a/client", "a/one", ICMP, false)],
    );
}

#[test]
fn ranges_and_protocols() {
    check(
        "14",
        ingress(vec![range(T, 80, 82), range(U, 53, 53), range(S, 7, 9)]),
        &[
            ("a/client", "a/one", on_tcp(79), false),
            ("a/client", "a/one", on_tcp(80), true),
            ("a/client", "a/one", on_tcp(82), true),
            ("a/client", "a/one", on_tcp(83), false),
            ("a/client", "a/one", udp(53), true),
            ("a/client", "a/one", on_tcp(53), false),
            ("a/client", "a/one", sctp(8), true),
            ("a/client", "a/one", on_tcp(8), false),
            ("a/client", "a/one", ICMP, false),
        ],
    );
}

#[test]
fn named_ports_of_ingress_are_the_subjects() {
    check(
        "13",
        ingress(vec![named(T, "http")]),
        &[
            ("a/client", "a/one", on_tcp(80), true),
            ("a/client", "a/one", udp(81), false),
            ("a/client", "a/one", on_tcp(81), false),
            ("a/client", "a/two", on_tcp(8080), true),
            ("a/client", "a/two", on_tcp(80), false),
        ],
    );
    check(
        "13: nobody declares it",
        ingress(vec![named(T, "metrics")]),
        &[("a/client", "a/one", on_tcp(80), false), ("a/client", "a/one", ICMP, false)],
    );
}

fn egress(peers: Vec<crate::model::Peer>, ports: Vec<Port>) -> Vec<Object> {
    objects![
        namespace("a", &[]),
        pod("a", "client", "10.0.0.3"),
        pod("a", "one", "10.0.0.1")
            .port("http", 80, T)
            .port("http", 81, U)
            .labelled(&[("app", "web")])
            .on("node-b"),
        pod("a", "two", "10.0.0.2").port("http", 8080, T).labelled(&[("app", "web")]).on("node-b"),
        pod("a", "three", "10.0.0.4").port("http", 90, T).labelled(&[("app", "db")]).on("node-b"),
        pod("a", "host", "172.16.0.9")
            .port("http", 80, T)
            .labelled(&[("app", "web")])
            .on("node-b")
            .on_host_network(),
        policy("a", "p").egress([rule(peers, ports)]),
    ]
}

#[test]
fn named_ports_of_egress_are_each_destinations() {
    check(
        "13: selector",
        egress(vec![pods("a", &[("app", "web")])], vec![named(T, "http")]),
        &[
            ("a/client", "a/one", on_tcp(80), true),
            ("a/client", "a/one", on_tcp(8080), false),
            ("a/client", "a/one", udp(81), false),
            ("a/client", "a/two", on_tcp(8080), true),
            ("a/client", "a/two", on_tcp(80), false),
            ("a/client", "a/three", on_tcp(90), false),
        ],
    );
    let by_address = [
        ("a/client", "a/one", on_tcp(80), true),
        ("a/client", "a/three", on_tcp(90), true),
        ("a/client", "a/three", on_tcp(80), false),
        ("a/client", "10.0.0.77", on_tcp(80), false),
        // On the host's network, an address and its ports are the node's.
        ("a/client", "a/host", on_tcp(80), false),
    ];
    check("13: ipBlock", egress(vec![block("0.0.0.0/0", &[])], vec![named(T, "http")]), &by_address);
    check("13: empty to", egress(vec![], vec![named(T, "http")]), &by_address);
    check(
        "13: beside a number",
        egress(vec![], vec![named(U, "http"), tcp(443)]),
        &[
            ("a/client", "a/one", udp(81), true),
            ("a/client", "a/two", on_tcp(443), true),
            ("a/client", "192.0.2.1", on_tcp(443), true),
            ("a/client", "192.0.2.1", udp(81), false),
        ],
    );
}

//! Statements 8 to 11, and 29: what peers name.

use super::{ICMP, TCP_80, check, objects};
use crate::model::{NamespaceScope, Object, Peer, Requirement, Selector};
use crate::testkit::build::{block, namespace, pod, pods, pods_of, policy, rule, selector};

/// A subject `a/web`, and callers of three namespaces.
fn callers(peers: Vec<Peer>) -> Vec<Object> {
    objects![
        namespace("a", &[("team", "red")]),
        namespace("b", &[("team", "blue")]),
        namespace("c", &[("team", "")]),
        pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]).and_address("fd00::1"),
        pod("a", "x", "10.0.0.2").labelled(&[("app", "x")]),
        pod("b", "x", "10.0.1.2").labelled(&[("app", "x")]).on("node-b"),
        pod("b", "y", "10.0.1.3").labelled(&[("app", "y")]).on("node-b"),
        pod("c", "empty", "10.0.2.2").labelled(&[("app", "")]).on("node-b").and_address("fd00::22"),
        pod("c", "bare", "10.0.2.3").on("node-b"),
        policy("a", "p").selecting(&[("app", "web")]).ingress([rule(peers, [])]),
    ]
}

/// Who of the callers and of two externals gets through.
fn admits(statement: &str, peers: Vec<Peer>, expected: &[&str]) {
    let all = ["a/x", "b/x", "b/y", "c/empty", "c/bare", "192.0.2.1", "2001:db8::1", "10.0.1.99"];
    let questions: Vec<_> = all.iter().map(|from| (*from, "a/web", ICMP, expected.contains(from))).collect();
    check(statement, callers(peers), &questions);
}

#[test]
fn selectors_of_a_peer_are_and_and_peers_are_or() {
    admits("8: podSelector alone", vec![pods("a", &[("app", "x")])], &["a/x"]);
    admits("8: both", vec![pods_of(&[("team", "blue")], &[("app", "x")])], &["b/x"]);
    admits(
        "8: two items",
        vec![pods_of(&[("team", "blue")], &[]), pods("a", &[("app", "x")])],
        &["a/x", "b/x", "b/y"],
    );
    admits("8: all namespaces", vec![pods_of(&[], &[])], &["a/x", "b/x", "b/y", "c/empty", "c/bare"]);
    admits("10: by name", vec![pods_of(&[("kubernetes.io/metadata.name", "b")], &[("app", "y")])], &["b/y"]);
}

#[test]
fn no_peers_are_anyone_and_an_empty_peer_is_nobody() {
    let all = ["a/x", "b/x", "b/y", "c/empty", "c/bare", "192.0.2.1", "2001:db8::1", "10.0.1.99"];
    admits("9", vec![], &all);
    admits("29", vec![Peer::Nothing], &[]);
    admits("29: beside another", vec![Peer::Nothing, pods("a", &[("app", "x")])], &["a/x"]);
}

#[test]
fn expressions() {
    let of_all = |requirement: Requirement| Peer::Pods {
        namespaces: NamespaceScope::Matching(Selector::default()),
        pods: selector([requirement]),
    };
    let values = |values: &[&str]| values.iter().map(|value| (*value).into()).collect::<Vec<_>>();
    let app = || "app".into();
    admits("10: In", vec![of_all(Requirement::In(app(), values(&["x", ""])))], &["a/x", "b/x", "c/empty"]);
    admits(
        "10: NotIn matches without the key",
        vec![of_all(Requirement::NotIn(app(), values(&["x", ""])))],
        &["b/y", "c/bare"],
    );
    admits(
        "29: an empty value exists",
        vec![of_all(Requirement::Exists(app()))],
        &["a/x", "b/x", "b/y", "c/empty"],
    );
    admits("10: DoesNotExist", vec![of_all(Requirement::DoesNotExist(app()))], &["c/bare"]);
    let namespaces = |requirement: Requirement| Peer::Pods {
        namespaces: NamespaceScope::Matching(selector([requirement])),
        pods: Selector::default(),
    };
    admits(
        "10: NotIn of namespaces",
        vec![namespaces(Requirement::NotIn("team".into(), values(&["red", ""])))],
        &["b/x", "b/y"],
    );
}

#[test]
fn a_namespace_not_yet_known_is_only_its_name() {
    let late = |peer: Peer| -> Vec<Object> {
        callers(vec![peer])
            .into_iter()
            .filter(|object| *object != namespace("b", &[("team", "blue")]))
            .collect()
    };
    let evil = Peer::Pods {
        namespaces: NamespaceScope::Matching(selector([Requirement::NotIn(
            "team".into(),
            vec!["blue".into()],
        )])),
        pods: Selector::default(),
    };
    check("23", late(evil), &[("b/x", "a/web", ICMP, false), ("a/x", "a/web", ICMP, true)]);
    check("10", late(pods_of(&[], &[])), &[("b/x", "a/web", ICMP, true)]);
    check("10", late(pods_of(&[("kubernetes.io/metadata.name", "b")], &[])), &[("b/x", "a/web", ICMP, true)]);
}

#[test]
fn blocks_match_pods_too() {
    admits("11", vec![block("10.0.1.0/24", &[])], &["b/x", "b/y", "10.0.1.99"]);
    admits("11: host bits", vec![block("10.0.1.77/24", &["10.0.1.3/32"])], &["b/x", "10.0.1.99"]);
    admits("11: exact", vec![block("10.0.1.2/32", &[])], &["b/x"]);
    admits("11: v6", vec![block("::/0", &[])], &["2001:db8::1"]);
    admits(
        "11: nested",
        vec![block("0.0.0.0/0", &["10.0.0.0/8"]), block("10.0.2.0/24", &[])],
        &["192.0.2.1", "c/empty", "c/bare"],
    );
    admits("11: all excepted", vec![block("10.0.0.0/8", &["10.0.0.0/8"])], &[]);
}

#[test]
fn every_address_of_a_pod_is_a_peer() {
    check(
        "24",
        callers(vec![pods_of(&[("team", "")], &[])]),
        &[
            ("fd00::22", "a/web", TCP_80, true),
            ("10.0.2.2", "a/web", TCP_80, true),
            ("fd00::23", "a/web", TCP_80, false),
        ],
    );
}

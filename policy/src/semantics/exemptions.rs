//! Statements 16, 17, 20, 21, 22, 24: what always passes, and who is nobody.

use super::{ICMP, TCP_80, check, objects};
use crate::engine::{Engine, Scope};
use crate::model::{NamespacedName, Object};
use crate::tables::ClassId;
use crate::testkit::build::{block, namespace, node, pod, pods_of, policy, rule};

fn cluster(policies: Vec<Object>) -> Vec<Object> {
    let mut objects = objects![
        namespace("a", &[]),
        node("node-a", &["172.16.0.1", "fd01::1"]),
        node("node-b", &["172.16.0.2"]),
        pod("a", "web", "10.0.0.1").and_address("fd00::1"),
        pod("a", "proxy", "172.16.0.1").on_host_network().labelled(&[("app", "x")]),
        pod("a", "extra", "172.16.0.77").on_host_network(),
        pod("a", "far", "172.16.0.2").on("node-b").on_host_network().labelled(&[("app", "x")]),
        pod("a", "done", "10.0.0.9").labelled(&[("app", "x")]).finished(),
    ];
    objects.extend(policies);
    objects
}

fn deny() -> Vec<Object> {
    objects![policy("a", "deny").ingress([]).egress([])]
}

#[test]
fn the_own_node_always_passes() {
    check(
        "16",
        cluster(deny()),
        &[
            ("172.16.0.1", "a/web", TCP_80, true),
            ("fd01::1", "a/web", ICMP, true),
            ("a/web", "172.16.0.1", ICMP, true),
            ("a/proxy", "a/web", TCP_80, true),
            ("a/web", "a/extra", TCP_80, true),
            ("172.16.0.2", "a/web", TCP_80, false),
            ("a/web", "172.16.0.2", TCP_80, false),
        ],
    );
}

#[test]
fn a_pod_to_itself_passes() {
    check("17", cluster(deny()), &[("a/web", "a/web", TCP_80, true), ("fd00::1", "a/web", ICMP, true)]);
}

#[test]
fn pods_on_the_hosts_network_are_their_node() {
    check(
        "20: never subjects, never selected",
        cluster(objects![policy("a", "p").ingress([rule([pods_of(&[], &[])], [])]).egress([])]),
        &[
            ("192.0.2.1", "a/proxy", TCP_80, true),
            ("a/far", "192.0.2.1", TCP_80, true),
            ("a/far", "a/web", TCP_80, false),
        ],
    );
    check(
        "20: a block names them",
        cluster(objects![policy("a", "p").ingress([rule([block("172.16.0.2/32", &[])], [])])]),
        &[("a/far", "a/web", TCP_80, true)],
    );
}

#[test]
fn finished_pods_own_no_address() {
    let allow_pods = objects![policy("a", "p").ingress([rule([pods_of(&[], &[])], [])])];
    check("21", cluster(allow_pods.clone()), &[("10.0.0.9", "a/web", TCP_80, false)]);
    let mut reused = cluster(allow_pods);
    reused.push(pod("a", "next", "10.0.0.9").on("node-b").into());
    check("21: reused", reused, &[("a/next", "a/web", TCP_80, true)]);
}

#[test]
fn a_pending_pod_is_a_subject_already() {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    let mut pending = pod("a", "new", "10.0.0.5");
    pending.addresses.clear();
    for object in objects![pending, policy("a", "deny").ingress([])] {
        engine.apply(object);
    }
    let subject = engine.tables().subjects[&NamespacedName::new("a", "new")].clone();
    assert!(subject.is_isolated() && subject.addresses.is_empty(), "22, 30: {subject:?}");
}

#[test]
fn an_address_that_two_pods_claim_has_what_holds_for_both() {
    let claim =
        |name: &str, labels: &[(&str, &str)]| pod("a", name, "10.0.0.5").on("node-b").labelled(labels);
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    for object in objects![
        pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]),
        claim("old", &[("app", "x"), ("tier", "one")]),
        claim("new", &[("app", "y"), ("tier", "one")]),
        policy("a", "p").selecting(&[("app", "web")]).ingress([
            rule([pods_of(&[], &[("app", "x")])], [crate::testkit::build::tcp(80)]),
            rule([pods_of(&[], &[("tier", "one")])], [crate::testkit::build::tcp(81)]),
        ]),
    ] {
        engine.apply(object);
    }
    let ports = |engine: &mut Engine| {
        let remote = "10.0.0.5".parse().expect("an address");
        engine
            .tables()
            .ports(&NamespacedName::new("a", "web"), crate::model::Direction::Ingress, remote)
            .to_string()
    };
    assert_eq!(ports(&mut engine), "TCP/81");
    engine.delete(&Object::from(claim("new", &[])).reference());
    assert_eq!(ports(&mut engine), "TCP/80-81");
}

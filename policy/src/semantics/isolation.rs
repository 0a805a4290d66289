//! Statements 1 to 7: who is isolated, and what rules add up to.

use super::{ICMP, TCP_80, check, objects, tcp as on_tcp, udp};
use crate::model::Object;
use crate::testkit::build::{block, namespace, pod, pods, policy, rule, tcp};

fn pair() -> Vec<Object> {
    objects![
        namespace("a", &[]),
        namespace("b", &[]),
        pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]),
        pod("a", "db", "10.0.0.2").labelled(&[("app", "db")]).on("node-b"),
        pod("b", "other", "10.0.0.3").on("node-b"),
    ]
}

fn with(policies: impl IntoIterator<Item = crate::model::NetworkPolicy>) -> Vec<Object> {
    pair().into_iter().chain(policies.into_iter().map(Object::from)).collect()
}

#[test]
fn isolation_is_per_direction() {
    check("1: no policy", pair(), &[("a/web", "a/db", TCP_80, true), ("b/other", "192.0.2.1", ICMP, true)]);
    check(
        "1: ingress alone",
        with([policy("a", "p").selecting(&[("app", "web")]).ingress([])]),
        &[
            ("a/db", "a/web", TCP_80, false),
            ("192.0.2.1", "a/web", ICMP, false),
            ("a/web", "a/db", TCP_80, true),
            ("a/web", "192.0.2.1", ICMP, true),
            ("a/db", "b/other", TCP_80, true),
        ],
    );
    check(
        "1: egress alone",
        with([policy("a", "p").selecting(&[("app", "web")]).egress([])]),
        &[
            ("a/db", "a/web", TCP_80, true),
            ("a/web", "a/db", TCP_80, false),
            ("a/web", "192.0.2.1", ICMP, false),
        ],
    );
}

#[test]
fn no_rules_allow_nothing_and_an_empty_rule_allows_everything() {
    let all = || rule([], []);
    check(
        "3: empty rule",
        with([policy("a", "p").ingress([all()]).egress([all()])]),
        &[
            ("a/db", "a/web", ICMP, true),
            ("192.0.2.1", "a/web", udp(53), true),
            ("a/web", "192.0.2.1", ICMP, true),
        ],
    );
    check(
        "3: no rules",
        with([policy("a", "p").ingress([]).egress([])]),
        &[("a/db", "a/web", ICMP, false), ("a/web", "b/other", TCP_80, false)],
    );
}

#[test]
fn an_empty_pod_selector_is_the_namespace() {
    check(
        "4",
        with([policy("a", "p").ingress([])]),
        &[
            ("a/db", "a/web", TCP_80, false),
            ("b/other", "a/db", TCP_80, false),
            ("a/web", "b/other", TCP_80, true),
        ],
    );
}

#[test]
fn rules_and_policies_add_up() {
    let web = || policy("a", "deny").ingress([]);
    check(
        "5",
        with([
            web(),
            policy("a", "one").ingress([rule([pods("a", &[("app", "db")])], [tcp(80)])]),
            policy("a", "two").ingress([
                rule([pods("a", &[("app", "db")])], [tcp(81)]),
                rule([block("192.0.2.0/24", &[])], []),
            ]),
        ]),
        &[
            ("a/db", "a/web", TCP_80, true),
            ("a/db", "a/web", on_tcp(81), true),
            ("a/db", "a/web", on_tcp(82), false),
            ("192.0.2.9", "a/web", ICMP, true),
            ("b/other", "a/web", TCP_80, false),
        ],
    );
    check(
        "6: except limits its own peer",
        with([policy("a", "p").ingress([
            rule([block("192.0.2.0/24", &["192.0.2.128/25"])], [tcp(80)]),
            rule([block("192.0.2.200/32", &[])], [tcp(81)]),
        ])]),
        &[
            ("192.0.2.1", "a/web", TCP_80, true),
            ("192.0.2.200", "a/web", TCP_80, false),
            ("192.0.2.200", "a/web", on_tcp(81), true),
            ("192.0.2.201", "a/web", on_tcp(81), false),
            ("192.0.3.1", "a/web", TCP_80, false),
        ],
    );
}

#[test]
fn both_ends_must_allow() {
    let from_web = || policy("a", "in").selecting(&[("app", "db")]).ingress([rule([pods("a", &[])], [])]);
    let to_db =
        || policy("a", "out").selecting(&[("app", "web")]).egress([rule([pods("a", &[])], [tcp(80)])]);
    check(
        "7",
        with([from_web(), to_db()]),
        &[("a/web", "a/db", TCP_80, true), ("a/web", "a/db", on_tcp(81), false)],
    );
    check(
        "7: destination says no",
        with([policy("a", "in").selecting(&[("app", "db")]).ingress([]), to_db()]),
        &[("a/web", "a/db", TCP_80, false)],
    );
}

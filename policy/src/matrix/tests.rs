//! Which cells there are, and their shape.
#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them when it updates")]

use super::*;
use crate::testkit::build::{block, node, pod, policy, rule};

fn external() -> External {
    External {
        name: "host".to_owned(),
        addresses: vec![[192, 0, 2, 1].into()],
        ports: vec![(443, Protocol::Tcp), (443, Protocol::Tcp)],
    }
}

fn picture() -> Vec<Object> {
    let web = pod("a", "web", "10.0.0.1").and_address("fd00::1").port("x", 80, Protocol::Tcp);
    let mut pending = pod("a", "pending", "");
    pending.addresses.clear();
    let deny = policy("a", "deny").ingress([rule([block("192.0.2.0/24", &[])], [])]);
    vec![
        node("node-a", &["172.16.0.1"]),
        Object::Pod(web.port("y", 80, Protocol::Tcp).port("", 53, Protocol::Udp)),
        Object::Pod(pod("a", "done", "10.0.0.3").port("", 80, Protocol::Tcp).finished()),
        Object::Pod(pending.port("", 80, Protocol::Tcp)),
        Object::Pod(pod("a", "host", "172.16.0.1").on_host_network()),
        Object::Pod(pod("a", "remote", "172.16.0.2").on_host_network().on("node-b")),
        Object::NetworkPolicy(deny),
    ]
}

#[test]
fn cells() {
    let cells = matrix(&picture(), &[external()]);
    let text: Vec<_> = cells
        .iter()
        .map(|cell| {
            let Cell { from, to, port, protocol, ip_family, allowed } = cell;
            format!("{from} {to} {protocol}/{port} {ip_family:?} {allowed}")
        })
        .collect();
    expect_test::expect![[r#"
        a/host a/web UDP/53 V4 allowed
        a/host a/web TCP/80 V4 allowed
        a/host external/host TCP/443 V4 allowed
        a/remote a/web UDP/53 V4 denied
        a/remote a/web TCP/80 V4 denied
        a/remote external/host TCP/443 V4 allowed
        a/web a/web UDP/53 V4 allowed
        a/web a/web UDP/53 V6 allowed
        a/web a/web TCP/80 V4 allowed
        a/web a/web TCP/80 V6 allowed
        a/web external/host TCP/443 V4 allowed
        external/host a/web UDP/53 V4 allowed
        external/host a/web TCP/80 V4 allowed
        external/host external/host TCP/443 V4 allowed"#]]
    .assert_eq(&text.join("\n"));
}

#[test]
fn shape() {
    let cells = matrix(&picture(), &[]);
    let json = serde_json::to_string(&cells[0]).expect("plain values");
    assert_eq!(
        json,
        r#"{"from":"a/host","to":"a/web","port":53,"protocol":"UDP","ip_family":"IPv4","allowed":true}"#
    );
    assert_eq!(serde_json::from_str::<Cell>(&json).expect("its own shape"), cells[0]);
}

#[test]
fn a_mixed_answer_is_a_word() {
    for (reach, json) in [(Reach::Allowed, "true"), (Reach::Denied, "false"), (Reach::Mixed, "\"mixed\"")] {
        assert_eq!(serde_json::to_string(&reach).expect("a plain value"), json);
        assert_eq!(serde_json::from_str::<Reach>(json).expect("its own shape"), reach);
    }
    assert!(serde_json::from_str::<Reach>("\"both\"").is_err());
}

#[test]
fn connections_come_to_one_answer() {
    assert_eq!(Reach::of([]), Reach::Denied);
    assert_eq!(Reach::of([true, true]), Reach::Allowed);
    assert_eq!(Reach::of([false, false]), Reach::Denied);
    assert_eq!(Reach::of([true, false, true]), Reach::Mixed);
}

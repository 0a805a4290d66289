//! Pings: what has no ports is allowed by rules without ports.

use serde_json::{Value, json};

use crate::inside::{ping, ping_as, pod};
use crate::manifests::{Cluster, PodSpec, deny_all, small};
use crate::support::{run, up};

const EVERY_PORT: &str = r#"[{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]"#;

fn to_db(rules: &Value) -> Cluster {
    small().policy(
        "shop",
        "db",
        &json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": rules }),
    )
}

#[test]
fn a_ping_takes_a_rule_without_ports() {
    run(async {
        let every_port: Value = serde_json::from_str(EVERY_PORT).unwrap();
        let from = |app: &str| json!([{ "podSelector": { "matchLabels": { "app": app } } }]);
        let files = to_db(&json!([{ "from": from("web"), "ports": every_port }, { "from": from("api") }])).0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let db = "10.1.2.2".parse().unwrap();
        assert!(!ping(pod(&lab, "shop/web"), db), "every port of every protocol is not everything");
        assert!(ping(pod(&lab, "shop/api"), db), "no ports is everything");
        assert!(!ping(pod(&lab, "other/client"), db), "no rule");
        // db's own pings leave, and their replies come back: only its ingress is isolated.
        assert!(ping(pod(&lab, "shop/db"), "10.1.1.2".parse().unwrap()));
    });
}

#[test]
fn a_request_is_no_answer_whatever_its_identifier() {
    run(async {
        let files = to_db(&json!([{}])).policy("shop", "mute", &mute()).0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        assert!(ping_as(pod(&lab, "shop/api"), "10.1.2.2".parse().unwrap(), 77));
        assert!(!ping_as(pod(&lab, "shop/db"), "10.1.1.3".parse().unwrap(), 77), "db may ping nobody");
    });
}

fn mute() -> Value {
    json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"] })
}

#[test]
fn pings_are_judged_over_ipv6_and_on_the_way_out_too() {
    run(async {
        let pod_spec = |name, node, ips, labels| PodSpec {
            name,
            namespace: "shop",
            node,
            ips,
            labels,
            ports: &[(80, "TCP")],
        };
        let to_c = json!({
            "podSelector": { "matchLabels": { "app": "a" } }, "policyTypes": ["Egress"],
            "egress": [
                { "to": [{ "podSelector": { "matchLabels": { "app": "b" } } }], "ports": [{ "port": 80 }] },
                { "to": [{ "podSelector": { "matchLabels": { "app": "c" } } }] }
            ]
        });
        let files = Cluster::default()
            .pod(&pod_spec("a", "node-a", &["fd00:1::2"], &[("app", "a")]))
            .pod(&pod_spec("b", "node-a", &["fd00:1::3"], &[("app", "b")]))
            .pod(&pod_spec("c", "node-b", &["fd00:2::2"], &[("app", "c")]))
            .policy("shop", "deny", &deny_all())
            .policy("shop", "a", &to_c)
            .policy("shop", "anyone", &json!({ "podSelector": {}, "ingress": [{}] }))
            .0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let a = pod(&lab, "shop/a");
        assert!(!ping(a, "fd00:1::3".parse().unwrap()), "b: a port alone");
        assert!(ping(a, "fd00:2::2".parse().unwrap()), "c: everything");
        assert!(!ping(pod(&lab, "shop/c"), "fd00:1::2".parse().unwrap()), "c itself is let out to nobody");
    });
}

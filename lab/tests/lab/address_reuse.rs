//! A pod goes, its address comes back with another pod: on the same node or the other one, with other rights.

use postern_lab::matrix::Reach;
use postern_policy::model::Protocol;
use serde_json::json;

use crate::manifests::{PodSpec, small};
use crate::support::{check, key, run, up};

#[test]
fn a_reused_address_has_the_new_pods_rights() {
    run(async {
        let policy = json!({
            "podSelector": { "matchLabels": { "app": "db" } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "api" } } }] }]
        });
        let base = small().policy("shop", "db", &policy);
        let pod = |name, node, ips, labels| PodSpec {
            name,
            namespace: "shop",
            node,
            ips,
            labels,
            ports: &[(80, "TCP"), (53, "UDP")],
        };
        let without_api = base.clone().without("pod-shop-api");
        // The address of api, which db lets in.
        let stranger =
            without_api.clone().pod(&pod("stranger", "node-a", &["10.1.1.3"], &[("app", "stranger")]));
        let moved = without_api.clone().pod(&pod("api-2", "node-b", &["10.1.1.3"], &[("app", "api")]));
        // The address of db, which is isolated.
        let free = base.clone().without("pod-shop-db").pod(&pod(
            "free",
            "node-b",
            &["10.1.2.2"],
            &[("app", "free")],
        ));
        let mut lab = up(&[&base.0, &stranger.0, &moved.0, &free.0]).await;

        let to_db = |from| key(from, "shop/db", 80, Protocol::Tcp);
        let (_, observed) = check(&mut lab, &base.0, "api has the address").await;
        assert_eq!(observed[&to_db("shop/api")], Reach::Allowed);
        check(&mut lab, &without_api.0, "api is gone").await;
        let (_, observed) = check(&mut lab, &stranger.0, "a stranger has the address").await;
        assert_eq!(observed[&to_db("shop/stranger")], Reach::Denied);
        let (_, observed) = check(&mut lab, &moved.0, "another api has it, on the other node").await;
        assert_eq!(observed[&to_db("shop/api-2")], Reach::Allowed);
        check(&mut lab, &base.0, "api is back").await;
        let (_, observed) = check(&mut lab, &free.0, "a free pod has the address of db").await;
        assert!(observed.values().all(|reach| *reach == Reach::Allowed));
        check(&mut lab, &base.0, "db is back").await;
    });
}

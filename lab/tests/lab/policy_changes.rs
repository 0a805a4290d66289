//! Edits of policies and labels, and edits that cannot be read, while agents run.

use postern_lab::matrix::Reach;
use postern_policy::model::Protocol;
use serde_json::json;

use crate::manifests::{PodSpec, among, deny_all, small};
use crate::support::{assert_same, check, engine, key, run, up};

#[test]
fn a_deleted_policy_stops_to_count() {
    run(async {
        let denied = small().policy("shop", "deny", &deny_all());
        let both = denied.clone().policy("shop", "among", &among("app", "web"));
        let mut lab = up(&[&both.0]).await;
        check(&mut lab, &both.0, "two policies").await;
        check(&mut lab, &denied.0, "one deleted").await;
        let (_, observed) = check(&mut lab, &small().0, "both deleted").await;
        assert!(observed.values().all(|reach| *reach == Reach::Allowed));
    });
}

#[test]
fn labels_of_pods_and_namespaces_take_effect() {
    run(async {
        let policy = json!({
            "podSelector": { "matchLabels": { "app": "db" } },
            "ingress": [
                { "from": [{ "podSelector": { "matchLabels": { "app": "api" } } }] },
                { "from": [{ "namespaceSelector": { "matchLabels": { "trusted": "yes" } } }] }
            ]
        });
        let cell = |from| key(from, "shop/db", 80, Protocol::Tcp);
        let base = small().policy("shop", "db", &policy);
        let mut lab = up(&[&base.0]).await;
        let (_, observed) = check(&mut lab, &base.0, "at first").await;
        assert_eq!(
            (observed[&cell("shop/web")], observed[&cell("other/client")]),
            (Reach::Denied, Reach::Denied)
        );

        let web = |app| PodSpec {
            name: "web",
            namespace: "shop",
            node: "node-a",
            ips: &["10.1.1.2"],
            labels: app,
            ports: &[(80, "TCP"), (53, "UDP")],
        };
        let pod_relabelled = base.clone().pod(&web(&[("app", "api")]));
        let (_, observed) = check(&mut lab, &pod_relabelled.0, "web is labelled as api").await;
        assert_eq!(observed[&cell("shop/web")], Reach::Allowed);

        let trusted = pod_relabelled.clone().namespace("other", &[("trusted", "yes")]);
        let (_, observed) = check(&mut lab, &trusted.0, "the other namespace is trusted").await;
        assert_eq!(observed[&cell("other/client")], Reach::Allowed);

        // The subject's own label: db is no longer selected.
        let db =
            PodSpec { name: "db", node: "node-b", ips: &["10.1.2.2"], labels: &[("app", "old")], ..web(&[]) };
        let (_, observed) = check(&mut lab, &trusted.clone().pod(&db).0, "db is relabelled").await;
        assert!(observed.values().all(|reach| *reach == Reach::Allowed));
        check(&mut lab, &base.0, "all labels back").await;
    });
}

#[test]
fn broken_yaml_keeps_everything_enforced() {
    run(async {
        let good = small().policy("shop", "deny", &deny_all()).policy("shop", "among", &among("app", "web"));
        let mut lab = up(&[&good.0]).await;
        let (_, before) = check(&mut lab, &good.0, "before").await;

        let mut broken = good.clone();
        broken.0.insert("policy-shop-deny.json".to_owned(), b"{ \"kind\": NetworkPolicy: [".to_vec());
        broken.0.insert("zz-garbage.yaml".to_owned(), b"\tnot: yaml: at all\n".to_vec());
        lab.write(&broken.0).unwrap();
        lab.enforced().await.unwrap();
        let observed = lab.observe().await.unwrap().matrix;
        assert_same(&before, &observed, "a broken file keeps its last good version");
        let errors: Vec<String> =
            lab.agents_mut().iter().flat_map(|agent| agent.status().unwrap().errors).collect();
        for file in ["policy-shop-deny.json", "zz-garbage.yaml"] {
            assert!(errors.iter().any(|error| error.contains(file)), "{file} is not named in {errors:?}");
        }

        // Other files still take effect while that one is broken.
        let mut edited = broken.clone();
        edited.0.remove("policy-shop-among.json");
        lab.write(&edited.0).unwrap();
        lab.enforced().await.unwrap();
        let observed = lab.observe().await.unwrap().matrix;
        let expected = engine(&small().policy("shop", "deny", &deny_all()).0);
        assert_same(&expected, &observed, "an edit beside the broken file");

        check(&mut lab, &good.0, "mended").await;
    });
}

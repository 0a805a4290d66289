//! Policies that were never readable: what they still tell isolates, and deleting them is honoured.

use postern_lab::lab::Lab;
use postern_lab::matrix::{Matrix, Reach};
use postern_lab::working_copy::Files;

use crate::manifests::{Cluster, small};
use crate::support::{run, up};

fn broken(spec: &str) -> Cluster {
    let mut cluster = small();
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: broken, namespace: shop }}\n{spec}\n"
    );
    cluster.0.insert("broken.yaml".to_owned(), policy.into_bytes());
    cluster
}

/// What is seen under manifests that are wrong: the lab would refuse to apply them.
async fn observe(lab: &mut Lab, files: &Files) -> Matrix {
    lab.write(files).unwrap();
    lab.enforced().await.unwrap();
    lab.observe().await.unwrap().matrix
}

/// Cells between two different parties that are denied must be exactly those of these pods.
fn assert_isolated(observed: &Matrix, isolated: &[&str], when: &str) {
    for (key, allowed) in observed {
        let touched = [&key.from, &key.to].into_iter().any(|end| isolated.contains(&&**end));
        assert_eq!(*allowed, Reach::from(key.from == key.to || !touched), "{when}: {key}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_isolates_what_it_selects() {
    run(async {
        let mut lab = up(&[&small().0]).await;
        lab.apply(&small().0).await.unwrap();
        let unknown_field = "spec: { podSelector: { matchLabels: { app: db } }, ingress: [{ form: [] }] }";
        let no_selector = "spec: { podSelector: { matchLabel: { app: db } }, ingress: [{}] }";
        let shop = ["shop/web", "shop/api", "shop/db"];
        for (spec, isolated) in [(unknown_field, &shop[2..]), (no_selector, &shop[..])] {
            let observed = observe(&mut lab, &broken(spec).0).await;
            assert_isolated(&observed, isolated, spec);
            let observed = observe(&mut lab, &small().0).await;
            assert_isolated(&observed, &[], "deleted");
        }
    });
}

#[test]
fn a_part_that_cannot_be_meant_matches_nothing_and_opens_nothing() {
    run(async {
        let mut lab = up(&[&small().0]).await;
        lab.apply(&small().0).await.unwrap();
        let parts = [
            "from: [{ ipBlock: { cidr: 10.1.1.0/33 } }]",
            "from: [{ ipBlock: { cidr: 10.1.1.0/24, except: [10.1.2.0/24] } }]",
            "ports: [{ port: 100, endPort: 80 }]",
            "from: [{ podSelector: { matchExpressions: [{ key: app, operator: Like, values: [web] }] } }]",
        ];
        for part in parts {
            let spec = format!(
                "spec: {{ podSelector: {{ matchLabels: {{ app: db }} }}, policyTypes: [Ingress, Egress], ingress: [{{ {part} }}] }}"
            );
            let observed = observe(&mut lab, &broken(&spec).0).await;
            assert_isolated(&observed, &["shop/db"], part);
        }
    });
}

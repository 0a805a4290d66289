//! Policies that were never readable: what they still tell isolates, and deleting them is honoured.

use std::time::Duration;

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

/// A policy of db's in block style, and what it becomes by a slip of the hand.
const DB: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: db
  policyTypes: [Ingress, Egress]
  ingress:
  - {}
";

#[test]
fn a_document_that_cannot_be_read_isolates_and_keeps_from_ready() {
    run(async {
        let mut lab = up(&[&small().0]).await;
        lab.apply(&small().0).await.unwrap();
        let shop = ["shop/web", "shop/api", "shop/db"];
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", DB.trim().replace('\n', "\n  "));
        let cases: &[(&str, String, &[&str])] = &[
            ("deny.yaml", DB.replace("  name: db", "  generateName: db-"), &shop[2..]),
            ("deny.yaml", DB.replace("  - {}", "\t- {}"), &shop[2..]),
            ("deny.yaml", DB.replace("      app", "\tapp"), &shop),
            ("deny.yaml", DB.replace("NetworkPolicy", "NetworkPolicies"), &shop[2..]),
            ("deny.yaml", format!("{DB}  ingress: []\n"), &shop[2..]),
            ("sub/folder/deny.YAML", list.replace("name: db", "generateName: db"), &shop[2..]),
        ];
        for (file, text, isolated) in cases {
            let mut files = small().0;
            files.insert((*file).to_owned(), text.clone().into_bytes());
            let observed = observe(&mut lab, &files).await;
            assert_isolated(&observed, isolated, text);
            for agent in lab.agents_mut() {
                let status = agent.status().unwrap();
                assert!(!status.ready && status.settled, "{status:?}");
                assert!(
                    status.errors.iter().any(|error| error.contains(&format!("{file}, document 1"))),
                    "{status:?}"
                );
            }
            // Its removal is honoured, and all is well again.
            lab.apply(&small().0).await.unwrap();
            assert!(lab.agents_mut().iter().all(|agent| agent.status().unwrap().ready));
        }
        // Nobody can tell what this was to be.
        let mut files = small().0;
        files.insert("what.yaml".to_owned(), b"kind: [unclosed".to_vec());
        let observed = observe(&mut lab, &files).await;
        assert_isolated(&observed, &[], "nothing to go by");
        assert!(lab.agents_mut().iter().all(|agent| !agent.status().unwrap().ready));
    });
}

#[test]
fn new_subfolders_are_noticed_at_once() {
    run(async {
        let mut lab = up(&[&small().0]).await;
        lab.apply(&small().0).await.unwrap();
        let policy = DB.replace("  ingress:\n  - {}\n", "");
        for turn in 0..20 {
            let mut files = small().0;
            files.insert(format!("sub-{turn}/deep/er/deny.yml"), policy.clone().into_bytes());
            let applied = lab.apply(&files).await.unwrap();
            assert!(
                applied.waited < Duration::from_secs(10),
                "{:?}: by the periodic look alone",
                applied.waited
            );
        }
        let observed = lab.observe().await.unwrap().matrix;
        assert_isolated(&observed, &["shop/db"], "in a subfolder");
    });
}

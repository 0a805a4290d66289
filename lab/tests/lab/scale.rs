//! Sixty pods with four ports each: up, probed from everywhere to everywhere, and down, in under two minutes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::manifests::{Cluster, PodSpec};
use crate::support::{check, run_alone, up};

fn sixty_pods() -> Cluster {
    let mut cluster = Cluster::default().lab("nodes: [node-a, node-b]\n").namespace("load", &[]);
    for number in 0..60 {
        let node = if number % 2 == 0 { "a" } else { "b" };
        cluster = cluster.pod(&PodSpec {
            name: &format!("p{number}"),
            namespace: "load",
            node: &format!("node-{node}"),
            ips: &[&format!("10.9.{}.{}", number % 2, number + 10)],
            labels: &[("group", &format!("g{}", number % 7))],
            ports: &[(80, "TCP"), (443, "TCP"), (8080, "TCP"), (53, "UDP")],
        });
    }
    cluster
}

#[test]
fn sixty_pods_are_probed_in_under_two_minutes() {
    run_alone(async {
        let policy = json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "group": "g1" } } }], "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }],
            "egress": [{ "to": [{ "podSelector": { "matchExpressions": [{ "key": "group", "operator": "In", "values": ["g2", "g3"] }] } }] }]
        });
        let files = sixty_pods().policy("load", "some", &policy).0;
        let begin = Instant::now();
        let mut lab = up(&[&files]).await;
        let (_, observed) = check(&mut lab, &files, "60 pods").await;
        drop(lab);
        let took = begin.elapsed();
        assert_eq!(observed.len(), 60 * 60 * 4);
        println!("60 pods, {} cells: {took:.1?}", observed.len());
        assert!(took < Duration::from_mins(2), "took {took:?}");
    });
}

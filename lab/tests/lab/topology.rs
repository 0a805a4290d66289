//! The wires alone, without agents: everything reaches everything, and the lab tells its own mistakes from policy.

use postern_lab::matrix::{Matrix, Reach};
use serde_json::json;

use crate::manifests::{Cluster, PodSpec, deny_all, small};
use crate::support::{check, run, up, up_without_agents};

const STYLES: [&str; 4] = [
    "nodes: [{name: node-a, style: bridge}, {name: node-b, style: bridge}]\n",
    "nodes: [{name: node-a, style: ptp}, {name: node-b, style: ptp}]\n",
    "nodes: [{name: node-a, style: bridge}, {name: node-b, style: ptp}]\n",
    "nodes: [{name: node-a, style: ptp}, {name: node-b, style: bridge}]\n",
];

fn denied(matrix: &Matrix) -> Vec<String> {
    matrix.iter().filter(|(_, reach)| **reach != Reach::Allowed).map(|(key, _)| key.to_string()).collect()
}

/// Dual-stack pods whose addresses say nothing about their nodes.
fn scattered(lab: &str) -> Cluster {
    let pod = |name, node, ips| PodSpec {
        name,
        namespace: "default",
        node,
        ips,
        labels: &[("app", "x")],
        ports: &[(80, "TCP"), (53, "UDP"), (3868, "SCTP")],
    };
    let externals = "externals: [{name: out, ips: [192.0.2.1, 2001:db8::1], ports: [{port: 443}]}]\n";
    Cluster::default()
        .lab(&format!("{lab}{externals}"))
        .namespace("default", &[])
        .pod(&pod("a", "node-a", &["10.0.0.1", "fd00::1"]))
        .pod(&pod("b", "node-b", &["10.0.0.2", "fd00::2"]))
        .pod(&pod("c", "node-a", &["172.16.5.4", "fd00:5::4"]))
        .pod(&pod("d", "node-a", &["10.0.0.3"]))
        .pod(&pod("e", "node-b", &["fd00::3"]))
}

#[test]
fn without_policy_everything_is_reached_in_every_style() {
    run(async {
        for style in STYLES {
            let files = scattered(style).0;
            let mut lab = up_without_agents(&[&files]).await;
            lab.apply(&files).await.unwrap();
            let observation = lab.observe().await.unwrap();
            assert_eq!(denied(&observation.matrix), [""; 0], "{style}");
            // 5 parties with IPv4 and 5 with IPv6; of those, 4 pods with 3 ports each and one external with 1.
            assert_eq!(observation.matrix.len(), 5 * (4 * 3 + 1) * 2, "{style}");
            assert!(observation.refused.is_empty(), "everybody listens");
        }
    });
}

#[test]
fn nobody_listening_is_told_apart_from_dropped() {
    run(async {
        let files = small().0;
        let mut lab = up_without_agents(&[&files]).await;
        lab.apply(&files).await.unwrap();
        lab.stop_listening().await.unwrap();
        let observation = lab.observe().await.unwrap();
        assert_eq!(denied(&observation.matrix), [""; 0]);
        assert_eq!(observation.refused.len(), observation.matrix.len());
    });
}

#[test]
fn policy_is_enforced_in_every_style() {
    run(async {
        let outside = "externals: [{name: out, ips: [192.0.2.1], ports: [{port: 443}]}]\n";
        for style in STYLES {
            let web = json!({
                "podSelector": { "matchLabels": { "app": "web" } },
                "ingress": [
                    { "from": [{ "podSelector": { "matchLabels": { "app": "api" } } }], "ports": [{ "port": 80 }] },
                    { "from": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }], "ports": [{ "port": 53, "protocol": "UDP" }] }
                ]
            });
            let cluster = small().lab(&format!("{style}{outside}"));
            let files = cluster.policy("other", "deny", &deny_all()).policy("shop", "web", &web).0;
            let mut lab = up(&[&files]).await;
            check(&mut lab, &files, style).await;
        }
    });
}

#[test]
fn a_completed_pod_gets_no_namespace_and_a_host_pod_its_nodes() {
    run(async {
        let mut cluster = small();
        cluster.put(
            "pod-shop-job",
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "job", "namespace": "shop" },
                "spec": { "nodeName": "node-a", "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }] }] },
                "status": { "phase": "Succeeded", "podIPs": [{ "ip": "10.1.1.2" }] }
            }),
        );
        cluster.put(
            "pod-shop-agent",
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "agent", "namespace": "shop" },
                "spec": { "nodeName": "node-b", "hostNetwork": true, "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 9100 }] }] },
                "status": { "phase": "Running", "podIPs": [{ "ip": "172.20.0.2" }] }
            }),
        );
        let mut lab = up_without_agents(&[&cluster.0]).await;
        lab.apply(&cluster.0).await.unwrap();
        assert!(lab.topology().pods().all(|pod| &*pod.name != "job"));
        let addresses: Vec<String> =
            lab.topology().node_addresses("node-b").iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["172.20.0.2"]);
        let observation = lab.observe().await.unwrap();
        assert_eq!(denied(&observation.matrix), [""; 0]);
        assert!(observation.matrix.keys().any(|key| key.to == "shop/agent" && key.port == 9100));
    });
}

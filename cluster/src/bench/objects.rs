//! The objects of a large cluster.

use std::net::Ipv4Addr;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Api, Client};
use postern_lab::working_copy::Files;
use serde_json::{Value, json};

use super::{Options, services};

/// The namespace of the two pods whose packets are watched.
pub(super) const WATCHED: &str = "watched";
/// The agent's node.
const NODE: &str = "node-a";
/// Pods of the agent's node beside those two.
const NEIGHBOURS: usize = 28;
/// Namespaces of all others.
pub(super) const NAMESPACES: usize = 100;
/// Apps of each namespace: what policies select.
pub(super) const APPS: usize = 10;
/// Pods of each other node.
pub(super) const PODS_PER_NODE: usize = 100;

/// What lives on the agent's node, with wires of its own.
pub(super) fn local() -> Files {
    let mut files = Files::new();
    let mut put =
        |name: &str, object: &Value| files.insert(format!("{name}.json"), object.to_string().into_bytes());
    for namespace in 0..NAMESPACES {
        put(&format!("Namespace-{namespace}"), &self::namespace(namespace));
    }
    put(
        "Namespace-watched",
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": WATCHED } }),
    );
    for (index, name) in ["client", "server"].into_iter().enumerate() {
        put(&format!("Pod-{name}"), &pod(WATCHED, name, name, NODE, &format!("10.20.0.{}", 10 + index)));
    }
    let deny = json!({ "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"] });
    put("NetworkPolicy-deny", &policy(WATCHED, "deny", &deny));
    for index in 0..NEIGHBOURS {
        let (namespace, app) = (format!("scale-{index}"), format!("app-{}", index % APPS));
        let address = format!("10.20.0.{}", 20 + index);
        put(&format!("Pod-{index}"), &pod(&namespace, &format!("local-{index}"), &app, NODE, &address));
    }
    files
}

/// Everything else: in the API server alone.
pub(super) fn elsewhere(options: Options) -> Files {
    let mut files = Files::new();
    let mut put = |name: String, object: &Value| files.insert(name, object.to_string().into_bytes());
    for index in 0..options.pods.div_ceil(PODS_PER_NODE) {
        let node =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node-{index}") } });
        put(format!("remote-node-{index}.json"), &node);
    }
    for index in 0..options.pods {
        put(format!("remote-pod-{index}.json"), &remote(index));
    }
    for index in 0..options.policies {
        put(format!("policy-{index}.json"), &rules(index));
    }
    for index in 0..options.services {
        put(format!("service-{index}.json"), &services::service(index));
        put(format!("slice-{index}.json"), &services::slice(index, options.pods));
    }
    files
}

fn namespace(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": format!("scale-{index}"), "labels": { "team": format!("team-{}", index % 10) } }
    })
}

/// The address of a pod of another node.
pub(super) fn remote_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a40_0000 + u32::try_from(index).unwrap_or_default())
}

/// A pod of another node.
fn remote(index: usize) -> Value {
    let (namespace, number) = (format!("scale-{}", index % NAMESPACES), index / NAMESPACES);
    let (app, node) = (format!("app-{}", number % APPS), format!("node-{}", index / PODS_PER_NODE));
    pod(&namespace, &format!("{app}-{number}"), &app, &node, &remote_address(index).to_string())
}

fn pod(namespace: &str, name: &str, app: &str, node: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name,
            "labels": { "app": app, "pod-template-hash": format!("{app}-5c7d") } },
        "spec": { "nodeName": node, "containers": [
            { "name": "main", "image": "registry.example/main:1", "ports": [{ "containerPort": 80, "name": "http" }] }] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] }
    })
}

/// Who may reach one app of one namespace: the next app there, and one of some teams.
fn rules(index: usize) -> Value {
    let (namespace, app) = (format!("scale-{}", index % NAMESPACES), index / NAMESPACES % APPS);
    let spec = json!({
        "podSelector": { "matchLabels": { "app": format!("app-{app}") } },
        "ingress": [
            { "from": [{ "podSelector": { "matchLabels": { "app": format!("app-{}", (app + 1) % APPS) } } }],
              "ports": [{ "port": "http" }] },
            { "from": [{ "namespaceSelector": { "matchLabels": { "team": format!("team-{}", index % 7) } },
                         "podSelector": { "matchLabels": { "app": format!("app-{}", (app + 2) % APPS) } } }] },
            { "from": [{ "ipBlock": { "cidr": format!("192.0.{}.0/24", index % 256), "except": [format!("192.0.{}.0/28", index % 256)] } }],
              "ports": [{ "port": 8000, "endPort": 8100 }] }
        ]
    });
    policy(&namespace, &format!("policy-{index}"), &spec)
}

pub(super) fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec })
}

/// The namespace's policies, for creating and deleting one.
pub(super) fn policies(client: &Client) -> Api<NetworkPolicy> {
    Api::namespaced(client.clone(), WATCHED)
}

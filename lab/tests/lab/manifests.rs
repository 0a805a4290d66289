//! Builders of manifests: each object is a file of its own.

use postern_lab::working_copy::Files;
use serde_json::{Value, json};

/// A folder of manifests under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster(pub(crate) Files);

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) node: &'a str,
    pub(crate) ips: &'a [&'a str],
    pub(crate) labels: &'a [(&'a str, &'a str)],
    pub(crate) ports: &'a [(u16, &'a str)],
}

impl Cluster {
    pub(crate) fn lab(mut self, text: &str) -> Self {
        self.0.insert("lab.yaml".to_owned(), text.as_bytes().to_vec());
        self
    }

    pub(crate) fn namespace(mut self, name: &str, labels: &[(&str, &str)]) -> Self {
        self.put(
            &format!("namespace-{name}"),
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": map(labels) } }),
        );
        self
    }

    pub(crate) fn pod(mut self, pod: &PodSpec<'_>) -> Self {
        self.put(&format!("pod-{}-{}", pod.namespace, pod.name), &pod.object());
        self
    }

    /// A policy, from the YAML of its spec.
    pub(crate) fn policy(mut self, namespace: &str, name: &str, spec: &Value) -> Self {
        self.put(
            &format!("policy-{namespace}-{name}"),
            &json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": name, "namespace": namespace }, "spec": spec
            }),
        );
        self
    }

    pub(crate) fn without(mut self, file: &str) -> Self {
        assert!(self.0.remove(&format!("{file}.json")).is_some(), "there is no {file}");
        self
    }

    pub(crate) fn put(&mut self, file: &str, object: &Value) {
        self.0.insert(format!("{file}.json"), object.to_string().into_bytes());
    }
}

impl PodSpec<'_> {
    fn object(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, protocol)| json!({ "containerPort": port, "protocol": protocol }))
            .collect();
        let ips: Vec<Value> = self.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": self.name, "namespace": self.namespace, "labels": map(self.labels) },
            "spec": { "nodeName": self.node, "containers": [{ "name": "c", "image": "i", "ports": ports }] },
            "status": { "phase": "Running", "podIPs": ips }
        })
    }
}

fn map(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Nothing in, nothing out, for every pod of the namespace.
pub(crate) fn deny_all() -> Value {
    json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })
}

/// Ingress and egress between pods of the namespace that have this label.
pub(crate) fn among(key: &str, value: &str) -> Value {
    let peers = json!([{ "podSelector": { "matchLabels": { key: value } } }]);
    json!({
        "podSelector": { "matchLabels": { key: value } }, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": peers }], "egress": [{ "to": peers }]
    })
}

/// A small cluster: web and api on one node, db on the other, a client in another namespace, a host outside.
pub(crate) fn small() -> Cluster {
    let pod = |name, namespace, node, ips, labels| PodSpec {
        name,
        namespace,
        node,
        ips,
        labels,
        ports: &[(80, "TCP"), (53, "UDP")],
    };
    Cluster::default()
        .lab("nodes: [node-a, node-b]\nexternals: [{name: outside, ips: [203.0.113.9], ports: [{port: 443}]}]\n")
        .namespace("shop", &[("tier", "shop")])
        .namespace("other", &[("tier", "other")])
        .pod(&pod("web", "shop", "node-a", &["10.1.1.2"], &[("app", "web")]))
        .pod(&pod("api", "shop", "node-a", &["10.1.1.3"], &[("app", "api")]))
        .pod(&pod("db", "shop", "node-b", &["10.1.2.2"], &[("app", "db")]))
        .pod(&pod("client", "other", "node-b", &["10.1.2.3"], &[("app", "client")]))
}

//! The small worlds of these tests.

use postern_lab::working_copy::Files;
use serde_json::{Value, json};

/// Two pods of one node that may talk, until a policy says otherwise: `shop/web` and `shop/db`, and `other/client`.
pub(crate) fn small() -> Files {
    let mut files = Files::new();
    for namespace in ["shop", "other"] {
        put(
            &mut files,
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        );
    }
    for (namespace, name, address) in
        [("shop", "web", "10.20.0.11"), ("shop", "db", "10.20.0.12"), ("other", "client", "10.20.0.13")]
    {
        put(&mut files, &pod(namespace, name, address));
    }
    files
}

pub(crate) fn pod(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": name } },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }] }] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] }
    })
}

/// A policy that isolates all pods of a namespace.
pub(crate) fn deny(namespace: &str) -> Value {
    policy(namespace, "deny", &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))
}

/// A policy that lets everybody reach port 80 of one app.
pub(crate) fn admit(namespace: &str, app: &str) -> Value {
    let spec = json!({ "podSelector": { "matchLabels": { "app": app } }, "ingress": [{ "ports": [{ "port": 80 }] }] });
    policy(namespace, &format!("admit-{app}"), &spec)
}

pub(crate) fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec
    })
}

/// Adds an object, as a file of its own.
pub(crate) fn put(files: &mut Files, object: &Value) {
    let text = |path| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let file = format!("{}-{}-{}.json", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    files.insert(file, object.to_string().into_bytes());
}

/// These files with one object more.
pub(crate) fn with(files: &Files, object: &Value) -> Files {
    let mut files = files.clone();
    put(&mut files, object);
    files
}

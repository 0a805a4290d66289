//! What the worlds of several tests begin with.

/// Manifests of the pod `shop/web`, 10.0.0.1 and `fd00::1` on `node-a`, and of its policy, of which the spec is each test's, with whatever
/// comes behind.
macro_rules! web {
    ($rest:literal) => {
        concat!(
            r#"
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}"#,
            $rest
        )
    };
}

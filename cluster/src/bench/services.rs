//! Services with hand-written endpoint slices: no controller runs that would write them.

use serde_json::{Value, json};

use super::objects::{APPS, NAMESPACES, PODS_PER_NODE, remote_address};

/// Endpoints of each Service.
pub(super) const ENDPOINTS: usize = 5;
/// Of so many slices, one loses all its endpoints when it is [`State::Less`]; the others have one that is not ready.
const EMPTIED: usize = 10;

/// How a slice is: churn goes from one to the other and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All endpoints, all of them ready.
    Full,
    /// One endpoint is not ready, or there is none.
    Less,
}

/// The namespace of a Service and of its slice.
pub(super) fn namespace(index: usize) -> String {
    format!("scale-{}", index % NAMESPACES)
}

/// A Service's name.
pub(super) fn name(index: usize) -> String {
    format!("service-{index}")
}

/// The name of its slice.
pub(super) fn slice_name(index: usize) -> String {
    format!("service-{index}-5c7d")
}

/// Whether the Service has no backend at all while its slice is [`State::Less`].
pub(super) fn is_emptied(index: usize) -> bool {
    index.is_multiple_of(EMPTIED)
}

/// A Service of one app of its namespace. The API server chooses its address.
pub(super) fn service(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": namespace(index), "name": name(index) },
        "spec": { "selector": { "app": format!("app-{}", app(index)) },
            "ports": [{ "port": 80, "targetPort": "http" }] }
    })
}

/// The slice that lists its backends.
pub(super) fn slice(index: usize, pods: usize) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": namespace(index), "name": slice_name(index),
            "labels": { "kubernetes.io/service-name": name(index) } },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        "endpoints": endpoints(index, pods, State::Full)
    })
}

/// What the slice lists.
pub(super) fn endpoints(index: usize, pods: usize, state: State) -> Vec<Value> {
    if state == State::Less && is_emptied(index) {
        return Vec::new();
    }
    let endpoint = |number: usize| {
        // The Service's own pods, where the cluster is large enough to have them; see `objects::remote`.
        let pod = (index % NAMESPACES
            + NAMESPACES * (app(index) + APPS * ((index / NAMESPACES / APPS + number) % APPS)))
            % pods.max(1);
        let ready = state == State::Full || number != 0;
        json!({ "addresses": [remote_address(pod).to_string()],
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
            "nodeName": format!("node-{}", pod / PODS_PER_NODE) })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

fn app(index: usize) -> usize {
    index / NAMESPACES % APPS
}

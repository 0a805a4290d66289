//! What is left of a policy that cannot be read: whom it selects is isolated, as far as that can be told.
//!
//! A policy that was written is meant to isolate. One with a typing error must not leave its pods open.

use postern_policy::model::{NamespacedName, NetworkPolicy};
use serde_json::Value;

use super::selector::selector;

/// What `policyTypes` may hold.
pub(super) const DIRECTIONS: [&str; 2] = ["Ingress", "Egress"];

/// The namespace that an object is in, unless that cannot be told.
#[must_use]
pub fn namespace(document: &Value) -> Option<&str> {
    match document.get("metadata") {
        None | Some(Value::Null) => Some("default"),
        Some(Value::Object(metadata)) => match metadata.get("namespace") {
            // What kubectl does with manifests that name no namespace.
            None | Some(Value::Null) => Some("default"),
            Some(namespace) => namespace.as_str(),
        },
        Some(_) => None,
    }
}

/// Makes a policy without rules from the metadata and the `podSelector` of an unreadable one. Where the selector
/// cannot be read either, all pods of the namespace are selected. Directions are those that can be read from
/// `policyTypes`, else both. Its name is empty where the policy has none.
///
/// Returns nothing where not even the namespace is known.
#[must_use]
pub fn isolation(document: &Value) -> Option<NetworkPolicy> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let namespace = namespace(document)?;
    let pod_selector = document
        .pointer("/spec/podSelector")
        .and_then(|it| serde_json::from_value(it.clone()).ok())
        .and_then(|it| selector("", &it).ok())
        .unwrap_or_default();
    let types = document.pointer("/spec/policyTypes").and_then(Value::as_array);
    // One that is neither was meant to be one of the two: nobody knows which.
    let direction = |it: &Value| DIRECTIONS.into_iter().find(|direction| it.as_str() == Some(direction));
    let types: Vec<&str> =
        types.and_then(|types| types.iter().map(direction).collect::<Option<_>>()).unwrap_or_default();
    let isolates = |direction| types.is_empty() || types.contains(&direction);
    Some(NetworkPolicy {
        id: NamespacedName::new(namespace, name),
        pod_selector,
        ingress: isolates("Ingress").then(Vec::new),
        egress: isolates("Egress").then(Vec::new),
    })
}

//! What is left of a policy that cannot be read: whom it selects is isolated, as far as that can be told.
//!
//! A policy that was written is meant to isolate. One with a typing error must not leave its pods open.

use postern_policy::model::{NamespacedName, NetworkPolicy};
use serde_json::Value;

use super::selector::selector;

/// What `policyTypes` may hold.
pub(super) const DIRECTIONS: [&str; 2] = ["Ingress", "Egress"];

/// Makes a policy without rules from the metadata and the `podSelector` of an unreadable one. Where the selector
/// cannot be read either, all pods of the namespace are selected. Directions are those that can be read from
/// `policyTypes`, else both.
///
/// Returns nothing where not even the name is known.
#[must_use]
pub fn isolation(document: &Value) -> Option<NetworkPolicy> {
    let name = document.pointer("/metadata/name")?.as_str()?;
    let namespace = document.pointer("/metadata/namespace").map_or(Some("default"), Value::as_str)?;
    let pod_selector = document
        .pointer("/spec/podSelector")
        .and_then(|it| serde_json::from_value(it.clone()).ok())
        .and_then(|it| selector("", &it).ok())
        .unwrap_or_default();
    let types: Vec<&str> = document
        .pointer("/spec/policyTypes")
        .and_then(Value::as_array)
        .map(|types| types.iter().filter_map(Value::as_str).filter(|it| DIRECTIONS.contains(it)).collect())
        .unwrap_or_default();
    let isolates = |direction| types.is_empty() || types.contains(&direction);
    Some(NetworkPolicy {
        id: NamespacedName::new(namespace, name),
        pod_selector,
        ingress: isolates("Ingress").then(Vec::new),
        egress: isolates("Egress").then(Vec::new),
    })
}

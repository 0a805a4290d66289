//! What a document says it is: an object that policy looks at, a list of such, something else, or something that was
//! probably meant to be one. Objects are told by group and kind: Knative has a Service too, and Calico a `NetworkPolicy`.

use serde_json::Value;

use crate::convert::object::Kind;

/// What a document is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// An object that policy looks at.
    Object(Kind),
    /// A list; of one kind, where items need not say theirs.
    List(Option<Kind>),
    /// Something that policy does not look at, as people call it.
    Other(String),
    /// Nothing that Kubernetes knows.
    Unknown {
        /// What was probably meant.
        meant: Option<Kind>,
        /// What is wrong.
        message: String,
    },
}

/// What `value` says it is.
pub(super) fn of(value: &Value) -> Type {
    let text = |key| value.get(key).and_then(Value::as_str);
    let unknown = |meant, message| Type::Unknown { meant, message };
    match (text("apiVersion"), text("kind")) {
        (Some(version), Some(kind)) => known(version, kind),
        (None, Some(name)) => match Kind::named(name).or_else(|| resembling(name)) {
            Some(kind) => {
                let message = format!("apiVersion: is missing; {} was probably meant", kind.api_version());
                unknown(Some(kind), message)
            }
            None => unknown(None, "apiVersion: is missing: not a Kubernetes object".to_owned()),
        },
        (version, None) => {
            let ours = version.is_none_or(|version| group(version) == Kind::NetworkPolicy.group());
            // Nothing else that policy looks at has one.
            if ours && value.pointer("/spec/podSelector").is_some() {
                let message = "kind: is missing; NetworkPolicy was probably meant".to_owned();
                return unknown(Some(Kind::NetworkPolicy), message);
            }
            unknown(None, "apiVersion and kind are missing: not a Kubernetes object".to_owned())
        }
    }
}

fn known(version: &str, name: &str) -> Type {
    if !is_kubernetes(group(version)) && !resembles_ours(group(version)) {
        return Type::Other(format!("{name} of {version}"));
    }
    if name == "List" && version == "v1" {
        return Type::List(None);
    }
    let (single, list) = match name.strip_suffix("List") {
        Some(single) if !single.is_empty() => (single, true),
        _ => (name, false),
    };
    let suffix = if list { "List" } else { "" };
    if let Some(kind) = Kind::named(single) {
        let expected = kind.api_version();
        return match (version == expected, list) {
            (true, false) => Type::Object(kind),
            (true, true) => Type::List(Some(kind)),
            (false, _) => Type::Unknown {
                meant: Some(kind),
                message: format!(
                    "apiVersion {version:?} is not known for {kind}{suffix}; {expected} was probably meant"
                ),
            },
        };
    }
    match resembling(single) {
        Some(kind) => Type::Unknown {
            meant: Some(kind),
            message: format!("kind: {name:?} is not known; {kind}{suffix} was probably meant"),
        },
        None if matches!(&*name.to_lowercase(), "list" | "lists") => Type::Unknown {
            meant: None,
            message: format!("kind: {name:?} of {version:?} is not known; List of v1 was probably meant"),
        },
        None => Type::Other(format!("{name} of {version}")),
    }
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether a group is Kubernetes' own, and not one that an extension may call anything it likes: those have a dot.
fn is_kubernetes(group: &str) -> bool {
    !group.contains('.') || Kind::ALL.iter().any(|kind| kind.group() == group)
}

/// Whether a group is most likely a misspelt one of ours.
fn resembles_ours(group: &str) -> bool {
    let ours = Kind::ALL.iter().map(|kind| kind.group()).filter(|it| !it.is_empty());
    group.ends_with(".k8s.io") && ours.into_iter().any(|it| strsim::osa_distance(it, group) <= 3)
        || Kind::ALL
            .iter()
            .any(|kind| !kind.group().is_empty() && strsim::osa_distance(kind.group(), group) <= 2)
}

/// The kind that is most likely meant by a name that none has: another letter case, the plural, the short name that
/// kubectl knows, a letter or two wrong.
fn resembling(name: &str) -> Option<Kind> {
    let name = name.to_lowercase();
    let short = match &*name {
        "ns" => Some(Kind::Namespace),
        "no" => Some(Kind::Node),
        "po" => Some(Kind::Pod),
        "netpol" => Some(Kind::NetworkPolicy),
        "svc" => Some(Kind::Service),
        _ => None,
    };
    let near = |kind: &Kind| {
        let kind = kind.to_string().to_lowercase();
        let plural = match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{kind}s"),
        };
        // Short names are near to many others.
        let tolerance = if kind.len() > 7 { 2 } else { 1 };
        name == plural || strsim::osa_distance(&kind, &name) <= tolerance
    };
    short.or_else(|| Kind::ALL.into_iter().find(near))
}

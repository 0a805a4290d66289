//! One API object, of any kind that policy looks at: read, or told apart as well as can be, and what becomes of it.

use std::fmt;

use k8s_openapi::api::networking::v1 as networking;
use postern_policy::model::{NamespacedName, NetworkPolicy, Object, ObjectRef};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Problem, endpoint_slice, namespace, network_policy, node, pod, salvage, service, slim};

/// A kind of object that policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1
    Namespace,
    /// v1
    Node,
    /// v1
    Pod,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// v1
    Service,
    /// discovery.k8s.io/v1
    EndpointSlice,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Namespace, Self::Node, Self::Pod, Self::NetworkPolicy, Self::Service, Self::EndpointSlice];

    /// The kind of this name (`kind`).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name)
    }

    /// The version that is understood (`apiVersion`).
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// The group that it belongs to, of which Knative, Calico and others have their own.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// The kind of a named object.
    #[must_use]
    pub const fn of(reference: &ObjectRef) -> Self {
        match reference {
            ObjectRef::Namespace(_) => Self::Namespace,
            ObjectRef::Node(_) => Self::Node,
            ObjectRef::Pod(_) => Self::Pod,
            ObjectRef::NetworkPolicy(_) => Self::NetworkPolicy,
            ObjectRef::Service(_) => Self::Service,
            ObjectRef::EndpointSlice(_) => Self::EndpointSlice,
        }
    }

    /// Names an object of this kind; the namespace does not count where the kind has none.
    #[must_use]
    pub fn reference(self, namespace: &str, name: &str) -> ObjectRef {
        match self {
            Self::Namespace => ObjectRef::Namespace(name.into()),
            Self::Node => ObjectRef::Node(name.into()),
            Self::Pod => ObjectRef::Pod(NamespacedName::new(namespace, name)),
            Self::NetworkPolicy => ObjectRef::NetworkPolicy(NamespacedName::new(namespace, name)),
            Self::Service => ObjectRef::Service(NamespacedName::new(namespace, name)),
            Self::EndpointSlice => ObjectRef::EndpointSlice(NamespacedName::new(namespace, name)),
        }
    }
}

/// What one API object turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An object that policy looks at, with what is wrong in parts of it.
    Object(Object, Vec<Problem>),
    /// Unreadable.
    Broken {
        /// The object, as far as it can be told.
        object: Option<ObjectRef>,
        /// What isolates the pods that a broken policy selects, as far as that can be told. It has an empty name where
        /// the policy has none.
        isolation: Option<NetworkPolicy>,
        /// Field and cause.
        message: String,
    },
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is applied, or what is left of it.
    Apply(Object),
    /// Its last good version stays.
    Stay(ObjectRef),
    /// Nothing is known of it but its name, at best.
    Unused(Option<ObjectRef>),
}

impl Parsed {
    /// What becomes of it, and what to say about that: the last good version of a broken object stays, where there is
    /// one; a policy without one isolates the pods that its metadata and `podSelector` still name.
    #[must_use]
    pub fn fate(self, is_known: impl FnOnce(&ObjectRef) -> bool) -> (Fate, Vec<String>) {
        match self {
            Self::Object(object, problems) => {
                let meanwhile = match object {
                    Object::Pod(_) => "the pod may send from its own addresses alone",
                    _ => "this entry matches nothing",
                };
                let say = |problem| format!("{problem}; until it is mended, {meanwhile}");
                let messages = problems.iter().map(say).collect();
                (Fate::Apply(object), messages)
            }
            Self::Broken { object, isolation, message } => {
                let known = object.as_ref().is_some_and(is_known);
                let (fate, meanwhile) = match (object, isolation) {
                    (Some(object), _) if known => (Fate::Stay(object), "its last good version stays"),
                    (_, Some(isolation)) => (
                        Fate::Apply(Object::NetworkPolicy(isolation)),
                        "the pods it selects are isolated until it is mended",
                    ),
                    (Some(object), None) => (Fate::Unused(Some(object)), "it is not used"),
                    (None, None) => (Fate::Unused(None), "what was known before stays"),
                };
                (fate, vec![format!("{message}; {meanwhile}")])
            }
        }
    }
}

/// Reads an object of a known kind.
#[must_use]
pub fn parse(kind: Kind, value: &Value) -> Parsed {
    match kind {
        Kind::Namespace => simple(kind, value, |it| Ok((Object::Namespace(namespace(it)?), Vec::new()))),
        Kind::Node => simple(kind, value, |it| Ok((Object::Node(node(it)?), Vec::new()))),
        Kind::Pod => simple(kind, value, |it| pod(it).map(|(pod, problems)| (Object::Pod(pod), problems))),
        Kind::NetworkPolicy => policy(value),
        Kind::Service => simple(kind, value, |it| Ok((Object::Service(service(it)?), Vec::new()))),
        Kind::EndpointSlice => {
            simple(kind, value, |it| Ok((Object::EndpointSlice(endpoint_slice(it)?), Vec::new())))
        }
    }
}

/// Reads the JSON of an object of a known kind, with no detour where nothing is wrong with it.
#[must_use]
pub fn parse_json(kind: Kind, json: &str) -> Parsed {
    fn read<T: DeserializeOwned>(
        json: &str,
        convert: impl Fn(&T) -> Result<Object, Problem>,
    ) -> Option<Object> {
        convert(&serde_json::from_str(json).ok()?).ok()
    }
    let object = match kind {
        Kind::Namespace => read(json, |it| namespace(it).map(Object::Namespace)),
        Kind::Node => read(json, |it| node(it).map(Object::Node)),
        Kind::Pod => read::<slim::Pod>(json, |it| match pod(it)? {
            (pod, problems) if problems.is_empty() => Ok(Object::Pod(pod)),
            (_, mut problems) => Err(problems.remove(0)),
        }),
        Kind::Service => read(json, |it| service(it).map(Object::Service)),
        Kind::EndpointSlice => read(json, |it| endpoint_slice(it).map(Object::EndpointSlice)),
        // Fields that are not known count.
        Kind::NetworkPolicy => None,
    };
    match object {
        Some(object) => Parsed::Object(object, Vec::new()),
        None => match serde_json::from_str(json) {
            Ok(value) => parse(kind, &value),
            Err(error) => {
                Parsed::Broken { object: None, isolation: None, message: format!("not JSON: {error}") }
            }
        },
    }
}

/// An object that cannot be read, told apart as well as can be.
#[must_use]
pub fn broken(kind: Option<Kind>, value: &Value, message: String) -> Parsed {
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let reference = |(name, kind): (&str, Kind)| Some(kind.reference(salvage::namespace(value)?, name));
    let object = name.zip(kind).and_then(reference);
    let isolation = if kind == Some(Kind::NetworkPolicy) { salvage::isolation(value) } else { None };
    Parsed::Broken { object, isolation, message }
}

fn simple<T: DeserializeOwned>(
    kind: Kind,
    value: &Value,
    convert: impl Fn(&T) -> Result<(Object, Vec<Problem>), Problem>,
) -> Parsed {
    match typed(value, &mut Vec::new()) {
        Ok(object) => match convert(&object) {
            Ok((object, problems)) => Parsed::Object(object, problems),
            Err(problem) => broken(Some(kind), value, problem.to_string()),
        },
        Err(message) => broken(Some(kind), value, message),
    }
}

fn policy(value: &Value) -> Parsed {
    let mut unknown = Vec::new();
    let policy = typed::<networking::NetworkPolicy>(value, &mut unknown);
    // A field that is not known is a typing error, or of a later version; what it was to restrict would be lost.
    let unknown = unknown.into_iter().find(|field| field.starts_with("spec"));
    let message = match (policy, unknown) {
        (Ok(_), Some(field)) => format!("{field}: no such field in a NetworkPolicy"),
        (Ok(policy), None) => match network_policy(&policy) {
            Ok((policy, problems)) => return Parsed::Object(Object::NetworkPolicy(policy), problems),
            Err(problem) => problem.to_string(),
        },
        (Err(message), _) => message,
    };
    broken(Some(Kind::NetworkPolicy), value, message)
}

fn typed<T: DeserializeOwned>(value: &Value, unknown: &mut Vec<String>) -> Result<T, String> {
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(field_path(&path.to_string()));
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let parsed = T::deserialize(serde_ignored::Deserializer::new(deserializer, &mut note));
    parsed.map_err(|error| format!("{}: {error}", track.path()))
}

/// `spec.?.ingress.?.0.form`, as `serde_ignored` writes it, in the form that everything else has: `spec.ingress[0].form`.
fn field_path(path: &str) -> String {
    let mut field = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            field.extend(["[", part, "]"]);
        } else {
            field.extend([if field.is_empty() { "" } else { "." }, part]);
        }
    }
    field
}

//! From the text of one file to objects, document by document: a broken one does not take its neighbours down.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use postern_policy::model::{NamespacedName, NetworkPolicy, Object, ObjectRef};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::{self, Problem, salvage};

/// What one document turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// An object that policy looks at, with what is wrong in parts of it.
    Object(Object, Vec<Problem>),
    /// Nothing, or a kind that policy does not look at.
    Other,
    /// Unreadable.
    Broken {
        /// The object, as far as it can be told.
        object: Option<ObjectRef>,
        /// What isolates the pods that a broken policy selects, as far as that can be told.
        isolation: Option<NetworkPolicy>,
        /// Field and cause.
        message: String,
    },
}

/// Reads every document of a file.
pub(super) fn parse(text: &str) -> Vec<Document> {
    split(text).into_iter().map(|(line, document)| read(line, &document)).collect()
}

/// Splits at document markers by hand: a syntax error would end the parser's own stream at the first broken document.
/// Gives the number of lines before each document too.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(0, String::new())];
    for (line, content) in text.lines().enumerate() {
        let marker =
            content.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        match (marker, documents.last_mut()) {
            (None, Some((_, document))) => {
                document.push_str(content);
                document.push('\n');
            }
            (Some(rest), _) => documents.push((line, format!("{rest}\n"))),
            (None, None) => {}
        }
    }
    // Documents are counted as a reader counts them: what stands before a leading marker is none when it says nothing.
    documents.retain(|(_, document)| {
        document.lines().any(|it| !it.trim().is_empty() && !it.trim().starts_with('#'))
    });
    documents
}

fn read(line: usize, text: &str) -> Document {
    let value: Value = match serde_yaml_ng::from_str(text) {
        Ok(value) => value,
        Err(error) => return syntax_error(line, &error),
    };
    let kind = value.get("kind").and_then(Value::as_str);
    let version = value.get("apiVersion").and_then(Value::as_str);
    let (Some(kind), Some(version)) = (kind, version) else {
        return broken(&value, None, "apiVersion and kind are missing: not a Kubernetes object".to_owned());
    };
    match (version, kind) {
        ("v1", "Namespace") => {
            simple(&value, |it| Ok((Object::Namespace(convert::namespace(it)?), Vec::new())))
        }
        ("v1", "Node") => simple(&value, |it| Ok((Object::Node(convert::node(it)?), Vec::new()))),
        ("v1", "Pod") => simple(&value, |it: &core::Pod| {
            convert::pod(it).map(|(pod, problems)| (Object::Pod(pod), problems))
        }),
        ("networking.k8s.io/v1", "NetworkPolicy") => network_policy(&value),
        (_, "Namespace" | "Node" | "Pod" | "NetworkPolicy") => {
            broken(&value, Some(kind), format!("apiVersion {version:?} is not known for {kind}"))
        }
        _ => Document::Other,
    }
}

fn syntax_error(line: usize, error: &serde_yaml_ng::Error) -> Document {
    // The parser counts within the document; people count within the file.
    let place =
        error.location().map(|at| format!(" (line {} of the file)", line + at.line())).unwrap_or_default();
    Document::Broken { object: None, isolation: None, message: format!("not YAML: {error}{place}") }
}

fn simple<T: DeserializeOwned>(
    value: &Value,
    convert: impl Fn(&T) -> Result<(Object, Vec<Problem>), Problem>,
) -> Document {
    let kind = value.get("kind").and_then(Value::as_str);
    match typed(value, &mut Vec::new()) {
        Ok(object) => match convert(&object) {
            Ok((object, problems)) => Document::Object(object, problems),
            Err(problem) => broken(value, kind, problem.to_string()),
        },
        Err(message) => broken(value, kind, message),
    }
}

fn network_policy(value: &Value) -> Document {
    let mut unknown = Vec::new();
    let policy = typed::<networking::NetworkPolicy>(value, &mut unknown);
    // A field that is not known is a typing error, and what it was to restrict would be lost.
    let unknown = unknown.into_iter().find(|field| field.starts_with("spec"));
    let message = match (policy, unknown) {
        (Ok(_), Some(field)) => format!("{field}: no such field in a NetworkPolicy"),
        (Ok(policy), None) => match convert::network_policy(&policy) {
            Ok((policy, problems)) => return Document::Object(Object::NetworkPolicy(policy), problems),
            Err(problem) => problem.to_string(),
        },
        (Err(message), _) => message,
    };
    broken(value, Some("NetworkPolicy"), message)
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

fn broken(value: &Value, kind: Option<&str>, message: String) -> Document {
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    let object = name.zip(kind).and_then(|(name, kind)| match kind {
        "Namespace" => Some(ObjectRef::Namespace(name.into())),
        "Node" => Some(ObjectRef::Node(name.into())),
        "Pod" => Some(ObjectRef::Pod(NamespacedName::new(namespace, name))),
        "NetworkPolicy" => Some(ObjectRef::NetworkPolicy(NamespacedName::new(namespace, name))),
        _ => None,
    });
    let isolation = if kind == Some("NetworkPolicy") { salvage::isolation(value) } else { None };
    Document::Broken { object, isolation, message }
}

//! Manifests, made true in a real API server: what is new is created, what differs is changed, what is gone is deleted.
//!
//! The lab's manifests hold what controllers and kubelets would write (`status.podIPs`); the mirror writes it for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use postern_lab::working_copy::Files;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::api;

/// The mirror failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not YAML, or not an object.
    #[error("{file}: {message}")]
    Manifest {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// No client.
    #[error(transparent)]
    Client(#[from] api::Error),
    /// The API server refuses.
    #[error("{object}: {source}")]
    Api {
        /// What was written.
        object: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

/// Names an object: kind, namespace, name.
type Name = (String, String, String);

/// The kinds that are mirrored, in the order in which they must be created.
const KINDS: [(&str, &str, &str); 6] = [
    ("Namespace", "", "v1"),
    ("Node", "", "v1"),
    ("Service", "", "v1"),
    ("EndpointSlice", "discovery.k8s.io", "v1"),
    ("NetworkPolicy", "networking.k8s.io", "v1"),
    ("Pod", "", "v1"),
];

/// Requests under way at once.
const AT_ONCE: usize = 32;

/// Namespaces that cannot be deleted: they lose what the manifests gave them.
const EVERLASTING: [&str; 2] = ["default", "kube-system"];

/// By what a watch of one kind can be told to have heard of all that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The version of the last write.
    pub version: u64,
    /// How many objects there are, where some were deleted.
    pub objects: Option<usize>,
}

/// What was written last.
pub struct Mirror {
    kubeconfig: PathBuf,
    /// Made by the first write, in the runtime that drives it.
    client: Option<Client>,
    objects: BTreeMap<Name, Value>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.objects.len()).finish_non_exhaustive()
    }
}

impl Mirror {
    /// A mirror that has written nothing, as the user of a kubeconfig.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), client: None, objects: BTreeMap::new() }
    }

    /// Everything has to be written again: the API server has lost it.
    pub fn forget(&mut self) {
        self.objects.clear();
    }

    /// Makes these the objects of the API server. Returns a mark for each kind that was written.
    ///
    /// # Errors
    /// They cannot be read, or the API server refuses one.
    pub async fn apply(&mut self, files: &Files) -> Result<BTreeMap<String, Mark>, Error> {
        self.apply_and_tell(files, &|_, _| {}).await
    }

    /// The same; `progress` is told how many of how many objects are written.
    ///
    /// # Errors
    /// They cannot be read, or the API server refuses one.
    pub async fn apply_and_tell(
        &mut self,
        files: &Files,
        progress: &dyn Fn(usize, usize),
    ) -> Result<BTreeMap<String, Mark>, Error> {
        let wanted = objects(files)?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(api::client(&self.kubeconfig).await?).clone(),
        };
        let mut marks = BTreeMap::new();
        let mut deleted = BTreeSet::new();
        // Pods go before their namespaces, and come after them; of one kind, many at once.
        for (kind, ..) in KINDS.iter().rev() {
            let gone = self.objects.keys().filter(|name| name.0 == *kind && !wanted.contains_key(*name));
            let gone = gone.cloned().map(|name| {
                let client = &client;
                let mirror = &*self;
                async move {
                    let version = mirror.delete(client, &name).await.map_err(of(&name))?;
                    Ok::<_, Error>((name, version))
                }
            });
            let gone: Vec<_> = stream::iter(gone).buffer_unordered(AT_ONCE).try_collect().await?;
            for (name, version) in gone {
                self.objects.remove(&name);
                deleted.insert(name.0.clone());
                note(&mut marks, name, version);
            }
        }
        let mut done = 0;
        for (kind, ..) in KINDS {
            let new = {
                let objects = &self.objects;
                let changed =
                    wanted.iter().filter(|(name, it)| name.0 == kind && objects.get(*name) != Some(*it));
                let written = changed.map(|(name, object)| {
                    let (client, mirror) = (&client, &*self);
                    async move {
                        let before = mirror.objects.get(name);
                        let version = mirror.write(client, name, before, object).await.map_err(of(name))?;
                        Ok::<_, Error>((name.clone(), version))
                    }
                });
                let written = stream::iter(written).buffer_unordered(AT_ONCE).inspect_ok(|_| {
                    done += 1;
                    progress(done, wanted.len());
                });
                written.try_collect::<Vec<_>>().await?
            };
            for (name, version) in new {
                let before = self.objects.insert(name.clone(), wanted[&name].clone());
                // Agents do not watch finished pods: they hear of one that finishes, and of nothing after that.
                if !is_finished(&wanted[&name]) || before.is_some_and(|before| !is_finished(&before)) {
                    note(&mut marks, name, version);
                }
            }
        }
        // Of some kinds the answer to a deletion does not say its version: a watch has heard of it once it knows as many
        // objects as there are.
        for (kind, mark) in marks.iter_mut().filter(|(kind, _)| deleted.contains(*kind)) {
            let all = (kind.clone(), String::new(), String::new());
            let list = Self::api(&client, &all).list(&everything(kind)).await.map_err(of(&all))?;
            mark.objects = Some(list.items.len());
        }
        Ok(marks)
    }

    fn api(client: &Client, (kind, namespace, _): &Name) -> Api<DynamicObject> {
        let (_, group, version) = KINDS.into_iter().find(|(known, ..)| known == kind).unwrap_or(KINDS[0]);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if namespace.is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    }

    async fn write(
        &self,
        client: &Client,
        name: &Name,
        before: Option<&Value>,
        object: &Value,
    ) -> Result<u64, kube::Error> {
        let api = Self::api(client, name);
        let status = object.get("status").map(|status| {
            let mut status = status.clone();
            // Where the two differ, the API server goes by the single one (conversion of core/v1 PodStatus).
            if let Some(first) = status.pointer("/podIPs/0/ip").cloned() {
                status["podIP"] = first;
            }
            json!({ "status": status })
        });
        let mut spec = object.clone();
        spec.as_object_mut().map(|it| it.remove("status"));
        let metadata = spec.pointer_mut("/metadata").and_then(Value::as_object_mut);
        let leaving = metadata.is_some_and(|it| {
            it.remove("deletionGracePeriodSeconds");
            it.remove("deletionTimestamp").is_some()
        });
        // A pod's spec cannot be changed.
        let replaced =
            name.0 == "Pod" && before.is_some_and(|before| before.get("spec") != object.get("spec"));
        if replaced {
            self.delete(client, name).await?;
        }
        let written = match before.filter(|_| !replaced) {
            None => {
                let object = serde_json::from_value(spec).map_err(kube::Error::SerdeError)?;
                match api.create(&PostParams::default(), &object).await {
                    // What comes with every cluster (namespace default) is made like the manifest.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {
                        api.patch(&name.2, &PatchParams::default(), &Patch::Merge(&object)).await
                    }
                    written => written,
                }
            }
            Some(before) => {
                let patch = Patch::Merge(difference(before, &spec));
                api.patch(&name.2, &PatchParams::default(), &patch).await
            }
        }?;
        let written = match status {
            Some(status) => {
                api.patch_status(&name.2, &PatchParams::default(), &Patch::Merge(&status)).await?
            }
            None => written,
        };
        if leaving {
            // Nobody is there to end it: it goes on terminating.
            let parameters = DeleteParams::default().grace_period(3600);
            return Ok(api.delete(&name.2, &parameters).await?.left().as_ref().map_or(0, version));
        }
        Ok(version(&written))
    }

    async fn delete(&self, client: &Client, name: &Name) -> Result<u64, kube::Error> {
        let api = Self::api(client, name);
        if name.0 == "Namespace"
            && EVERLASTING.contains(&name.2.as_str())
            && let Some(before) = self.objects.get(name)
        {
            let labels = before.pointer("/metadata/labels").map(|labels| difference(labels, &json!({})));
            let patch = Patch::Merge(json!({ "metadata": { "labels": labels.unwrap_or(json!({})) } }));
            return Ok(version(&api.patch(&name.2, &PatchParams::default(), &patch).await?));
        }
        let deleted = api.delete(&name.2, &DeleteParams::default().grace_period(0)).await?;
        if name.0 == "Namespace" {
            // What the namespace controller does once a namespace is empty.
            let emptied = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name.2 }, "spec": {} });
            let request = http::Request::put(format!("/api/v1/namespaces/{}/finalize", name.2))
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(emptied.to_string().into_bytes())
                .map_err(kube::Error::HttpError)?;
            let finalized: DynamicObject = client.request(request).await?;
            return Ok(version(&finalized));
        }
        Ok(deleted.left().as_ref().map_or(0, version))
    }
}

/// A merge patch from one manifest to another: what vanished is set to null.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let kept = after.iter().map(|(key, value)| {
        let patch = before.get(key).map_or_else(|| value.clone(), |before| difference(before, value));
        (key.clone(), patch)
    });
    let gone = before.keys().filter(|key| !after.contains_key(*key) && *key != "status");
    kept.chain(gone.map(|key| (key.clone(), Value::Null))).collect()
}

fn version(object: &DynamicObject) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn of(name: &Name) -> impl FnOnce(kube::Error) -> Error {
    let object = format!("{} {}/{}", name.0, name.1, name.2);
    move |source| Error::Api { object, source: Box::new(source) }
}

/// Whether an object is a pod that has ended.
fn is_finished(object: &Value) -> bool {
    let phase = object.pointer("/status/phase").and_then(Value::as_str);
    object["kind"] == "Pod" && matches!(phase, Some("Succeeded" | "Failed"))
}

/// Remembers the last version of each kind.
fn note(marks: &mut BTreeMap<String, Mark>, (kind, ..): Name, version: u64) {
    let mark = marks.entry(kind).or_default();
    mark.version = version.max(mark.version);
}

/// All objects of a kind that an agent watches: finished pods are none.
fn everything(kind: &str) -> ListParams {
    match kind {
        "Pod" => ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed"),
        _ => ListParams::default(),
    }
}

/// The objects of these files, with the namespaces that nobody describes.
fn objects(files: &Files) -> Result<BTreeMap<Name, Value>, Error> {
    let mut objects = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| *file != "lab.yaml") {
        for document in serde_yaml_ng::Deserializer::from_slice(text) {
            let error = |message: String| Error::Manifest { file: file.clone(), message };
            let object = Value::deserialize(document).map_err(|it| error(it.to_string()))?;
            if object.is_null() {
                continue;
            }
            let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let (Some(kind), Some(name)) = (text("/kind"), text("/metadata/name")) else {
                return Err(error("an object without kind or name".to_owned()));
            };
            let cluster_wide = matches!(kind.as_str(), "Namespace" | "Node");
            let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
            objects.insert((kind, if cluster_wide { String::new() } else { namespace }, name), object);
        }
    }
    let namespaces: Vec<String> = objects.keys().map(|(_, namespace, _)| namespace.clone()).collect();
    for namespace in namespaces.into_iter().filter(|namespace| !namespace.is_empty()) {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        objects.entry(("Namespace".to_owned(), String::new(), namespace)).or_insert(object);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_removes_what_vanished_and_keeps_what_the_server_added() {
        let before = json!({ "metadata": { "labels": { "app": "web", "tier": "front" } }, "status": {} });
        let after = json!({ "metadata": { "labels": { "app": "db" } } });
        assert_eq!(
            difference(&before, &after),
            json!({ "metadata": { "labels": { "app": "db", "tier": null } } })
        );
    }
}

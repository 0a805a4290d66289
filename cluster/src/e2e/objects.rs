//! Carrying out the steps of the story.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;

use super::Error;
use super::cast::{Cast, failed, namespace};
use super::story::Action;

/// Who we are, to the API server.
const MANAGER: &str = "postern-e2e";

/// Does it.
pub(super) async fn carry_out(client: &Client, cast: &Cast, action: &Action) -> Result<(), Error> {
    match action {
        Action::Apply(manifests) => apply(client, cast, manifests).await,
        Action::Delete(team, name) => {
            let policies = Api::<NetworkPolicy>::namespaced(client.clone(), &namespace(team));
            let deleted = policies.delete(name, &DeleteParams::default()).await;
            deleted.map(|_| ()).map_err(failed(&format!("delete the policy {team}/{name}")))
        }
        Action::DeleteAll => {
            for team in cast.pods.iter().map(|pod| pod.namespace) {
                let policies = Api::<NetworkPolicy>::namespaced(client.clone(), &namespace(team));
                let all = ListParams::default();
                let deleted = policies.delete_collection(&DeleteParams::default(), &all).await;
                deleted.map_err(failed(&format!("delete the policies of {team}")))?;
            }
            Ok(())
        }
        Action::LabelPod(team, name, key, value) => {
            let pods = Api::<Pod>::namespaced(client.clone(), &namespace(team));
            label(&pods, name, key, value).await
        }
        Action::LabelNamespace(team, key, value) => {
            label(&Api::<Namespace>::all(client.clone()), &namespace(team), key, value).await
        }
    }
}

async fn apply(client: &Client, cast: &Cast, manifests: &str) -> Result<(), Error> {
    let mut text = manifests.to_owned();
    for pod in &cast.pods {
        text = text.replace(&format!("$({})", pod.title()), &pod.address.to_string());
    }
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let policy = NetworkPolicy::deserialize(document)?;
        let (space, name) = (policy.metadata.namespace.clone(), policy.metadata.name.clone());
        let (space, name) = (space.unwrap_or_default(), name.unwrap_or_default());
        let policies = Api::<NetworkPolicy>::namespaced(client.clone(), &space);
        let applied =
            policies.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&policy)).await;
        applied.map_err(failed(&format!("apply the policy {space}/{name}")))?;
    }
    Ok(())
}

async fn label<K>(api: &Api<K>, name: &str, key: &str, value: &str) -> Result<(), Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = json!({ "metadata": { "labels": { key: value } } });
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(|_| ()).map_err(failed(&format!("label {name}")))
}

//! Applying manifests of any kind, as `kubectl apply --server-side` does.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::core::gvk::ParseGroupVersionError;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use serde::Deserialize;

/// Who we are, to the API server.
const MANAGER: &str = "postern-cluster";

/// A manifest was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is none.
    #[error("manifest: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// It does not say what it is.
    #[error("manifest: {name} has no apiVersion and kind")]
    NoKind {
        /// Its name.
        name: String,
    },
    /// Its apiVersion.
    #[error("manifest: {0}")]
    Version(#[from] ParseGroupVersionError),
    /// The API server refuses.
    #[error("apply {object}: {error}")]
    Refused {
        /// Kind and name.
        object: String,
        /// What it said.
        #[source]
        error: kube::Error,
    },
    /// There is no client.
    #[error(transparent)]
    Api(#[from] crate::api::Error),
}

/// Applies all documents, in their order.
///
/// # Errors
/// A document is no object, or the API server refuses it.
pub async fn apply(client: &Client, text: &str) -> Result<(), Error> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        apply_one(client, &DynamicObject::deserialize(document)?).await?;
    }
    Ok(())
}

async fn apply_one(client: &Client, object: &DynamicObject) -> Result<(), Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let Some(types) = &object.types else { return Err(Error::NoKind { name }) };
    let kind = GroupVersionKind::try_from(types)?;
    let refused = |error| Error::Refused { object: format!("{} {name}", types.kind), error };
    let (resource, capabilities) = pinned_kind(client, &kind).await.map_err(refused)?;
    let api = api(client, object, &resource, &capabilities.scope);
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(object)).await.map_err(refused)?;
    Ok(())
}

fn api(client: &Client, object: &DynamicObject, resource: &ApiResource, scope: &Scope) -> Api<DynamicObject> {
    let client = client.clone();
    match scope {
        Scope::Cluster => Api::all_with(client, resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client, namespace, resource)
        }
    }
}

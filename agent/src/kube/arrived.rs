//! What the API server sends, read on arrival.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ClusterResourceScope;
use postern_policy::model::ObjectRef;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::convert::object::{Kind, Parsed, parse_json};
use crate::convert::slim::Metadata;

/// A kind to watch.
pub(super) trait Watched: Clone + Debug + Send + Sync + 'static {
    /// Its type in the API.
    type Api: kube::Resource<DynamicType = ()>;
    /// Ours.
    const KIND: Kind;
    /// Which objects to send, as a field selector.
    const FIELDS: Option<&str> = None;
}

macro_rules! watched {
    ($($name:ident: $api:ty $(, $fields:literal)?;)*) => {$(
        #[derive(Clone, Debug)]
        pub(super) struct $name;

        impl Watched for $name {
            type Api = $api;
            const KIND: Kind = Kind::$name;
            $(const FIELDS: Option<&str> = Some($fields);)?
        }
    )*};
}

watched! {
    Namespace: core::Namespace;
    Node: core::Node;
    // A pod that has finished owns no address any more: to the watch it is gone.
    Pod: core::Pod, "status.phase!=Succeeded,status.phase!=Failed";
    NetworkPolicy: networking::NetworkPolicy;
    Service: core::Service;
    EndpointSlice: discovery::EndpointSlice;
}

/// An object, reduced to what policy needs. Reading one never fails: what cannot be read is kept as such, so that it
/// does not take its neighbours in a list down.
#[derive(Clone, Debug)]
pub(super) struct Arrived<W> {
    /// Name, namespace and resource version; no more.
    metadata: ObjectMeta,
    /// What it was read as.
    pub(super) parsed: Parsed,
    watched: PhantomData<W>,
}

impl<W: Watched> Arrived<W> {
    /// Its name, unless it has none, which no API server sends.
    pub(super) fn reference(&self) -> Option<ObjectRef> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Some(W::KIND.reference(namespace, self.metadata.name.as_deref()?))
    }

    /// The version of the object, or of its deletion.
    pub(super) fn version(&self) -> String {
        self.metadata.resource_version.clone().unwrap_or_default()
    }
}

impl<'de, W: Watched> Deserialize<'de> for Arrived<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: Metadata,
        }
        // Broken JSON is the connection's fault, not the object's.
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let Envelope { metadata } = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                resource_version: metadata.resource_version,
                ..ObjectMeta::default()
            },
            parsed: parse_json(W::KIND, json.get()),
            watched: PhantomData,
        })
    }
}

impl<W: Watched> kube::Resource for Arrived<W> {
    type DynamicType = ();
    // Every namespace is watched at once: to the client that is as if there were none.
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        W::Api::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        W::Api::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        W::Api::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        W::Api::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::api::WatchEvent;
    use kube::core::ObjectList;

    use super::*;

    #[test]
    fn labels_that_are_none_break_nobody_else() {
        let list = r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [
            {"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "5", "managedFields": [{"time": 3}]},
             "spec": {"containers": [{"name": "c", "image": 7}]}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}},
            {"metadata": {"name": "odd", "namespace": "shop", "resourceVersion": "6"}, "spec": {"nodeName": 3}}]}"#;
        let list: ObjectList<Arrived<Pod>> = serde_json::from_str(list).unwrap();
        assert!(matches!(list.items[0].parsed, Parsed::Object(..)), "{:?}", list.items[0]);
        let odd = &list.items[1];
        assert_eq!(odd.reference(), Some(Kind::Pod.reference("shop", "odd")));
        let Parsed::Broken { object, message, .. } = &odd.parsed else { panic!("{odd:?}") };
        assert_eq!(*object, odd.reference());
        assert!(message.starts_with("spec.nodeName: invalid type"), "{message}");
    }

    #[test]
    fn an_event_keeps_the_version_to_go_on_from() {
        let event =
            r#"{"type": "MODIFIED", "object": {"metadata": {"name": "shop", "resourceVersion": "9"}}}"#;
        let WatchEvent::Modified(it) = serde_json::from_str::<WatchEvent<Arrived<Namespace>>>(event).unwrap()
        else {
            panic!("another event")
        };
        assert_eq!(kube::ResourceExt::resource_version(&it).as_deref(), Some("9"));
        assert_eq!(it.reference(), Some(Kind::Namespace.reference("", "shop")));
    }
}

//! What should pass: the naive evaluator's word on the API server's objects.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client};
use postern::convert::object::{Kind, Parsed, parse};
use postern_lab::matrix::Matrix;
use postern_policy::model::{NamespacedName, Object};
use postern_policy::reference::{Endpoint, Traffic, allowed};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use super::cast::{Cast, Member, failed, namespace};
use super::probe::questions;

/// All cells. What goes to a Service ends at its one pod.
pub(super) async fn matrix(client: &Client, cast: &Cast) -> Result<Matrix, Error> {
    let mut objects = list::<Namespace>(client, Kind::Namespace).await?;
    objects.extend(list::<Node>(client, Kind::Node).await?);
    objects.extend(list::<Pod>(client, Kind::Pod).await?);
    objects.extend(list::<NetworkPolicy>(client, Kind::NetworkPolicy).await?);
    let judge = |from: &Member, to: &Member, protocol, port| {
        allowed(&objects, &endpoint(from), &endpoint(to), Traffic::Port(protocol, port))
    };
    Ok(questions(cast)
        .map(|question| {
            let allowed = judge(question.from, question.to, question.protocol, question.port);
            (question.key(), allowed.into())
        })
        .collect())
}

fn endpoint(member: &Member) -> Endpoint {
    let pod = NamespacedName::new(namespace(member.namespace), member.name);
    Endpoint { pod: Some(pod), address: member.address }
}

async fn list<K>(client: &Client, kind: Kind) -> Result<Vec<Object>, Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let all = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    let all = all.map_err(failed(&format!("list objects of kind {kind}")))?;
    let mut objects = Vec::new();
    for object in all {
        match parse(kind, &serde_json::to_value(&object)?) {
            Parsed::Object(object, _) => objects.push(object),
            Parsed::Broken { message, .. } => return Err(Error::Unreadable(message)),
        }
    }
    Ok(objects)
}

//! The pods, their namespaces and Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use postern_policy::model::Protocol;
use serde_json::json;

use super::Error;
use crate::cluster::is_ready;

/// What the names of our namespaces start with.
const PREFIX: &str = "postern-e2e-";
/// Says which namespaces are ours.
const LABEL: &str = "postern.dev/e2e";
/// Namespaces and pods. The first of each namespace is on one node, the second on another.
const PODS: [(&str, [&str; 2]); 3] =
    [("ops", ["admin", "monitor"]), ("shop", ["api", "db"]), ("web", ["front", "batch"])];
/// How long pods may take to start: a cluster may have to pull the image.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often that is looked at.
const POLL: Duration = Duration::from_millis(300);

/// What every pod listens on, and what is asked there.
pub(super) const PORTS: [(u16, Protocol, Tool); 6] = [
    (80, Protocol::Tcp, Tool::Curl),
    (81, Protocol::Tcp, Tool::Netcat),
    (5201, Protocol::Tcp, Tool::Iperf),
    (8085, Protocol::Tcp, Tool::Netcat),
    (53, Protocol::Udp, Tool::Nslookup),
    (5000, Protocol::Udp, Tool::NetcatUdp),
];

/// How a port is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Curl,
    Netcat,
    NetcatUdp,
    Iperf,
    Nslookup,
}

/// Servers of a pod. DNS answers that there is no such name: the question again, with other flags, in one write. socat
/// gives up on a server half a second after the last of its question, unless told otherwise.
const SERVE: &str = r#"
answer() { while read -r line; do [ "${#line}" -le 1 ] && break; done; printf 'HTTP/1.0 204 No Content\r\n\r\n'; }
[ "$1" = answer ] && { answer; exit; }
names() {
    dd bs=4096 count=1 of="$1" && dd if="$1" bs=2 count=1 && printf '\201\203' && dd if="$1" bs=4 skip=1
} 2>/dev/null
[ "$1" = names ] && { names "/tmp/$$" >"/tmp/$$.answer"; cat "/tmp/$$.answer"; rm "/tmp/$$" "/tmp/$$.answer"; exit; }
serve() { while true; do socat -t 5 "$1,fork,reuseaddr" "$2"; done; }
serve TCP-LISTEN:80 "EXEC:sh /tmp/serve answer" &
serve TCP-LISTEN:81 "SYSTEM:echo here" &
serve TCP-LISTEN:8085 "SYSTEM:echo here" &
serve UDP-LISTEN:53 "EXEC:sh /tmp/serve names" &
serve UDP-LISTEN:5000 "SYSTEM:echo here" &
exec iperf3 --server
"#;

/// Everyone, with addresses.
pub(super) struct Cast {
    pub(super) pods: Vec<Member>,
    /// Whether their Services are asked too.
    pub(super) services: bool,
}

/// A pod.
pub(super) struct Member {
    /// Without our prefix.
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    pub(super) address: IpAddr,
    /// The address of a Service for its port 80.
    pub(super) service: IpAddr,
}

impl Member {
    /// `NAMESPACE/POD`, without our prefix.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The whole name of a namespace.
pub(super) fn namespace(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Makes everything, and waits until all pods listen.
pub(super) async fn deploy(client: &Client, image: &str) -> Result<Cast, Error> {
    let nodes = nodes(client).await?;
    for (team, pods) in PODS {
        let space = json!({ "metadata": { "name": namespace(team), "labels": { "team": team, LABEL: "" } } });
        create::<Namespace>(&Api::all(client.clone()), space).await?;
        for (index, name) in pods.into_iter().enumerate() {
            let node = &nodes[index % nodes.len()];
            create::<Pod>(&Api::namespaced(client.clone(), &namespace(team)), pod(name, node, image)).await?;
            create::<Service>(&Api::namespaced(client.clone(), &namespace(team)), service(name)).await?;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (cast, waiting) = look(client).await?;
        if waiting.is_empty() {
            return Ok(cast);
        }
        if Instant::now() > deadline {
            let (seconds, pods, image) = (PATIENCE.as_secs(), waiting.join(", "), image.to_owned());
            return Err(Error::NotReady { seconds, pods, image });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Deletes our namespaces, and waits until they are gone.
pub(super) async fn clean_up(client: &Client) -> Result<(), Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let ours = ListParams::default().labels(LABEL);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = namespaces.list(&ours).await.map_err(failed("list namespaces"))?;
        if left.items.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> =
            left.iter().filter_map(|namespace| namespace.metadata.name.as_deref()).collect();
        if Instant::now() > deadline {
            return Err(Error::Terminating(names.join(", ")));
        }
        for namespace in &left {
            let (Some(name), None) = (&namespace.metadata.name, &namespace.metadata.deletion_timestamp)
            else {
                continue;
            };
            namespaces.delete(name, &DeleteParams::default()).await.map_err(failed("delete a namespace"))?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Up to two nodes that are ready and take pods.
async fn nodes(client: &Client) -> Result<Vec<String>, Error> {
    let nodes =
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(failed("list nodes"))?;
    let takes_pods = |node: &&Node| {
        let spec = node.spec.clone().unwrap_or_default();
        // Kubernetes' own follow what the node says of itself, which is looked at here.
        let is_ours = |key: &str| !key.starts_with("node.kubernetes.io/");
        let mut taints = spec.taints.into_iter().flatten();
        let repels = taints.any(|taint| taint.effect != "PreferNoSchedule" && is_ours(&taint.key));
        is_ready(node) && !repels && spec.unschedulable != Some(true)
    };
    let names: Vec<String> =
        nodes.iter().filter(takes_pods).filter_map(|node| node.metadata.name.clone()).take(2).collect();
    if names.is_empty() { Err(Error::NoNode) } else { Ok(names) }
}

async fn look(client: &Client) -> Result<(Cast, Vec<String>), Error> {
    let (mut members, mut waiting) = (Vec::new(), Vec::new());
    for (team, names) in PODS {
        let (pods, services) = (
            Api::<Pod>::namespaced(client.clone(), &namespace(team)),
            Api::<Service>::namespaced(client.clone(), &namespace(team)),
        );
        for name in names {
            let pod = pods.get(name).await.map_err(failed("get a pod"))?;
            let service = services.get(name).await.map_err(failed("get a Service"))?;
            let status = pod.status.unwrap_or_default();
            let is_ready =
                status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
            let address = status.pod_ip.as_deref().and_then(|text| text.parse().ok());
            let of_service = service.spec.and_then(|spec| spec.cluster_ip?.parse().ok());
            match (address, of_service) {
                (Some(address), Some(service)) if is_ready => {
                    members.push(Member { namespace: team, name, address, service });
                }
                _ => {
                    let reasons =
                        status.container_statuses.iter().flatten().filter_map(|container| {
                            container.state.as_ref()?.waiting.as_ref()?.reason.clone()
                        });
                    let reason = reasons.collect::<Vec<_>>().join(", ");
                    waiting.push(format!("{team}/{name} ({reason})"));
                }
            }
        }
    }
    Ok((Cast { pods: members, services: false }, waiting))
}

fn pod(name: &str, node: &str, image: &str) -> serde_json::Value {
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(port, protocol, _)| {
            let name = if *port == 80 { "http".to_owned() } else { format!("p{port}") };
            json!({ "name": name, "containerPort": port, "protocol": protocol })
        })
        .collect();
    json!({
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": false,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "tools",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "printf '%s' \"$SERVE\" > /tmp/serve; exec sh /tmp/serve"],
                // Kubernetes reads `$$` as `$`.
                "env": [{ "name": "SERVE", "value": SERVE.replace('$', "$$") }],
                "ports": ports,
                // By the kubelet's own hand, not from the network: policy must not be in its way.
                "readinessProbe": {
                    "exec": { "command": ["sh", "-c", "nc -z 127.0.0.1 80 && nc -z 127.0.0.1 5201"] },
                    "periodSeconds": 1,
                },
            }],
        },
    })
}

fn service(name: &str) -> serde_json::Value {
    let labels = BTreeMap::from([("app", name)]);
    json!({ "metadata": { "name": name }, "spec": { "selector": labels, "ports": [{ "port": 80 }] } })
}

async fn create<K>(api: &Api<K>, object: serde_json::Value) -> Result<(), Error>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object: K = serde_json::from_value(object)?;
    let what = format!("create {}", object.meta().name.as_deref().unwrap_or_default());
    api.create(&PostParams::default(), &object).await.map_err(failed(&what))?;
    Ok(())
}

/// What to give `map_err`.
pub(super) fn failed(what: &str) -> impl FnOnce(kube::Error) -> Error + use<> {
    let what = what.to_owned();
    move |error| Error::Api { what, error }
}

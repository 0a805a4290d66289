//! API objects as they arrive, reduced to the fields that policy needs. Everything else is skipped while parsing, so
//! that it costs neither memory nor, where it is malformed, the object.
//!
//! Names and meaning are those of the Kubernetes API (core/v1, discovery.k8s.io/v1). Policies are read whole, by their
//! full types: a field that we do not know could be one that restricts.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

/// `ObjectMeta`
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Set in every object that the API server sends.
    pub name: Option<String>,
    /// Set in every namespaced object that the API server sends.
    pub namespace: Option<String>,
    /// Another object of the same name has another one.
    pub uid: Option<String>,
    /// RFC 3339, in seconds, by the API server's clock.
    pub creation_timestamp: Option<String>,
    /// The version of the object, opaque.
    pub resource_version: Option<String>,
    /// Labels, for selectors.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations; only ours are looked at.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An object of which nothing but the metadata matters: `Namespace`.
#[derive(Debug, Deserialize)]
pub struct Namespace {
    /// `metadata`
    #[serde(default)]
    pub metadata: Metadata,
}

/// `Node`
#[derive(Debug, Deserialize)]
pub struct Node {
    /// `metadata`
    #[serde(default)]
    pub metadata: Metadata,
    /// `status`
    pub status: Option<NodeStatus>,
}

/// `NodeStatus`
#[derive(Debug, Deserialize)]
pub struct NodeStatus {
    /// `addresses`
    pub addresses: Option<Vec<NodeAddress>>,
}

/// `NodeAddress`
#[derive(Debug, Deserialize)]
pub struct NodeAddress {
    /// An IP address or a host name.
    pub address: String,
}

/// `Pod`
#[derive(Debug, Deserialize)]
pub struct Pod {
    /// `metadata`
    #[serde(default)]
    pub metadata: Metadata,
    /// `spec`
    pub spec: Option<PodSpec>,
    /// `status`
    pub status: Option<PodStatus>,
}

/// `PodSpec`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// `nodeName`
    pub node_name: Option<String>,
    /// `hostNetwork`
    pub host_network: Option<bool>,
    /// `containers`
    pub containers: Option<Vec<Container>>,
    /// `initContainers`
    pub init_containers: Option<Vec<Container>>,
}

/// `Container`
#[derive(Debug, Deserialize)]
pub struct Container {
    /// `ports`
    pub ports: Option<Vec<ContainerPort>>,
}

/// `ContainerPort`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// `name`
    pub name: Option<String>,
    /// `containerPort`
    pub container_port: i32,
    /// `protocol`
    pub protocol: Option<String>,
}

/// `PodStatus`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `phase`
    pub phase: Option<String>,
    /// `podIP`
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// `podIPs`
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<Ip>>,
}

/// `PodIP`, and `LoadBalancerIngress` as far as it is an address.
#[derive(Debug, Deserialize)]
pub struct Ip {
    /// `ip`
    #[serde(default)]
    pub ip: String,
}

/// `Service`
#[derive(Debug, Deserialize)]
pub struct Service {
    /// `metadata`
    #[serde(default)]
    pub metadata: Metadata,
    /// `spec`
    pub spec: Option<ServiceSpec>,
    /// `status`
    pub status: Option<ServiceStatus>,
}

/// `ServiceSpec`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `type`
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// `clusterIP`
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// `clusterIPs`
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// `externalIPs`
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// `ports`
    pub ports: Option<Vec<ServicePort>>,
    /// `selector`
    pub selector: Option<BTreeMap<String, String>>,
    /// `internalTrafficPolicy`
    pub internal_traffic_policy: Option<String>,
    /// `externalTrafficPolicy`
    pub external_traffic_policy: Option<String>,
    /// `sessionAffinity`
    pub session_affinity: Option<String>,
    /// `sessionAffinityConfig`
    pub session_affinity_config: Option<SessionAffinityConfig>,
}

/// `SessionAffinityConfig`
#[derive(Debug, Deserialize)]
pub struct SessionAffinityConfig {
    /// `clientIP`
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `ClientIPConfig`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// `timeoutSeconds`
    pub timeout_seconds: Option<i32>,
}

/// `ServicePort`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `name`
    pub name: Option<String>,
    /// `protocol`
    pub protocol: Option<String>,
    /// `port`
    pub port: i32,
    /// `targetPort`
    pub target_port: Option<IntOrString>,
    /// `nodePort`
    pub node_port: Option<i32>,
}

/// `ServiceStatus`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// `loadBalancer`
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// `LoadBalancerStatus`
#[derive(Debug, Deserialize)]
pub struct LoadBalancerStatus {
    /// `ingress`
    pub ingress: Option<Vec<Ip>>,
}

/// `EndpointSlice`
#[derive(Debug, Deserialize)]
pub struct EndpointSlice {
    /// `metadata`
    #[serde(default)]
    pub metadata: Metadata,
    /// `endpoints`
    pub endpoints: Option<Vec<Endpoint>>,
    /// `ports`
    pub ports: Option<Vec<EndpointPort>>,
}

/// `Endpoint`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `addresses`
    pub addresses: Option<Vec<String>>,
    /// `conditions`
    pub conditions: Option<EndpointConditions>,
    /// `nodeName`
    pub node_name: Option<String>,
}

/// `EndpointConditions`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct EndpointConditions {
    /// `ready`
    pub ready: Option<bool>,
    /// `serving`
    pub serving: Option<bool>,
    /// `terminating`
    pub terminating: Option<bool>,
}

/// `EndpointPort`
#[derive(Debug, Deserialize)]
pub struct EndpointPort {
    /// `name`
    pub name: Option<String>,
    /// `protocol`
    pub protocol: Option<String>,
    /// `port`
    pub port: Option<i32>,
}

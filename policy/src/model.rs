//! The cluster as policy sees it: small owned structs, reduced from API objects at the edge (`postern::convert`).
//!
//! Everything here is already *valid*: defaults are filled in (`policyTypes`, `protocol`), CIDRs are masked, and what
//! could not be parsed was replaced at the edge by something that allows nothing (see [`Peer::Nothing`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// Labels of a pod or a namespace (`metadata.labels`).
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// `namespace/name` of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Builds the name from anything string-like.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that policy can name (`NetworkPolicyPort.protocol`, `ContainerPort.protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The default when `protocol` is unset.
    Tcp,
    /// User datagrams.
    Udp,
    /// Stream control transmission.
    Sctp,
}

impl Protocol {
    /// All protocols that have ports.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.labels`, `kubernetes.io/metadata.name` included.
    pub labels: Labels,
}

/// A node, known for its addresses alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: Arc<str>,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// A port that a container declares (`spec.containers[].ports[]`, init containers included).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// `name`, the only thing a named policy port can match.
    pub name: Option<Arc<str>>,
    /// `containerPort`
    pub number: u16,
    /// `protocol`, TCP when unset.
    pub protocol: Protocol,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace` and `metadata.name`
    pub id: NamespacedName,
    /// `metadata.labels`
    pub labels: Labels,
    /// `status.podIPs` (`status.podIP` where that is all there is). Empty while pending.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: the pod's traffic is its node's, so it is never a subject and no pod selector matches it.
    pub host_network: bool,
    /// `status.phase` is `Succeeded` or `Failed`: the pod owns no address any more.
    pub finished: bool,
    /// Declared ports of all containers.
    pub ports: Vec<ContainerPort>,
    /// Annotation `postern.dev/antispoof: "off"`: the pod may send from addresses that are not its own.
    pub unguarded: bool,
    /// `metadata.uid`, hashed; 0 where it is not known. Another pod of the same name has another one.
    pub uid: u64,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created: Option<u64>,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// `In` (and each entry of `matchLabels`): the label exists and its value is one of these.
    In(Arc<str>, Vec<Arc<str>>),
    /// `NotIn`: the label does not exist, or its value is none of these.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// `Exists`
    Exists(Arc<str>),
    /// `DoesNotExist`
    DoesNotExist(Arc<str>),
}

/// A label selector: all requirements hold. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(
    /// `matchLabels` and `matchExpressions`, sorted and without duplicates so that equal selectors compare equal.
    pub Vec<Requirement>,
);

/// Which namespaces a peer's pods are taken from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceScope {
    /// No `namespaceSelector`: the namespace named here, the policy's own.
    Named(Arc<str>),
    /// `namespaceSelector`
    Matching(Selector),
}

/// One entry of `from` or `to` (`NetworkPolicyPeer`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// `podSelector` and/or `namespaceSelector`.
    Pods {
        /// Whose pods.
        namespaces: NamespaceScope,
        /// Which of them.
        pods: Selector,
    },
    /// `ipBlock`
    Block {
        /// `cidr`, masked.
        cidr: IpNet,
        /// `except`, masked, each inside `cidr`; sorted.
        except: Vec<IpNet>,
    },
    /// An empty peer `{}`, or one that could not be parsed: matches nothing. It keeps its place so that a list of
    /// nothing but broken peers does not turn into an empty list, which would mean "anyone".
    Nothing,
}

/// One entry of a rule's `ports` (`NetworkPolicyPort`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// `protocol`, TCP when unset.
    pub protocol: Protocol,
    /// `port` and `endPort`
    pub ports: PortMatch,
}

/// The ports that one [`Port`] entry names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// `port` unset: every port of the protocol.
    Any,
    /// `port` to `endPort`, both included; equal when `endPort` is unset.
    Range(u16, u16),
    /// A named port: resolved on the destination pod.
    Named(Arc<str>),
    /// Could not be parsed: matches nothing, but keeps the list from being empty.
    Nothing,
}

/// One ingress or egress rule. Peers and ports are both to match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// `from` or `to`. Empty: any source or destination.
    pub peers: Vec<Peer>,
    /// `ports`. Empty: every port of every protocol, those without ports included.
    pub ports: Vec<Port>,
}

/// The direction of traffic, as the isolated pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What the pod gets.
    Ingress,
    /// What the pod sends.
    Egress,
}

/// A `NetworkPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// `metadata.namespace` and `metadata.name`
    pub id: NamespacedName,
    /// `spec.podSelector`: the subjects, in the policy's own namespace.
    pub pod_selector: Selector,
    /// Ingress rules, or `None` where `policyTypes` (defaults filled in) does not hold `Ingress`.
    pub ingress: Option<Vec<Rule>>,
    /// Egress rules, or `None` where `policyTypes` (defaults filled in) does not hold `Egress`.
    pub egress: Option<Vec<Rule>>,
}

/// A Service: the frontends under which backends can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace` and `metadata.name`
    pub id: NamespacedName,
    /// `spec.clusterIPs`; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` and the addresses of `status.loadBalancer.ingress`.
    pub external_ips: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; none where somebody else writes the Service's endpoint slices.
    pub selector: Option<Selector>,
    /// `spec.internalTrafficPolicy` is `Local`: cluster addresses lead to backends of the sender's node alone.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`: node ports and external addresses lead to backends of the node alone,
    /// and nobody masquerades the client.
    pub external_local: bool,
    /// `spec.sessionAffinity` is `ClientIP`: a client keeps its backend this long after its last connection. Policy has no
    /// use for it, the lab translates by it.
    pub session_affinity: Option<Duration>,
}

/// One entry of a Service's `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, by which endpoint slices refer to it; none where the Service has but one.
    pub name: Option<Arc<str>>,
    /// `protocol`, TCP when unset.
    pub protocol: Protocol,
    /// `port`, of the frontend.
    pub port: u16,
    /// `targetPort`, `port` when unset.
    pub target: TargetPort,
    /// `nodePort`
    pub node_port: Option<u16>,
}

/// Where a Service port leads (`targetPort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A name, resolved on each backend pod.
    Named(Arc<str>),
}

/// An `EndpointSlice`: some of a Service's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `metadata.namespace` and `metadata.name`
    pub id: NamespacedName,
    /// Label `kubernetes.io/service-name`; a slice without it belongs to no Service.
    pub service: Option<Arc<str>>,
    /// `ports`: name of the Service's port, protocol, and the backends' port.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`
    pub endpoints: Vec<Endpoint>,
}

/// One entry of a slice's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`; empty counts as none.
    pub name: Option<Arc<str>>,
    /// `protocol`, TCP when unset.
    pub protocol: Protocol,
    /// `port`; unset means that the consumer may choose, which no proxy does.
    pub port: Option<u16>,
}

/// One entry of a slice's `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`, which are all of one backend. Host names are left out.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, true when unset.
    pub ready: bool,
    /// `conditions.serving`, as `ready` when unset.
    pub serving: bool,
    /// `conditions.terminating`, false when unset.
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<Arc<str>>,
}

/// Any object that policy looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A policy.
    NetworkPolicy(NetworkPolicy),
    /// A Service.
    Service(Service),
    /// Some of a Service's backends.
    EndpointSlice(EndpointSlice),
}

/// Names an object, for deletes and for messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    /// A namespace by name.
    Namespace(Arc<str>),
    /// A node by name.
    Node(Arc<str>),
    /// A pod.
    Pod(NamespacedName),
    /// A policy.
    NetworkPolicy(NamespacedName),
    /// A Service.
    Service(NamespacedName),
    /// Some of a Service's backends.
    EndpointSlice(NamespacedName),
}

impl Object {
    /// The name of the object.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Namespace(namespace) => ObjectRef::Namespace(namespace.name.clone()),
            Self::Node(node) => ObjectRef::Node(node.name.clone()),
            Self::Pod(pod) => ObjectRef::Pod(pod.id.clone()),
            Self::NetworkPolicy(policy) => ObjectRef::NetworkPolicy(policy.id.clone()),
            Self::Service(service) => ObjectRef::Service(service.id.clone()),
            Self::EndpointSlice(slice) => ObjectRef::EndpointSlice(slice.id.clone()),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(id) => write!(f, "Pod {id}"),
            Self::NetworkPolicy(id) => write!(f, "NetworkPolicy {id}"),
            Self::Service(id) => write!(f, "Service {id}"),
            Self::EndpointSlice(id) => write!(f, "EndpointSlice {id}"),
        }
    }
}

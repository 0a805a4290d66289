//! What each statement of the specification says, asked of the compiler's tables and of the reference alike.
//!
//! Each case is a few objects and questions: source, destination, traffic, and the answer. An end is `namespace/pod`
//! (at its first address) or an address. Numbers name the statements.

mod exemptions;
mod isolation;
mod peers;
mod ports;
mod services;

use std::net::IpAddr;

use crate::engine::{Engine, Scope};
use crate::model::{Direction, EndpointSlice, NetworkPolicy, Object, Pod, Protocol, Service};
use crate::reference::{self, Endpoint, Traffic};
use crate::tables::{ClassId, Tables};
use crate::testkit::Cluster;

impl From<Pod> for Object {
    fn from(pod: Pod) -> Self {
        Self::Pod(pod)
    }
}

impl From<NetworkPolicy> for Object {
    fn from(policy: NetworkPolicy) -> Self {
        Self::NetworkPolicy(policy)
    }
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Self::Service(service)
    }
}

impl From<EndpointSlice> for Object {
    fn from(slice: EndpointSlice) -> Self {
        Self::EndpointSlice(slice)
    }
}

/// Objects of several types as one list.
macro_rules! objects {
    ($($object:expr),* $(,)?) => { vec![$(crate::model::Object::from($object)),*] };
}
use objects;

const TCP_80: Traffic = Traffic::Port(Protocol::Tcp, 80);
const ICMP: Traffic = Traffic::Portless;

fn tcp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Tcp, port)
}

fn udp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Udp, port)
}

fn sctp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Sctp, port)
}

fn end(cluster: &Cluster, text: &str) -> Endpoint {
    if let Ok(address) = text.parse() {
        return cluster.endpoint(address);
    }
    let pod = cluster.pods().find(|pod| pod.id.to_string() == text).expect("a pod of the case");
    Endpoint { pod: Some(pod.id.clone()), address: pod.addresses[0] }
}

/// The tables of the node that a pod is on; `None` where no agent judges.
fn tables(cluster: &Cluster, end: &Endpoint) -> Option<Tables> {
    let pod = cluster.pods().find(|pod| Some(&pod.id) == end.pod.as_ref())?;
    let node = pod.node.clone()?;
    let mut engine = Engine::new(Scope::Node(node.clone()), ClassId(1));
    engine.set_local_addresses(cluster.node_addresses(&node));
    for object in &cluster.objects {
        engine.apply(object.clone());
    }
    Some(engine.tables())
}

fn compiled(cluster: &Cluster, source: &Endpoint, destination: &Endpoint, traffic: Traffic) -> bool {
    let side = |this: &Endpoint, direction, remote: IpAddr| {
        let Some((tables, pod)) = tables(cluster, this).zip(this.pod.as_ref()) else { return true };
        let ports = tables.ports(pod, direction, remote);
        match traffic {
            Traffic::Port(protocol, port) => ports.allows(protocol, port),
            Traffic::Portless => ports.allows_portless(),
        }
    };
    side(source, Direction::Egress, destination.address)
        && side(destination, Direction::Ingress, source.address)
}

/// Checks answers: source, destination, traffic, whether it passes.
fn check(statement: &str, objects: Vec<Object>, questions: &[(&str, &str, Traffic, bool)]) {
    let cluster = Cluster { objects, externals: Vec::new() };
    for (from, to, traffic, expected) in questions {
        let (source, destination) = (end(&cluster, from), end(&cluster, to));
        let question = format!("{statement}: {from} to {to}, {traffic:?}");
        assert_eq!(compiled(&cluster, &source, &destination, *traffic), *expected, "compiler, {question}");
        let reference = reference::allowed(&cluster.objects, &source, &destination, *traffic);
        assert_eq!(reference, *expected, "reference, {question}");
    }
}

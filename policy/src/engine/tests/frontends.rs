//! Frontends of Services as a node's pods meet them.

use crate::engine::{Engine, Scope};
use crate::model::{Object, Protocol};
use crate::ports::PortSet;
use crate::services::Frontend;
use crate::tables::{ClassId, FrontendEntry, Tables};
use crate::testkit::build::{endpoint, namespace, node, pod, pods, policy, rule, service, slice, tcp};

/// A client that may send to `role: good` on port 8080, and a Service with a pod of another node behind it.
fn engine(in_front: bool) -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    if in_front {
        engine.judge_in_front_of_services();
    }
    let slice =
        slice("a", "web", "web-1").port("", Protocol::Tcp, 8080).with(endpoint("10.0.1.1").on("node-b"));
    for object in [
        namespace("a", &[]),
        node("node-a", &["192.0.2.1"]),
        node("node-b", &["192.0.2.2"]),
        Object::Pod(pod("a", "client", "10.0.0.1").labelled(&[("app", "client")])),
        backend("good"),
        Object::NetworkPolicy(
            policy("a", "p")
                .selecting(&[("app", "client")])
                .egress([rule([pods("a", &[("role", "good")])], [tcp(8080)])]),
        ),
        Object::Service(
            service("a", "web", &["10.96.0.1"]).port("", Protocol::Tcp, 80, "8080").node_port(30080),
        ),
        Object::EndpointSlice(slice),
    ] {
        engine.apply(object);
    }
    let _ = engine.plan();
    engine
}

fn backend(role: &str) -> Object {
    Object::Pod(pod("a", "web", "10.0.1.1").labelled(&[("role", role)]).on("node-b"))
}

fn entry(tables: &Tables, address: &str, port: u16) -> Option<FrontendEntry> {
    let address = address.parse().expect("an address");
    tables.frontends.get(&Frontend { address, protocol: Protocol::Tcp, port }).copied()
}

/// What the client may send to a frontend whose backends are judged together.
fn together(engine: &mut Engine, address: &str, port: u16) -> PortSet {
    let tables = engine.tables();
    let Some(FrontendEntry::Together(class)) = entry(&tables, address, port) else {
        panic!("{address} {port} is not judged together:\n{tables}");
    };
    let client = tables.subjects.values().next().expect("the client is isolated").egress;
    tables.verdicts.get(&(client, class)).cloned().unwrap_or_default()
}

#[test]
fn another_node_chooses_for_its_node_port_alone() {
    let tables = engine(false).tables();
    assert_eq!(entry(&tables, "10.96.0.1", 80), Some(FrontendEntry::BehindNat));
    assert_eq!(entry(&tables, "192.0.2.1", 30080), None, "what goes to the own node is judged where it ends");
    assert!(matches!(entry(&tables, "192.0.2.2", 30080), Some(FrontendEntry::Together(_))));
    let tables = engine(true).tables();
    for (address, port) in [("10.96.0.1", 80), ("192.0.2.1", 30080), ("192.0.2.2", 30080)] {
        assert!(matches!(entry(&tables, address, port), Some(FrontendEntry::Together(_))), "{address}");
    }
}

#[test]
fn what_is_known_of_a_backend_is_known_of_its_frontends() {
    for (in_front, address, port) in [(false, "192.0.2.2", 30080), (true, "10.96.0.1", 80)] {
        let mut engine = engine(in_front);
        assert_eq!(together(&mut engine, address, port), PortSet::Everything);
        engine.apply(backend("bad"));
        assert!(together(&mut engine, address, port).is_nothing(), "after the pod's labels changed");
        engine.apply(backend("good"));
        assert_eq!(together(&mut engine, address, port), PortSet::Everything);
    }
}

#[test]
fn without_backends_there_is_no_frontend() {
    let mut engine = engine(false);
    let empty = slice("a", "web", "web-1").port("", Protocol::Tcp, 8080);
    engine.apply(Object::EndpointSlice(empty));
    assert_eq!(engine.tables().frontends.len(), 0);
}

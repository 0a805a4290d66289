//! One namespace's policies take no more than their share, and cost others nothing.

use std::net::IpAddr;

use crate::engine::{Budget, Engine, Scope};
use crate::model::{Direction, NamespacedName, NetworkPolicy, Object, ObjectRef, Protocol};
use crate::plan::Action;
use crate::ports::PortSet;
use crate::tables::ClassId;
use crate::testkit::build::{block, namespace, pod, policy, range, rule, tcp};

/// Two tenants, a pod each, and room for 30 verdicts and 40 ranges of each.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    let pages_of = |ports: &PortSet| ports.ranges().map_or(0, <[_]>::len);
    engine.limit(Budget { verdicts: 30, pages: 40, prefixes: 50, pages_of });
    for object in [
        namespace("bad", &[]),
        namespace("good", &[]),
        Object::Pod(pod("bad", "web", "10.0.0.1")),
        Object::Pod(pod("good", "web", "10.0.0.2")),
    ] {
        engine.apply(object);
    }
    let _ = engine.plan();
    engine
}

fn allowed(engine: &mut Engine, namespace: &str, port: u16) -> bool {
    let from: IpAddr = [192, 0, 2, 1].into();
    let pod = NamespacedName::new(namespace, "web");
    engine.tables().ports(&pod, Direction::Ingress, from).allows(Protocol::Tcp, port)
}

/// From anywhere in this block, so many ports.
fn ports(namespace: &str, name: &str, count: u16) -> NetworkPolicy {
    let ports: Vec<_> =
        (0..count).map(|number| range(Protocol::Tcp, 80 + 10 * number, 85 + 10 * number)).collect();
    policy(namespace, name).ingress([rule([block("192.0.2.0/24", &[])], ports)])
}

fn refused(engine: &Engine) -> Vec<String> {
    engine.refused().map(|refused| refused.to_string()).collect()
}

#[test]
fn a_policy_beyond_its_namespaces_budget_allows_nothing_and_costs_others_nothing() {
    let mut engine = engine();
    engine.apply(Object::NetworkPolicy(ports("bad", "small", 3)));
    engine.apply(Object::NetworkPolicy(ports("good", "small", 3)));
    assert!(!engine.plan().is_empty());
    assert!(refused(&engine).is_empty());

    engine.apply(Object::NetworkPolicy(ports("bad", "hostile", 60)));
    let plan = engine.plan();
    let [message] = &refused(&engine)[..] else { panic!("{:?}", refused(&engine)) };
    assert!(message.starts_with("NetworkPolicy bad/hostile allows nothing for now:"), "{message}");
    assert!(message.contains("60 pages of ports"), "{message}");
    // What the namespace had stays.
    assert!(allowed(&mut engine, "bad", 80) && !allowed(&mut engine, "bad", 200));
    let installed = plan.steps.iter().filter(|step| matches!(step, Action::InstallVerdict { .. })).count();
    assert_eq!(installed, 0, "{plan:#?}");

    // The other tenant's change goes through.
    engine.apply(Object::NetworkPolicy(ports("good", "small", 2)));
    let plan = engine.plan();
    assert!(plan.steps.iter().any(|step| matches!(step, Action::SetSubject { .. })));
    assert!(allowed(&mut engine, "good", 90) && !allowed(&mut engine, "good", 100));
    assert_eq!(refused(&engine).len(), 1);

    // Trying again comes to nothing, and writes nothing.
    assert!(engine.reconsider());
    assert!(engine.plan().is_empty());
    assert_eq!(refused(&engine).len(), 1);

    // It gets smaller.
    engine.apply(Object::NetworkPolicy(ports("bad", "hostile", 30)));
    assert!(!engine.plan().is_empty());
    assert!(refused(&engine).is_empty());
    assert!(allowed(&mut engine, "bad", 200));
}

#[test]
fn a_refused_policy_isolates() {
    let mut engine = engine();
    engine.apply(Object::NetworkPolicy(ports("bad", "hostile", 60)));
    assert!(!engine.plan().is_empty());
    assert!(!allowed(&mut engine, "bad", 80));
    assert!(engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new("bad", "hostile"))));
    let _ = engine.plan();
    assert!(refused(&engine).is_empty());
    assert!(allowed(&mut engine, "bad", 80));
}

#[test]
fn peers_and_prefixes_count_too() {
    let blocks = |count: u8, port: fn(u8) -> u16| {
        let rules = (0..count)
            .map(move |number| rule([block(&format!("198.51.{number}.0/24"), &[])], [tcp(port(number))]));
        policy("bad", "hostile").ingress(rules.collect::<Vec<_>>())
    };
    for (count, what) in [(20, None), (31, Some("31 verdicts")), (60, Some("verdicts"))] {
        let mut engine = engine();
        engine.apply(Object::NetworkPolicy(blocks(count, |number| 1000 + u16::from(number))));
        let _ = engine.plan();
        match (what, &refused(&engine)[..]) {
            (None, []) => {}
            (Some(what), [message]) => assert!(message.contains(what), "{message}"),
            (what, messages) => panic!("{what:?}: {messages:?}"),
        }
    }
    let mut engine = engine();
    let many = (0..60).map(|number| block(&format!("198.51.{number}.0/24"), &[]));
    engine.apply(Object::NetworkPolicy(
        policy("bad", "hostile").ingress([rule(many.collect::<Vec<_>>(), [tcp(1)])]),
    ));
    let _ = engine.plan();
    assert!(refused(&engine).iter().any(|message| message.contains("bad/hostile")), "{:?}", refused(&engine));
}

#[test]
fn where_maps_are_full_all_the_same_whoever_takes_most_makes_room() {
    let mut engine = engine();
    engine.apply(Object::NetworkPolicy(ports("bad", "large", 35)));
    engine.apply(Object::NetworkPolicy(ports("good", "small", 3)));
    let _ = engine.plan();
    assert!(engine.refuse_most());
    let recorded = engine.tables();
    let _ = engine.recover(&recorded);
    let [message] = &refused(&engine)[..] else { panic!("{:?}", refused(&engine)) };
    assert!(message.starts_with("NetworkPolicy bad/large"), "{message}");
    assert!(!allowed(&mut engine, "bad", 80) && allowed(&mut engine, "good", 80));
    assert!(!engine.reconsider(), "the kernel's word stands until the namespace's policies change");
}

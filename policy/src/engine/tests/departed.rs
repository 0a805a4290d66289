//! Pods that go are subjects for as long as somebody says so.

use std::collections::BTreeSet;

use crate::engine::{Engine, Scope};
use crate::model::{Direction, NamespacedName, Object, ObjectRef};
use crate::plan::Action;
use crate::tables::{ClassId, Tables};
use crate::testkit::build::{namespace, pod, pods, policy, rule, tcp};

/// A subject `a/web` that admits `app: x`, and one such pod elsewhere.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    engine.keep_departed();
    for object in [
        namespace("a", &[]),
        Object::Pod(pod("a", "web", "10.0.0.1").labelled(&[("app", "web")])),
        Object::Pod(pod("a", "x", "10.0.0.2").labelled(&[("app", "x")]).on("node-b")),
        Object::NetworkPolicy(
            policy("a", "p")
                .selecting(&[("app", "web")])
                .ingress([rule([pods("a", &[("app", "x")])], [tcp(80)])])
                .egress([]),
        ),
    ] {
        engine.apply(object);
    }
    let _ = engine.plan();
    engine
}

fn web() -> ObjectRef {
    ObjectRef::Pod(NamespacedName::new("a", "web"))
}

/// Whether the pod that has departed admits an address to a port.
fn admits(engine: &mut Engine, address: &str, port: u16) -> bool {
    let departed: Vec<_> = engine.departed_pods().cloned().collect();
    let [departed] = &departed[..] else { panic!("{departed:?}") };
    let tables = engine.tables();
    let subjects = [(NamespacedName::new("it", "is"), departed.subject.clone())].into();
    let tables = Tables { subjects, ..tables };
    let ports = tables.ports(&NamespacedName::new("it", "is"), Direction::Ingress, address.parse().unwrap());
    ports.allows(crate::model::Protocol::Tcp, port)
}

#[test]
fn its_rules_stay_and_its_peers_are_followed() {
    for finished in [false, true] {
        let mut engine = engine();
        if finished {
            engine.apply(pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]).finished().into());
        } else {
            engine.delete(&web());
        }
        assert_eq!(engine.take_departures(), [NamespacedName::new("a", "web")]);
        let steps = engine.plan().steps;
        assert_eq!(steps, [Action::RemoveSubject { pod: NamespacedName::new("a", "web") }]);
        assert!(admits(&mut engine, "10.0.0.2", 80) && !admits(&mut engine, "10.0.0.2", 81));
        engine.apply(pod("a", "x2", "10.0.0.3").labelled(&[("app", "x")]).on("node-b").into());
        engine.delete(&ObjectRef::Pod(NamespacedName::new("a", "x")));
        assert!(admits(&mut engine, "10.0.0.3", 80) && !admits(&mut engine, "10.0.0.2", 80));
        // Neither what policies say later counts, nor that there are any.
        engine.apply(policy("a", "open").ingress([rule([], [])]).into());
        engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new("a", "p")));
        engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new("a", "open")));
        assert!(admits(&mut engine, "10.0.0.3", 80) && !admits(&mut engine, "10.0.0.9", 80));
    }
}

#[test]
fn nothing_stays_of_who_is_forgotten() {
    let mut engine = engine();
    engine.delete(&web());
    let _ = engine.plan();
    assert!(!engine.tables().verdicts.is_empty());
    engine.forget_departed(&engine.departed_pods().map(|it| it.key).collect());
    assert!(engine.plan().is_empty(), "it is kept");
    engine.forget_departed(&BTreeSet::new());
    let steps = engine.plan().steps;
    let removed = steps.iter().filter(|step| matches!(step, Action::RemoveVerdict { .. })).count();
    assert_eq!(removed, 1, "{steps:?}");
    assert_eq!(engine.departed_pods().count(), 0);
    assert!(engine.tables().verdicts.is_empty() && engine.tables().peers.is_empty());
}

#[test]
fn classes_go_though_no_entry_changes() {
    let mut engine = engine();
    engine.apply(pod("a", "other", "10.0.0.5").labelled(&[("app", "other")]).into());
    // The same peers, so that none changes.
    let rules = [rule([pods("a", &[("app", "x")])], [tcp(443)])];
    engine.apply(policy("a", "q").selecting(&[("app", "other")]).ingress(rules).into());
    engine.delete(&web());
    let _ = engine.plan();
    engine.forget_departed(&BTreeSet::new());
    let steps = engine.plan().steps;
    assert!(steps.iter().any(|step| matches!(step, Action::RemoveVerdict { .. })), "{steps:?}");
}

#[test]
fn the_same_name_is_another_pod() {
    let known = || pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]);
    let is_another = |uids: (u64, u64), address: &str| {
        let mut engine = engine();
        engine.apply(Object::Pod(crate::model::Pod { uid: uids.0, ..known() }));
        let mut new = pod("a", "web", address).labelled(&[("app", "web")]);
        new.uid = uids.1;
        engine.apply(Object::Pod(new));
        engine.departed_pods().count() == 1
    };
    assert!(is_another((1, 2), "10.0.0.1"));
    assert!(!is_another((1, 1), "10.0.0.7"), "its sandbox was made anew");
    assert!(is_another((0, 0), "10.0.0.7"));
    assert!(!is_another((0, 0), "10.0.0.1"));
    assert!(!is_another((0, 0), "none any more"));
}

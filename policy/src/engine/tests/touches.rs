//! An event touches only what it concerns.

use crate::engine::{Engine, Scope};
use crate::model::{NamespaceScope, Object, Peer, Requirement, Selector};
use crate::plan::Action;
use crate::tables::ClassId;
use crate::testkit::build::{namespace, pod, pods, policy, rule, tcp};

/// A subject `a/web` that admits `app: x`, and one other pod of it.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    for object in [
        namespace("a", &[]),
        Object::Pod(pod("a", "web", "10.0.0.1").labelled(&[("app", "web")])),
        Object::Pod(pod("a", "x", "10.0.0.2").labelled(&[("app", "x")]).on("node-b")),
        Object::NetworkPolicy(
            policy("a", "p")
                .selecting(&[("app", "web")])
                .ingress([rule([pods("a", &[("app", "x")])], [tcp(80)])]),
        ),
    ] {
        engine.apply(object);
    }
    let _ = engine.plan();
    engine
}

fn names(engine: &mut Engine) -> Vec<&'static str> {
    let plan = engine.plan();
    plan.steps
        .iter()
        .map(|action| match action {
            Action::InstallVerdict { .. } => "install",
            Action::SetPeer { .. } => "set peer",
            Action::RemovePeer { .. } => "remove peer",
            Action::SetFrontend { .. } => "set frontend",
            Action::RemoveFrontend { .. } => "remove frontend",
            Action::SetSubject { .. } => "set subject",
            Action::RemoveSubject { .. } => "remove subject",
            Action::AdvanceGeneration => "advance",
            Action::RemoveVerdict { .. } => "remove",
        })
        .collect()
}

#[test]
fn remote_pods() {
    let mut engine = engine();
    let x = |name: &str, address: &str| pod("a", name, address).labelled(&[("app", "x")]).on("node-b");
    engine.apply(x("x2", "10.0.0.3").into());
    assert_eq!(names(&mut engine), ["set peer"], "one more of a known kind");
    engine.apply(x("x2", "10.0.0.3").labelled(&[("app", "x"), ("build", "7")]).into());
    assert!(names(&mut engine).is_empty(), "a label that no selector sees");
    engine.apply(pod("a", "y", "10.0.0.4").on("node-b").into());
    assert!(names(&mut engine).is_empty(), "a pod that no rule names");
    engine.delete(&Object::from(x("x2", "")).reference());
    assert_eq!(names(&mut engine), ["remove peer", "advance"], "its flows may not go on");
}

#[test]
fn local_pods_and_policies() {
    let mut engine = engine();
    engine.apply(pod("a", "web2", "10.0.0.9").labelled(&[("app", "web")]).into());
    assert_eq!(names(&mut engine), ["set subject", "advance"], "one more with known rules");
    engine.apply(policy("b", "elsewhere").ingress([]).into());
    assert!(names(&mut engine).is_empty(), "a policy that selects nobody here");
    engine.apply(policy("a", "same").selecting(&[("app", "web")]).ingress([]).into());
    assert!(names(&mut engine).is_empty(), "a policy that adds nothing");
    let wider = policy("a", "more").selecting(&[("app", "web")]);
    engine.apply(wider.ingress([rule([pods("a", &[("app", "x")])], [tcp(81)])]).into());
    assert_eq!(
        names(&mut engine),
        ["install", "set subject", "set subject", "advance", "remove"],
        "new rules for known addresses"
    );
}

#[test]
fn events_between_plans_are_one_transition() {
    let mut engine = engine();
    let x = pod("a", "x", "10.0.0.2").on("node-b");
    engine.apply(x.clone().into());
    engine.apply(x.labelled(&[("app", "x")]).into());
    assert!(names(&mut engine).is_empty());
}

#[test]
fn a_value_listed_twice_is_one() {
    let twice = |engine: &mut Engine| {
        let values = vec!["x".into(), "x".into()];
        let mut policy = policy("a", "p").selecting(&[("app", "web")]);
        policy = policy.ingress([rule(
            [Peer::Pods {
                namespaces: NamespaceScope::Named("a".into()),
                pods: Selector(vec![Requirement::In("app".into(), values)]),
            }],
            [tcp(80)],
        )]);
        engine.apply(policy.into());
    };
    let (mut late, mut early) = (engine(), Engine::new(Scope::Node("node-a".into()), ClassId(1)));
    twice(&mut late);
    twice(&mut early);
    early.apply(pod("a", "web", "10.0.0.1").labelled(&[("app", "web")]).into());
    early.apply(namespace("a", &[]));
    early.apply(pod("a", "x", "10.0.0.2").labelled(&[("app", "x")]).on("node-b").into());
    assert_eq!(late.dump(), early.dump());
}

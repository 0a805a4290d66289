//! Three answers to every question about random clusters: the reference's, the compiled tables', and the loaded
//! programs' for a frame. They agree.
//!
//! The programs are loaded once for each test, and every cluster goes through the same maps: loading them anew would
//! take longer than all the questions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;

use postern_policy::model::{Direction, Object, ObjectRef};
use postern_policy::reference::{self, Traffic};
use postern_policy::testkit::{self, Cluster, History};
use postern_policy::{Engine, LocalPod};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestCaseResult, TestError, TestRunner};

use crate::node::{self, Identity, Node};
use crate::traffic::Place;

/// Every so many clusters, an agent takes over from another one, and everything is read back from the maps.
const RESTARTS: u32 = 16;

#[test]
fn all_three_agree_on_random_clusters() {
    let state = RefCell::new((Node::new(), 0));
    run(testkit::cases(1000), testkit::cluster(), testkit::yaml, |cluster| {
        let (node, number) = &mut *state.borrow_mut();
        *number += 1;
        for name in cluster.nodes() {
            check_cluster(node, cluster, &name, *number % RESTARTS == 0)?;
        }
        Ok(())
    });
    let (node, number) = state.into_inner();
    assert!(node.judged() > 500 * u64::from(number), "{} frames for {number} clusters", node.judged());
    println!("{} frames for {number} clusters", node.judged());
}

#[test]
fn all_three_agree_after_every_event_of_random_histories() {
    let node = RefCell::new(Node::new());
    run(testkit::cases(400), testkit::history(), events, |history| {
        check_history(&mut node.borrow_mut(), history)
    });
    println!("{} frames", node.into_inner().judged());
}

/// Asks about random values; the smallest that fails is shown.
fn run<S: Strategy>(
    cases: u32,
    strategy: S,
    show: impl Fn(&S::Value) -> String,
    check: impl Fn(&S::Value) -> TestCaseResult,
) where
    S::Value: Debug,
{
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    match TestRunner::new(config).run(&strategy, |value| check(&value)) {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{reason}\n{}", show(&value)),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// A history to read: each event as the manifests that it brings.
fn events(history: &History) -> String {
    let event = |event: &Result<Object, ObjectRef>| match event {
        Ok(object) => {
            let objects = vec![object.clone()];
            format!("# comes\n{}", testkit::yaml(&Cluster { objects, externals: Vec::new() }))
        }
        Err(reference) => format!("# goes: {reference}\n"),
    };
    history.groups.iter().flatten().map(event).collect::<Vec<_>>().join("---\n")
}

fn check_cluster(node: &mut Node, cluster: &Cluster, name: &str, restart: bool) -> TestCaseResult {
    if restart {
        node.restart();
    }
    let mut engine = node.engine(name);
    engine.set_local_addresses(cluster.node_addresses(name));
    for object in &cluster.objects {
        engine.apply(object.clone());
    }
    let plan = engine.recover(node.recorded());
    node.execute(&plan, engine.tables());
    if restart {
        node.sweep();
        check_maps(node)?;
    }
    let identity = node.identity();
    compare(
        node,
        cluster,
        &engine,
        &Questions { name, traffic: testkit::traffic().collect(), identity, place: Place::First },
    )
}

/// What one event leaves unasked, the next ones ask: every third to fourth kind of traffic, others each time.
const SHARE: usize = 4;

/// Every so many events, one is undone and done again.
const FRO: usize = 2;

fn check_history(node: &mut Node, history: &History) -> TestCaseResult {
    let name = "node-a";
    let mut engine = node.engine(name);
    let plan = engine.recover(node.recorded());
    node.execute(&plan, engine.tables());
    let mut objects = BTreeMap::new();
    let mut earlier: Option<Questions> = None;
    for (index, event) in history.groups.iter().flatten().enumerate() {
        let (reference, object) = match event {
            Ok(object) => (object.reference(), Some(object.clone())),
            Err(reference) => (reference.clone(), None),
        };
        let before = objects.get(&reference).cloned();
        let mut becomes = |node: &mut Node, engine: &mut Engine, object: Option<Object>| {
            if let Some(object) = object {
                objects.insert(reference.clone(), object.clone());
                engine.apply(object);
            } else {
                objects.remove(&reference);
                engine.delete(&reference);
            }
            let externals = history.last.externals.clone();
            let cluster = Cluster { objects: objects.values().cloned().collect(), externals };
            engine.set_local_addresses(cluster.node_addresses(name));
            let plan = engine.plan();
            node.execute(&plan, engine.tables());
            cluster
        };
        let cluster = becomes(node, &mut engine, object.clone());

        // What was allowed before the event has a flow now: it passes if, and only if, policy allows it still.
        if let Some(earlier) = &earlier {
            compare(node, &cluster, &engine, earlier)?;
            if index % FRO == 0 {
                // To and fro: what was denied meanwhile goes on, and what was allowed meanwhile does not.
                for object in [before, object] {
                    let cluster = becomes(node, &mut engine, object);
                    compare(node, &cluster, &engine, earlier)?;
                }
            }
        }
        let traffic = testkit::traffic().skip(index % SHARE).step_by(SHARE).collect();
        let mut questions = Questions { name, traffic, identity: node.identity(), place: Place::First };
        compare(node, &cluster, &engine, &questions)?;
        questions.place = Place::Later;
        earlier = Some(questions);
    }
    check_maps(node)
}

/// The maps hold what was written, and nothing else.
fn check_maps(node: &Node) -> TestCaseResult {
    let (read, recorded) = (node.read(), node.recorded());
    if read == *recorded {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("the maps hold\n{read}and are to hold\n{recorded}")))
}

/// What is asked about each pair of a local pod and a remote address.
struct Questions<'a> {
    name: &'a str,
    traffic: Vec<Traffic>,
    identity: Identity,
    place: Place,
}

fn compare(node: &mut Node, cluster: &Cluster, engine: &Engine, questions: &Questions<'_>) -> TestCaseResult {
    let before = node.counted();
    // Two pods of a history may claim one address for a while: whose it is then, nobody says.
    let claims = |address: &IpAddr| {
        let live = cluster.pods().filter(|pod| !pod.host_network && !pod.finished);
        live.filter(|pod| pod.addresses.contains(address)).count()
    };
    let remotes: BTreeSet<IpAddr> =
        cluster.addresses().into_iter().filter(|address| claims(address) <= 1).collect();
    for local in engine.local_pods() {
        node.guard(&local.subject);
        for own in local.pod.addresses.iter().filter(|own| claims(own) == 1) {
            // One frame has addresses of one family, and what a pod sends to itself reaches no veth.
            let remotes = remotes.iter().filter(|remote| remote.is_ipv4() == own.is_ipv4());
            for remote in remotes.filter(|remote| !local.pod.addresses.contains(remote)) {
                for direction in [Direction::Ingress, Direction::Egress] {
                    compare_pair(node, cluster, engine, questions, &local, direction, (*own, *remote))?;
                }
            }
        }
    }
    if questions.place == Place::Later {
        return Ok(());
    }
    // An earlier flow that had answered for a question would have been counted as one.
    let after = node.counted();
    for direction in [Direction::Ingress, Direction::Egress] {
        let counted = after.since(&before, direction);
        if !counted.iter().all(|(reason, _)| node::is_policy(*reason)) {
            return Err(TestCaseError::fail(format!("{direction:?}: not only policy judged: {counted:?}")));
        }
    }
    Ok(())
}

fn compare_pair(
    node: &Node,
    cluster: &Cluster,
    engine: &Engine,
    questions: &Questions<'_>,
    local: &LocalPod,
    direction: Direction,
    (own, remote): (IpAddr, IpAddr),
) -> TestCaseResult {
    let this = reference::Endpoint { pod: Some(local.pod.id.clone()), address: own };
    let other = cluster.endpoint(remote);
    let (source, destination) = match direction {
        Direction::Ingress => (&other, &this),
        Direction::Egress => (&this, &other),
    };
    let ports = node.recorded().ports(&local.pod.id, direction, remote);
    for traffic in &questions.traffic {
        let expected = reference::allowed_by(&cluster.objects, direction, source, destination, *traffic);
        let compiled = match traffic {
            Traffic::Port(protocol, port) => ports.allows(*protocol, *port),
            Traffic::Portless => ports.allows_portless(),
        };
        // A pod that is not isolated carries no programs.
        let programs = if local.subject.is_isolated() {
            node.passes(direction, (own, remote), *traffic, questions.identity, questions.place)
        } else {
            Some(compiled)
        };
        if compiled != expected || programs != Some(expected) {
            return Err(TestCaseError::fail(format!(
                "on {}, {direction:?} of {} ({own}), peer {remote} ({:?}), {traffic:?}, {:?} packet:\nreference: \
                 {expected}, tables: {compiled}, programs: {programs:?}\n{}",
                questions.name,
                local.pod.id,
                other.pod.as_ref().map(ToString::to_string),
                questions.place,
                engine.dump(),
            )));
        }
    }
    Ok(())
}

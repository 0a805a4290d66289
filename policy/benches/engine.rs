//! What an event costs one node's engine in a cluster of 10,000 pods and 1,000 policies.
//!
//! 100 namespaces, 91 nodes of 110 pods; each namespace has ten apps and ten policies: default deny, a rule for each
//! neighbouring app, DNS, a monitoring namespace, and blocks with exceptions. Each event is followed by `plan()`, and
//! undone (and planned again) outside the measured time.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use postern_policy::model::{NetworkPolicy, Object, Pod, Protocol};
use postern_policy::testkit::build::{block, namespace, node, pod, pods, pods_of, policy, range, rule, tcp};
use postern_policy::{ClassId, Engine, Scope};

const NAMESPACES: u32 = 100;
const PODS: u32 = 10_000;
const PODS_PER_NODE: u32 = 110;

fn ns(number: u32) -> String {
    format!("ns-{}", number % NAMESPACES)
}

fn app(number: u32) -> String {
    format!("app-{}", number / NAMESPACES % 10)
}

fn a_pod(number: u32) -> Pod {
    let (high, low) = (number / 250, number % 250 + 1);
    pod(&ns(number), &format!("pod-{number}"), &format!("10.{}.{}.{low}", high / 250, high % 250))
        .and_address(&format!("fd00::{number:x}"))
        .labelled(&[
            ("app", &app(number)),
            ("tier", if number.is_multiple_of(3) { "web" } else { "data" }),
            ("pod-template-hash", &format!("{:x}", number / 7)),
            ("team", &ns(number)),
        ])
        .on(&format!("node-{}", number / PODS_PER_NODE))
        .port("http", 8080, Protocol::Tcp)
}

fn a_policy(namespace: u32, number: u32) -> NetworkPolicy {
    let ns = ns(namespace);
    let policy = policy(&ns, &format!("policy-{number}"));
    let app = |number: u32| format!("app-{}", number % 10);
    match number {
        0 => policy.ingress([]).egress([]),
        1 => policy.egress([rule(
            [pods_of(&[("kubernetes.io/metadata.name", "ns-0")], &[("app", "app-0")])],
            [tcp(53), range(Protocol::Udp, 53, 53)],
        )]),
        2 => policy.ingress([rule([pods_of(&[("role", "monitoring")], &[])], [tcp(9090)])]),
        3 => policy.egress([rule([block("0.0.0.0/0", &["10.0.0.0/8", "169.254.0.0/16"])], [tcp(443)])]),
        _ => policy
            .selecting(&[("app", &app(number))])
            .ingress([rule(
                [pods(&ns, &[("app", &app(number + 1))])],
                [tcp(8080), range(Protocol::Tcp, 9000, 9010)],
            )])
            .egress([rule([pods(&ns, &[("app", &app(number + 9))])], [tcp(8080)])]),
    }
}

fn a_namespace(number: u32, role: &str) -> Object {
    namespace(&ns(number), &[("role", role)])
}

fn role(number: u32) -> &'static str {
    if number.is_multiple_of(20) { "monitoring" } else { "work" }
}

fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("node-7".into()), ClassId(1));
    for number in 0..NAMESPACES {
        engine.apply(a_namespace(number, role(number)));
        for policy in 0..10 {
            engine.apply(Object::NetworkPolicy(a_policy(number, policy)));
        }
    }
    engine.apply(node("node-7", &["172.16.0.7"]));
    for number in 0..PODS {
        engine.apply(Object::Pod(a_pod(number)));
    }
    let _ = engine.plan();
    engine
}

/// Measures `event`, then undoes it.
fn event(criterion: &mut Criterion, name: &str, engine: &mut Engine, event: &Object, undo: &Object) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let event = event.clone();
                let start = std::time::Instant::now();
                engine.apply(event);
                let _ = black_box(engine.plan());
                total += start.elapsed();
                engine.apply(undo.clone());
                let _ = engine.plan();
            }
            total
        });
    });
}

/// Measures adding and deleting an object that is not there.
fn add_and_delete(criterion: &mut Criterion, name: &str, engine: &mut Engine, object: &Object) {
    for measures_add in [true, false] {
        let name = format!("{name} {}", if measures_add { "add" } else { "delete" });
        criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let object = object.clone();
                    let reference = object.reference();
                    let start = std::time::Instant::now();
                    engine.apply(object);
                    let _ = black_box(engine.plan());
                    let added = start.elapsed();
                    let start = std::time::Instant::now();
                    engine.delete(&reference);
                    let _ = black_box(engine.plan());
                    total += if measures_add { added } else { start.elapsed() };
                }
                total
            });
        });
    }
}

fn events(criterion: &mut Criterion) {
    let mut engine = engine();
    let tables = engine.tables();
    println!(
        "{} subjects, {} peer entries, {} peer classes, {} verdicts",
        tables.subjects.len(),
        tables.peers.len(),
        tables.peer_classes().len(),
        tables.verdicts.len()
    );
    let remote = a_pod(PODS);
    let on_node = |pod: Pod| pod.on("node-7");
    add_and_delete(criterion, "remote pod", &mut engine, &remote.clone().into_object());
    add_and_delete(criterion, "local pod", &mut engine, &on_node(remote.clone()).into_object());

    let (relabelled, known) = (a_pod(900), a_pod(900));
    let relabelled = relabelled.labelled(&[("app", "app-5"), ("tier", "web")]);
    event(criterion, "remote pod relabel", &mut engine, &relabelled.into_object(), &known.into_object());
    let (relabelled, known) = (a_pod(800), a_pod(800));
    let relabelled = relabelled.labelled(&[("app", "app-5"), ("tier", "web")]);
    event(criterion, "local pod relabel", &mut engine, &relabelled.into_object(), &known.into_object());

    let broad = policy("ns-10", "more")
        .ingress([rule([pods_of(&[("role", "work")], &[("tier", "web")])], [tcp(81)])]);
    add_and_delete(criterion, "policy for 3,000 peers", &mut engine, &Object::NetworkPolicy(broad));
    let narrow = policy("ns-10", "more").ingress([rule([pods("ns-10", &[("tier", "web")])], [tcp(81)])]);
    add_and_delete(criterion, "policy", &mut engine, &Object::NetworkPolicy(narrow));
    let elsewhere = policy("elsewhere", "more").ingress([]);
    add_and_delete(criterion, "policy of no local pod", &mut engine, &Object::NetworkPolicy(elsewhere));
    event(
        criterion,
        "namespace relabel (100 pods)",
        &mut engine,
        &a_namespace(33, "monitoring"),
        &a_namespace(33, role(33)),
    );

    criterion.bench_function("everything from nothing", |bencher| {
        bencher.iter_batched(|| (), |()| self::engine(), BatchSize::PerIteration);
    });
}

trait IntoObject {
    fn into_object(self) -> Object;
}

impl IntoObject for Pod {
    fn into_object(self) -> Object {
        Object::Pod(self)
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = events
}
criterion_main!(benches);

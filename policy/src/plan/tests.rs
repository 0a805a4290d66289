//! Plans are safe after every action, whatever happened between two of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use super::simulation::Kernel;
use super::*;
use crate::engine::{Engine, Scope};
use crate::model::Object;
use crate::testkit::{self, Cluster, History};

/// Every pod and address that a history ever speaks of.
fn universe(history: &History) -> (BTreeSet<NamespacedName>, BTreeSet<IpAddr>) {
    let objects = history.groups.iter().flatten().filter_map(|event| event.as_ref().ok()).cloned();
    let cluster = Cluster { objects: objects.collect(), externals: history.last.externals.clone() };
    (cluster.pods().map(|pod| pod.id.clone()).collect(), cluster.addresses())
}

fn play(engine: &mut Engine, group: &[Result<Object, crate::model::ObjectRef>]) {
    for event in group {
        match event {
            Ok(object) => engine.apply(object.clone()),
            Err(reference) => engine.delete(reference),
        };
    }
}

fn run(
    kernel: &mut Kernel,
    plan: &Plan,
    engine: &mut Engine,
    universe: &(BTreeSet<NamespacedName>, BTreeSet<IpAddr>),
    budget: usize,
) -> Result<(), TestCaseError> {
    kernel.run(plan, &engine.tables(), &universe.0, &universe.1, budget).map_err(TestCaseError::fail)
}

fn node_a() -> Engine {
    Engine::new(Scope::Node("node-a".into()), ClassId(1))
}

proptest! {
    #![proptest_config(Config::with_cases(testkit::cases(200)))]

    #[test]
    fn every_step_of_a_plan_shows_before_or_after(
        history in testkit::history(),
        locals in proptest::collection::vec(0_usize..3, 13),
    ) {
        let universe = universe(&history);
        let mut engine = node_a();
        let mut kernel = Kernel::default();
        let mut locals = locals.into_iter();
        for group in &history.groups {
            play(&mut engine, group);
            set_locals(&mut engine, locals.next().unwrap_or_default());
            let plan = engine.plan();
            run(&mut kernel, &plan, &mut engine, &universe, usize::MAX)?;
            prop_assert!(engine.plan().is_empty());
        }
    }

    #[test]
    fn a_plan_between_full_tables_is_as_safe(history in testkit::history()) {
        let universe = universe(&history);
        let mut engine = node_a();
        let mut kernel = Kernel::default();
        for group in &history.groups {
            play(&mut engine, group);
            // Settles what the engine remembers, as an incremental plan would.
            let _ = engine.plan();
            let plan = diff(&kernel.tables(), &engine.tables());
            run(&mut kernel, &plan, &mut engine, &universe, usize::MAX)?;
        }
    }

    #[test]
    fn a_plan_that_fails_half_way_is_recovered_from(
        history in testkit::history(),
        budgets in proptest::collection::vec(0_usize..40, 13),
    ) {
        let universe = universe(&history);
        let mut engine = node_a();
        let mut kernel = Kernel::default();
        for (group, budget) in history.groups.iter().zip(budgets) {
            play(&mut engine, group);
            let plan = engine.recover(&kernel.tables());
            run(&mut kernel, &plan, &mut engine, &universe, budget)?;
        }
        let plan = engine.recover(&kernel.tables());
        run(&mut kernel, &plan, &mut engine, &universe, usize::MAX)?;
        // Whatever plan it was that took something away.
        let now = kernel.answers(&universe.0, &universe.1);
        for (question, allowed) in &kernel.flows {
            prop_assert!(now[question].covers(allowed), "{question:?}: flows of {allowed} go on");
        }
    }

    #[test]
    fn a_restarted_agent_takes_over_without_a_gap(one in testkit::cluster(), two in testkit::cluster()) {
        let history = History {
            groups: vec![one.objects.into_iter().map(Ok).collect(), two.objects.into_iter().map(Ok).collect()],
            last: Cluster { objects: Vec::new(), externals: two.externals },
        };
        let universe = universe(&history);
        let mut engine = node_a();
        let mut kernel = Kernel::default();
        play(&mut engine, &history.groups[0]);
        let plan = engine.plan();
        run(&mut kernel, &plan, &mut engine, &universe, usize::MAX)?;
        let recorded = kernel.tables();
        let mut engine = Engine::new(Scope::Node("node-a".into()), recorded.next_class());
        play(&mut engine, &history.groups[1]);
        let plan = engine.recover(&recorded);
        run(&mut kernel, &plan, &mut engine, &universe, usize::MAX)?;
    }
}

/// The node gains and loses addresses too.
fn set_locals(engine: &mut Engine, number: usize) {
    let addresses = ["172.16.0.1", "10.0.0.2", "192.0.2.1"];
    engine.set_local_addresses(addresses[..number].iter().filter_map(|address| address.parse().ok()));
}

/// Two tables over the same few classes: what a class allows another is the same in both, who is in which is not.
fn two_tables() -> impl Strategy<Value = [Tables; 2]> {
    let ports = prop_oneof![
        2 => Just(PortSet::nothing()),
        1 => Just(PortSet::port(crate::model::Protocol::Tcp, 80)),
        1 => Just(PortSet::Everything),
    ];
    let verdicts = proptest::collection::vec(ports, 16);
    let class = || (0_u32..4).prop_map(ClassId);
    let subject =
        (class(), class(), proptest::option::weighted(0.3, proptest::sample::select(&ADDRESSES[..])));
    let subjects = || proptest::collection::vec(proptest::option::weighted(0.8, subject.clone()), 3);
    let entry = (0_u32..4, prop::bool::weighted(0.15))
        .prop_map(|(class, local)| PeerEntry { class: PeerClass(class), local });
    let peers = || proptest::collection::vec(proptest::option::weighted(0.6, entry.clone()), PREFIXES.len());
    let sides = ((subjects(), peers()), (subjects(), peers()));
    (verdicts, sides).prop_map(|(verdicts, (one, two))| {
        [one, two].map(|(subjects, peers)| {
            let mut tables = Tables::default();
            for (number, subject) in subjects.into_iter().enumerate() {
                let Some((ingress, egress, address)) = subject else { continue };
                let addresses = address.iter().filter_map(|address| address.parse().ok()).collect();
                let subject = Subject { ingress, egress, addresses };
                if subject.is_isolated() {
                    tables.subjects.insert(NamespacedName::new("a", number.to_string()), subject);
                }
            }
            for (prefix, entry) in PREFIXES.iter().zip(peers) {
                if let Some((prefix, entry)) = prefix.parse().ok().zip(entry) {
                    tables.peers.insert(prefix, entry);
                }
            }
            for subject in tables.subject_classes() {
                for peer in tables.peer_classes() {
                    let index = usize::try_from(subject.0 * 4 + peer.0).expect("a small number");
                    if !verdicts[index].is_nothing() {
                        tables.verdicts.insert((subject, peer), verdicts[index].clone());
                    }
                }
            }
            tables
        })
    })
}

const PREFIXES: [&str; 6] =
    ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.1/32", "10.0.1.1/32"];
/// At least one for which each of the prefixes is the longest.
const ADDRESSES: [&str; 6] = ["192.0.2.1", "10.9.9.9", "10.0.0.99", "10.0.0.2", "10.0.0.1", "10.0.1.1"];

proptest! {
    #![proptest_config(Config::with_cases(testkit::cases(1000) * 4))]

    #[test]
    fn any_tables_with_the_same_classes_change_safely([one, two] in two_tables()) {
        let pods = (0..3).map(|number| NamespacedName::new("a", number.to_string())).collect();
        let remotes = ADDRESSES.iter().filter_map(|address| address.parse().ok()).collect();
        let mut kernel = Kernel::default();
        for desired in [one, two] {
            let plan = diff(&kernel.tables(), &desired);
            kernel.run(&plan, &desired, &pods, &remotes, usize::MAX).map_err(TestCaseError::fail)?;
        }
    }
}

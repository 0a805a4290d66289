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
    engine: &Engine,
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
            run(&mut kernel, &plan, &engine, &universe, usize::MAX)?;
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
            run(&mut kernel, &plan, &engine, &universe, usize::MAX)?;
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
            run(&mut kernel, &plan, &engine, &universe, budget)?;
        }
        let plan = engine.recover(&kernel.tables());
        run(&mut kernel, &plan, &engine, &universe, usize::MAX)?;
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
        run(&mut kernel, &plan, &engine, &universe, usize::MAX)?;
        let recorded = kernel.tables();
        let mut engine = Engine::new(Scope::Node("node-a".into()), recorded.next_class());
        play(&mut engine, &history.groups[1]);
        let plan = engine.recover(&recorded);
        run(&mut kernel, &plan, &engine, &universe, usize::MAX)?;
    }
}

/// The node gains and loses addresses too.
fn set_locals(engine: &mut Engine, number: usize) {
    let addresses = ["172.16.0.1", "10.0.0.2", "192.0.2.1"];
    engine.set_local_addresses(addresses[..number].iter().filter_map(|address| address.parse().ok()));
}

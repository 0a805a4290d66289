//! What the tables say depends on the objects that are there in the end, not on how they came to be.

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::engine::{Engine, Scope};
use crate::model::Object;
use crate::ports::PortSet;
use crate::tables::{ClassId, FrontendEntry};
use crate::testkit;

fn fresh<'a>(scope: &Scope, objects: impl IntoIterator<Item = &'a Object>) -> Engine {
    let mut engine = Engine::new(scope.clone(), ClassId(1));
    for object in objects {
        assert!(engine.apply(object.clone()), "a new object is a change");
    }
    engine
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![4 => Just(Scope::Node("node-a".into())), 1 => Just(Scope::All)]
}

proptest! {
    #![proptest_config(Config::with_cases(testkit::cases(200)))]

    #[test]
    fn after_every_event_the_engine_equals_a_fresh_one(history in testkit::history(), scope in scope()) {
        let mut engine = Engine::new(scope.clone(), ClassId(1));
        let mut objects = std::collections::BTreeMap::new();
        for (index, event) in history.groups.iter().flatten().enumerate() {
            match event {
                Ok(object) => {
                    let known = objects.insert(object.reference(), object.clone());
                    prop_assert_eq!(engine.apply(object.clone()), known.as_ref() != Some(object));
                    let before = engine.tables();
                    prop_assert!(!engine.apply(object.clone()), "a duplicate is no change");
                    prop_assert_eq!(engine.tables(), before);
                }
                Err(reference) => {
                    let known = objects.remove(reference);
                    prop_assert_eq!(engine.delete(reference), known.is_some());
                }
            }
            if index % 3 == 0 {
                // Publishing must not matter either.
                let _ = engine.plan();
            }
            let mut fresh = fresh(&scope, objects.values());
            prop_assert_eq!(engine.dump(), fresh.dump());
            prop_assert_eq!(engine.tables().canonical(), fresh.tables().canonical());
        }
        prop_assert_eq!(objects.into_values().collect::<Vec<_>>(), history.last.objects);
    }

    #[test]
    fn order_does_not_matter(
        (sorted, shuffled) in testkit::cluster_with_services().prop_flat_map(|cluster| {
            (Just(cluster.objects.clone()), Just(cluster.objects).prop_shuffle())
        }),
        scope in scope(),
    ) {
        let (mut sorted, mut shuffled) = (fresh(&scope, &sorted), fresh(&scope, &shuffled));
        prop_assert_eq!(sorted.dump(), shuffled.dump());
        prop_assert_eq!(sorted.tables().canonical(), shuffled.tables().canonical());
    }

    #[test]
    fn frontends_follow_their_objects(
        (objects, gone) in testkit::cluster_with_services().prop_flat_map(|cluster| {
            let objects = Just(cluster.objects.clone()).prop_shuffle();
            (objects, Just(cluster.objects).prop_flat_map(|all| proptest::sample::subsequence(all.clone(), 0..=all.len())))
        }),
        in_front in any::<bool>(),
    ) {
        let engine = || {
            let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
            if in_front {
                engine.judge_in_front_of_services();
            }
            engine
        };
        let mut changed = engine();
        for (index, object) in objects.iter().enumerate() {
            changed.apply(object.clone());
            if index % 5 == 0 {
                let _ = changed.plan();
            }
        }
        for object in &gone {
            changed.delete(&object.reference());
        }
        let mut fresh = engine();
        for object in objects.iter().filter(|object| !gone.contains(object)) {
            fresh.apply(object.clone());
        }
        let tables = changed.tables();
        prop_assert_eq!(tables.canonical(), fresh.tables().canonical());
        // Those of which another node chooses stand for all of their backends, and for nothing where one is denied.
        for entry in tables.frontends.values() {
            if let FrontendEntry::Together(class) = entry {
                let verdicts = tables.verdicts.iter().filter(|((_, peer), _)| peer == class);
                prop_assert!(verdicts.map(|(_, ports)| ports).all(PortSet::is_everything));
            }
        }
        for object in &objects {
            changed.delete(&object.reference());
        }
        let left = changed.tables();
        prop_assert!(left.frontends.is_empty() && left.verdicts.is_empty(), "{}", left);
    }

    #[test]
    fn nothing_is_left_of_what_is_gone(history in testkit::history()) {
        let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
        for event in history.groups.iter().flatten() {
            match event {
                Ok(object) => engine.apply(object.clone()),
                Err(reference) => engine.delete(reference),
            };
        }
        for object in &history.last.objects {
            engine.delete(&object.reference());
        }
        let _ = engine.plan();
        let empty = Engine::new(Scope::Node("node-a".into()), ClassId(1));
        let numbers = |engine: Engine| {
            // Counters of numbers given aside, the two are the same to the last index.
            let text = format!("{engine:#?}");
            text.lines().filter(|line| !line.contains("next: ") && !line.contains("last: ")).map(str::to_owned)
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(numbers(engine), numbers(empty));
    }
}

//! Objects that cannot be read, or come twice.

use postern_cluster::faulty::Fault;
use serde_json::json;

use super::faults::isolated;
use super::objects::{admit, deny, policy, small, with};
use super::world::{Via, World, with_api};

#[test]
fn policies_that_cannot_be_read_isolate_and_are_named() {
    with_api(async |api| {
        let (mut world, before, _) = isolated(api, Via::Faulty).await;
        let block = |cidr: &str| {
            let rule = json!({ "from": [{ "ipBlock": { "cidr": cidr } }] });
            policy("other", "odd", &json!({ "podSelector": {}, "ingress": [rule] }))
        };
        let closed = with(&before, &policy("other", "odd", &json!({ "podSelector": {}, "ingress": [] })));
        // As a later version of the API may write it; then as nobody may.
        let faults = [
            (
                Fault::Replace("\"ipBlock\":", "\"after\":7,\"ipBlock\":"),
                "spec.ingress[0].from[0].after: no such field",
            ),
            (
                Fault::Replace("10.20.0.0/16", "10.20.0.0/99"),
                "spec.ingress[0].from[0].ipBlock.cidr: \"10.20.0.0/99\"",
            ),
        ];
        for (fault, complaint) in faults {
            world.faulty[0].set(fault);
            world.faulty[0].close();
            world.write(&with(&before, &block("10.20.0.0/16"))).await;
            let status = world.status(|status| !status.errors.is_empty()).await;
            assert!(
                status.errors[0].starts_with(&format!("NetworkPolicy other/odd: {complaint}")),
                "{status:#?}"
            );
            assert!(status.ready, "{status:#?}");
            world.becomes(&closed, "nobody is let in by what nobody can read").await;
            // Read once, it stays what it was while nobody can read it.
            world.faulty[0].set(Fault::None);
            world.faulty[0].close();
            let good = with(&before, &block("10.0.0.0/8"));
            world.apply(&good).await;
            world.check(&good, "mended").await;
            assert!(world.status(|_| true).await.errors.is_empty());
            world.apply(&before).await;
        }
        assert_eq!(world.said("all objects are valid again"), 2, "{}", world.agents[0].log());
    });
}

#[test]
fn a_policy_that_becomes_unreadable_stays_what_it_was() {
    with_api(async |api| {
        let (mut world, before, _) = isolated(api, Via::Faulty).await;
        let admits = with(&before, &admit("shop", "web"));
        world.apply(&admits).await;
        world.faulty[0].set(Fault::Replace("\"podSelector\"", "\"selector\""));
        world.faulty[0].close();
        let mut files = admits.clone();
        let text = String::from_utf8(files["NetworkPolicy-shop-admit-web.json"].clone()).unwrap();
        files.insert("NetworkPolicy-shop-admit-web.json".to_owned(), text.replace("80", "81").into_bytes());
        world.write(&files).await;
        let status = world.status(|status| !status.errors.is_empty()).await;
        assert!(status.errors[0].ends_with("its last good version stays"), "{status:#?}");
        world.check(&admits, "the last good version").await;
        world.write(&before).await;
        world.becomes(&before, "a deletion is honoured").await;
    });
}

#[test]
fn objects_that_come_twice_change_nothing() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        let mut world = World::up(api, &[&before], Via::Faulty).await;
        world.faulty[0].set(Fault::Twice);
        world.faulty[0].close();
        world.agents[0].kill().await;
        world.agents[0].restart().unwrap();
        for files in [&before, &with(&before, &admit("shop", "web")), &before, &small()] {
            world.apply(files).await;
            world.check(files, "with every event twice").await;
        }
        let generation = world.status(|_| true).await.generation;
        world.apply(&before).await;
        let steps = world.status(|_| true).await.generation - generation;
        world.apply(&small()).await;
        // The same change, heard once.
        world.faulty[0].set(Fault::None);
        world.faulty[0].close();
        let generation = world.status(|_| true).await.generation;
        world.apply(&before).await;
        assert_eq!(world.status(|_| true).await.generation - generation, steps);
    });
}

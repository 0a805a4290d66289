//! An agent killed at any moment: what is enforced stays enforced, a restart catches up, and nothing denied ever passes.

use std::time::Duration;

use postern_lab::lab::Lab;
use postern_lab::party::PartyId;
use postern_lab::prober::Target;
use postern_policy::model::NamespacedName;

use crate::manifests::{among, deny_all, small};
use crate::support::{assert_same, engine, run, up};

/// Milliseconds between an edit and the kill.
const DELAYS: [u64; 8] = [0, 1, 2, 4, 6, 8, 12, 25];

fn target(lab: &Lab, from: &NamespacedName, to: &str) -> Target {
    let parties = lab.parties();
    let find = |name: &str| parties.iter().find(|party| party.id.to_string() == name).unwrap();
    find(&from.to_string())
        .targets(find(to))
        .into_iter()
        .find(|target| target.destination.port() == 80)
        .unwrap()
}

#[test]
fn an_agent_killed_mid_update_leaves_nothing_open() {
    run(async {
        // Neither state lets client reach db.
        let states = [
            small().policy("shop", "deny", &deny_all()),
            small().policy("shop", "deny", &deny_all()).policy("shop", "among", &among("app", "db")),
            small().policy("shop", "deny", &deny_all()).policy("other", "deny", &deny_all()),
        ];
        let mut lab = up(&[&states[0].0]).await;
        lab.apply(&states[0].0).await.unwrap();
        let client = NamespacedName::new("other", "client");
        let target = target(&lab, &client, "shop/db");
        let client = PartyId::Pod(client);
        lab.watch(&client, target, Duration::from_millis(1)).await.unwrap();
        let mut files = &states[0].0;
        for (round, delay) in DELAYS.into_iter().enumerate() {
            let before = engine(files);
            files = &states[(round + 1) % states.len()].0;
            lab.write(files).unwrap();
            tokio::time::sleep(Duration::from_millis(delay)).await;
            for agent in lab.agents_mut() {
                agent.kill().await;
            }
            let observed = lab.observe().await.unwrap().matrix;
            let after = engine(files);
            // Either state is right for a cell; one that both agree on must not move.
            for (key, allowed) in &observed {
                let right = before[key] == *allowed || after[key] == *allowed;
                assert!(right, "killed after {delay} ms: {key} is {allowed}");
            }
            for agent in lab.agents_mut() {
                agent.restart().unwrap();
            }
            lab.enforced().await.unwrap();
            let observed = lab.observe().await.unwrap().matrix;
            assert_same(&after, &observed, &format!("restarted after a kill at {delay} ms"));
        }
        let samples = lab.end_watch(&client).await.unwrap();
        assert!(samples.len() > 1000, "only {} attempts were made", samples.len());
        let passed = samples.iter().filter(|sample| sample.passed).count();
        assert_eq!(passed, 0, "of {} denied attempts", samples.len());
    });
}

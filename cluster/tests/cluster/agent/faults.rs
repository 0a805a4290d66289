//! An API server that is down, slow, restarting, refusing, forgetful or confused: enforcement goes on with the last state,
//! the log says so once, metrics show it, and all is well again by itself.

use std::time::Duration;

use postern::control::Status;
use postern_cluster::faulty::Fault;
use postern_cluster::relay::Mode;
use postern_lab::working_copy::Files;
use serde_json::json;

use super::objects::{admit, deny, policy, small, with};
use super::world::{Via, World, with_api};

/// What the log says when the API server cannot be watched, and when it can be again.
const TROUBLE: &str = "the agent keeps asking";
const WELL: &str = "the API server answers again";

pub(super) fn failures(status: &Status, cause: &str) -> u64 {
    status.watches.iter().filter_map(|watch| watch.failures.get(cause)).sum()
}

pub(super) fn up(status: &Status) -> bool {
    status.watches.iter().all(|watch| watch.up)
}

/// A world in which the namespace shop is isolated, and how it is after one more policy.
pub(super) async fn isolated(api: &mut super::world::Api, via: Via) -> (World<'_>, Files, Files) {
    let before = with(&small(), &deny("shop"));
    let after = with(&before, &admit("shop", "web"));
    let mut world = World::up(api, &[&before], via).await;
    world.apply(&before).await;
    world.check(&before, "at first").await;
    (world, before, after)
}

/// What holds during and after every outage: the last state is enforced, said once, and the next is enforced after it.
async fn outlasts(
    world: &mut World<'_>,
    before: &Files,
    after: &Files,
    cause: &str,
    end: impl AsyncFnOnce(&mut World<'_>),
) {
    let status = world.status(|status| failures(status, cause) > 0 && !up(status)).await;
    assert!(status.ready, "{status:#?}");
    world.check(before, "during the outage").await;
    // Long enough for every watch to have failed more than once.
    world.status(|status| failures(status, cause) > 8).await;
    assert_eq!(world.said(TROUBLE), 1, "{}", world.agents[0].log());
    assert_eq!(world.said("\"WARN\"") + world.said("\"ERROR\""), 1, "{}", world.agents[0].log());
    end(world).await;
    world.becomes(after, "after the outage").await;
    let status = world.status(up).await;
    assert!(status.errors.is_empty(), "{:#?}", status.errors);
    assert_eq!(world.said(WELL), 1, "{}", world.agents[0].log());
}

#[test]
fn an_api_server_that_is_killed_and_comes_back() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Relay).await;
        world.api.control.apiserver().kill().unwrap();
        outlasts(&mut world, &before, &after.clone(), "unreachable", async |world| {
            world.api.control.apiserver().start().unwrap();
            world.api.control.wait_until_ready().unwrap();
            world.write(&after).await;
        })
        .await;
    });
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_down_leaves_what_is_enforced() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Relay).await;
        world.relays[0].set(Mode::Cut);
        world.agents[0].kill().await;
        world.agents[0].restart().unwrap();
        let status = world.status(|status| failures(status, "unreachable") > 6).await;
        assert!(!status.ready && !status.synced, "{status:#?}");
        world.check(&before, "with an agent that knows nothing").await;
        world.relays[0].set(Mode::Pass);
        world.apply(&after).await;
        world.check(&after, "after the first lists").await;
    });
}

#[test]
fn connections_that_hang_are_given_up() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Relay).await;
        // A restarted agent, so that its first lists hang too.
        world.relays[0].set(Mode::Stall);
        world.agents[0].kill().await;
        world.agents[0].restart().unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.check(&before, "while nothing is heard").await;
        let status = world.status(|_| true).await;
        assert!(!status.ready, "{status:#?}");
        world.relays[0].set(Mode::Pass);
        world.apply(&after).await;
        world.check(&after, "after").await;
    });
}

#[test]
fn answers_that_are_refusals() {
    with_api(async |api| {
        let (mut world, mut before, _) = isolated(api, Via::Faulty).await;
        for (round, (code, cause)) in
            [(429, "busy"), (500, "failing"), (503, "failing"), (403, "forbidden"), (401, "unauthorized")]
                .into_iter()
                .enumerate()
        {
            let after = with(
                &before,
                &policy(
                    "other",
                    &format!("round-{round}"),
                    &json!({ "podSelector": {},
                "ingress": if round % 2 == 0 { json!([]) } else { json!([{}]) } }),
                ),
            );
            let begun = world.agents[0].log().len();
            world.faulty[0].set(Fault::Status(code));
            world.faulty[0].close();
            let failed = world.status(|status| failures(status, cause) > 0 && !up(status)).await;
            assert!(failed.ready, "{failed:#?}");
            world.check(&before, "while refused").await;
            world.write(&after).await;
            let enough = failures(&failed, cause) + 8;
            world.status(|status| failures(status, cause) > enough).await;
            world.check(&before, "still refused").await;
            world.faulty[0].set(Fault::None);
            world.becomes(&after, &format!("after {code}")).await;
            world.status(up).await;
            let log = world.agents[0].log();
            let said = log[begun..].lines().filter(|line| line.contains(TROUBLE)).count();
            assert_eq!(said, 1, "{code}:\n{}", &log[begun..]);
            assert!(log[begun..].contains(&code.to_string()), "{code}:\n{}", &log[begun..]);
            before = after;
        }
    });
}

#[test]
fn a_watch_that_cannot_go_on_lists_anew_at_once() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Faulty).await;
        world.faulty[0].set(Fault::Expired);
        world.faulty[0].close();
        let lists = |status: &Status| status.watches.iter().map(|watch| watch.lists).sum::<u64>();
        world.status(|status| lists(status) >= 12).await;
        world.check(&before, "after listing anew").await;
        // What vanished meanwhile is seen to have.
        let gone: Files =
            before.clone().into_iter().filter(|(file, _)| !file.contains("NetworkPolicy")).collect();
        world.faulty[0].set(Fault::Status(503));
        world.faulty[0].close();
        world.write(&gone).await;
        world.faulty[0].set(Fault::Expired);
        world.becomes(&gone, "a policy deleted between two lists").await;
        world.faulty[0].set(Fault::None);
        world.apply(&after).await;
        world.check(&after, "at the end").await;
    });
}

#[test]
fn watches_that_are_closed_go_on_where_they_were() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Faulty).await;
        let lists = |status: &Status| status.watches.iter().map(|watch| watch.lists).collect::<Vec<_>>();
        let begun = lists(&world.status(|_| true).await);
        let _ = world.faulty[0].requests();
        for _ in 0..5 {
            world.faulty[0].close();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        world.apply(&after).await;
        world.check(&after, "after closed watches").await;
        world.apply(&before).await;
        world.check(&before, "and back").await;
        let status = world.status(|_| true).await;
        assert_eq!(lists(&status), begun, "nothing had to be listed anew");
        let requests = world.faulty[0].requests();
        assert!(
            requests.len() >= 6 * 5 && requests.iter().all(|it| !it.contains("sendInitialEvents=true")),
            "{requests:#?}"
        );
        assert_eq!(world.said(TROUBLE), 0, "an ending watch is no trouble: {}", world.agents[0].log());
    });
}

#[test]
fn servers_without_streamed_lists_are_listed_the_old_way() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        for fault in [Fault::NoStreaming, Fault::Endless] {
            let mut world = World::up(api, &[&before], Via::Faulty).await;
            world.agents[0].kill().await;
            world.faulty[0].set(fault);
            world.agents[0].restart().unwrap();
            world.apply(&before).await;
            world.check(&before, "listed").await;
            let requests = world.faulty[0].requests();
            assert!(requests.iter().any(|it| it.contains("limit=500")), "{requests:#?}");
            let after = with(&before, &admit("shop", "web"));
            world.apply(&after).await;
            world.check(&after, "watched").await;
            drop(world);
            api.mirror.apply(&Files::new()).await.unwrap();
        }
    });
}

#[test]
fn a_slow_server_is_waited_for() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        let mut world = World::up(api, &[&before], Via::Faulty).await;
        world.agents[0].kill().await;
        world.faulty[0].set(Fault::Slow(Duration::from_secs(2)));
        world.agents[0].restart().unwrap();
        let status = world.status(|status| !status.synced).await;
        assert!(!status.ready, "nothing is known yet: {status:#?}");
        world.apply(&before).await;
        world.check(&before, "late, but all of it").await;
        assert_eq!(world.said(TROUBLE), 0, "{}", world.agents[0].log());
    });
}

#[test]
fn a_wrong_node_name_is_said_and_takes_nothing_off() {
    with_api(async |api| {
        let (mut world, before, _) = isolated(api, Via::Relay).await;
        world.agents[0].restart_with(&["--node", "node-x"]).await.unwrap();
        let status = world.status(|status| status.synced).await;
        assert!(!status.ready, "{status:#?}");
        assert!(
            status.errors.iter().any(|it| it.contains("node-x") && it.contains("Node node-a")),
            "{:#?}",
            status.errors
        );
        world.check(&before, "under a wrong name").await;
        world.agents[0].restart_with(&[]).await.unwrap();
        world.status(|status| status.ready).await;
        world.check(&before, "under its own again").await;
    });
}

#[test]
fn an_api_server_that_begins_anew_is_believed() {
    with_api(async |api| {
        let (mut world, before, after) = isolated(api, Via::Relay).await;
        for _ in 0..20 {
            world.apply(&after).await;
            world.apply(&before).await;
        }
        // As after a restored backup that nobody bumped the revision of: versions are lower than those already seen.
        world.api.control.start_over().unwrap();
        world.status(|status| status.watches.iter().all(|watch| watch.up && watch.lists == 2)).await;
        world.api.mirror.forget();
        world.write(&after).await;
        world.becomes(&after, "of the new state").await;
    });
}

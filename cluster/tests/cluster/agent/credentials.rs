//! Who the agent is to the API server, and what becomes of it when that ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_cluster::relay::Mode;
use postern_lab::working_copy::Files;
use serde_json::json;

use super::faults::{failures, up};
use super::objects::{admit, deny, small, with};
use super::world::{Api, World, with_api};
use crate::deploy::deploy;
use crate::support::kubectl_ok;

/// The namespace of the service account.
const NAMESPACE: &str = "postern";

/// A world of these files whose agent is the service account, by a token in a file that is returned too. `prepare` may
/// change what the account may do.
async fn world<'a>(api: &'a mut Api, files: &Files, prepare: impl FnOnce(&Api)) -> (World<'a>, PathBuf) {
    kubectl_ok(api.relay.kubeconfig(), &["create", "namespace", NAMESPACE]);
    grant(api);
    prepare(api);
    let mut world = World::without_agents(api, &[files]).await;
    let file = world.lab.run().directory().join("token");
    token(world.api, &file);
    world.way("node-a");
    let kubeconfig = kubeconfig(&world, &file);
    world.start_agent("node-a", &kubeconfig).unwrap();
    (world, file)
}

/// Makes the service account with the role that is shipped.
fn grant(api: &Api) {
    let config = api.relay.kubeconfig();
    kubectl_ok(
        config,
        &[
            "apply",
            "--namespace",
            NAMESPACE,
            "--filename",
            &deploy("kustomize/base/rbac.yaml").display().to_string(),
        ],
    );
}

/// A token of the service account, in a file.
fn token(api: &Api, file: &Path) {
    let token = kubectl_ok(api.relay.kubeconfig(), &["create", "token", "postern", "--namespace", NAMESPACE]);
    std::fs::write(file, token.trim()).unwrap();
}

/// A kubeconfig that reads its token from a file, as the files that a pod is given.
fn kubeconfig(world: &World<'_>, token: &Path) -> PathBuf {
    let directory = world.lab.run().directory();
    let authority = directory.join("authority.pem");
    std::fs::write(&authority, world.api.control.authority()).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": world.relays[0].server(), "certificate-authority": authority } }],
        "users": [{ "name": "u", "user": { "tokenFile": token } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let path = directory.join("service-account.kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

#[test]
fn the_shipped_role_is_enough_and_a_revoked_token_is_replaced_by_the_next() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        let after = with(&before, &admit("shop", "web"));
        let (mut world, file) = world(api, &before, |_| {}).await;
        world.apply(&before).await;
        world.check(&before, "with the role that is shipped").await;

        // Watches that are open go on; the next request shows that nobody is asking any more, once the API server has
        // forgotten that it knew the token (it remembers for ten seconds).
        kubectl_ok(
            world.api.relay.kubeconfig(),
            &["delete", "serviceaccount", "postern", "--namespace", NAMESPACE],
        );
        tokio::time::sleep(Duration::from_secs(12)).await;
        world.relays[0].set(Mode::Cut);
        world.status(|status| !up(status)).await;
        world.relays[0].set(Mode::Pass);
        let status = world.status(|status| failures(status, "unauthorized") > 6).await;
        assert!(status.ready && !up(&status), "{status:#?}");
        world.check(&before, "with a token that is nobody's").await;
        assert_eq!(world.said("its token or certificate is not accepted"), 1, "{}", world.agents[0].log());
        assert!(
            !world.agents[0].log().contains(&std::fs::read_to_string(&file).unwrap()),
            "the token is in the log"
        );

        grant(world.api);
        token(world.api, &file);
        world.write(&after).await;
        // Token files are read once a minute.
        for _ in 0..2 {
            if world.agents[0].wait_until(up).await.is_ok() {
                break;
            }
        }
        world.becomes(&after, "with the next token").await;
        assert_eq!(world.said("the API server answers again"), 1, "{}", world.agents[0].log());
    });
}

#[test]
fn a_role_that_is_taken_away_and_given_back() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        let unbind = |api: &Api| {
            kubectl_ok(api.relay.kubeconfig(), &["delete", "clusterrolebinding", "postern"]);
        };
        let (mut world, _) = world(api, &before, unbind).await;
        world.write(&before).await;
        let status = world.status(|status| failures(status, "forbidden") > 6).await;
        assert!(!status.ready && !status.synced, "{status:#?}");
        assert!(status.errors.iter().any(|it| it.contains("apply the ClusterRole")), "{:#?}", status.errors);
        grant(world.api);
        world.becomes(&before, "with the role").await;
    });
}

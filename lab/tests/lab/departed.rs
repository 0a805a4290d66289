//! A pod's object goes, or says that the pod has finished, while its processes still run: nothing opens.

use std::net::SocketAddr;
use std::time::Duration;

use postern_lab::lab::Lab;
use postern_lab::party::PartyId;
use postern_lab::prober::Target;
use postern_lab::working_copy::Files;
use postern_policy::model::{NamespacedName, Protocol};
use serde_json::json;

use crate::inside::{connect, pod};
use crate::manifests::{Cluster, PodSpec, small};
use crate::support::{run, up};

const DB: ([u8; 4], u16) = ([10, 1, 2, 2], 80);
const NEXT: ([u8; 4], u16) = ([10, 1, 2, 9], 80);
const CLIENT: ([u8; 4], u16) = ([10, 1, 2, 3], 80);

fn spec<'a>(
    name: &'a str,
    namespace: &'a str,
    ip: &'a [&'a str],
    app: &'a [(&'a str, &'a str)],
) -> PodSpec<'a> {
    PodSpec { name, namespace, node: "node-b", ips: ip, labels: app, ports: &[(80, "TCP"), (53, "UDP")] }
}

/// `shop/db` lets friends in alone, and reaches nobody.
fn base() -> Cluster {
    let policy = json!({
        "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "friend" } } }] }]
    });
    small().policy("shop", "closed", &policy)
}

fn with_friend(cluster: Cluster) -> Cluster {
    cluster.pod(&spec("client", "other", &["10.1.2.3"], &[("app", "friend")]))
}

fn finished(cluster: Cluster) -> Cluster {
    let file = "pod-shop-db.json";
    let mut object: serde_json::Value = serde_json::from_slice(&cluster.0[file]).unwrap();
    object["status"]["phase"] = "Failed".into();
    let mut cluster = cluster;
    cluster.0.insert(file.to_owned(), object.to_string().into_bytes());
    cluster
}

/// Has the agents read files, and leaves the pods' processes as they are.
async fn tell(lab: &mut Lab, files: &Files) {
    lab.write(files).unwrap();
    lab.enforced().await.unwrap();
}

/// Who gets through: the client to a pod of `shop`, and that pod to the client.
fn passes(lab: &Lab, sandbox: &str, address: ([u8; 4], u16)) -> (bool, bool) {
    let inward = connect(pod(lab, "other/client"), SocketAddr::from(address)).is_some();
    (inward, connect(pod(lab, sandbox), SocketAddr::from(CLIENT)).is_some())
}

async fn watch(lab: &mut Lab) {
    let (source, destination) = (CLIENT.0.into(), SocketAddr::from(DB));
    let answerer = Some("shop/db".to_owned());
    let target = Target { source, destination, protocol: Protocol::Tcp, answerer };
    lab.watch(&client(), target, Duration::from_millis(1)).await.unwrap();
}

fn client() -> PartyId {
    PartyId::Pod(NamespacedName::new("other", "client"))
}

#[test]
fn a_pod_whose_object_goes_stays_under_its_last_policy() {
    run(async {
        let (base, gone) = (base(), base().without("pod-shop-db"));
        let mut lab = up(&[&base.0]).await;
        lab.apply(&base.0).await.unwrap();
        for (what, files) in [("deleted", &gone), ("failed", &finished(base.clone()))] {
            watch(&mut lab).await;
            tell(&mut lab, &files.0).await;
            assert_eq!(passes(&lab, "shop/db", DB), (false, false), "{what}");
            let samples = lab.end_watch(&client()).await.unwrap();
            assert_eq!(samples.iter().filter(|it| it.passed).count(), 0, "{what}: of {}", samples.len());
            tell(&mut lab, &base.0).await;
        }

        // Peers that come and go are followed; the policy may go too.
        tell(&mut lab, &gone.0).await;
        tell(&mut lab, &with_friend(gone.clone()).0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (true, false), "a friend");
        tell(&mut lab, &gone.0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (false, false), "no friend any more");
        let unpoliced = gone.clone().without("policy-shop-closed");
        tell(&mut lab, &unpoliced.0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (false, false), "the policy is gone");
        let status = lab.agent("node-b").unwrap().status().unwrap();
        let told: Vec<_> = status.endpoints.iter().map(|it| (it.pod.as_deref(), it.departed)).collect();
        assert_eq!(told, [(Some("shop/db"), true)]);

        // The next agents know nothing but what is pinned.
        for _ in 0..2 {
            for agent in lab.agents_mut() {
                agent.kill().await;
                agent.restart().unwrap();
            }
            lab.enforced().await.unwrap();
            assert_eq!(passes(&lab, "shop/db", DB), (false, false), "restarted");
        }

        // Another pod is found behind it, and nothing isolates that.
        let next = unpoliced.pod(&spec("next", "shop", &["10.1.2.2"], &[("app", "db")]));
        tell(&mut lab, &next.0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (true, true), "another pod");
    });
}

#[test]
fn the_same_name_elsewhere_is_another_pod() {
    run(async {
        let here = base().pod(&spec("next", "shop", &["10.1.2.9"], &[("app", "next")]));
        let mut lab = up(&[&here.0]).await;
        lab.apply(&here.0).await.unwrap();
        // In the sandbox of next now, and nothing isolates it there.
        let moved = base().pod(&spec("db", "shop", &["10.1.2.9"], &[("app", "free")]));
        tell(&mut lab, &moved.0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (false, false), "the old one");
        assert_eq!(passes(&lab, "shop/next", NEXT), (true, true), "the new one");
        let isolated = base().pod(&spec("db", "shop", &["10.1.2.9"], &[("app", "db")]));
        tell(&mut lab, &with_friend(isolated).0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (true, false), "the old one, from a friend");
        assert_eq!(passes(&lab, "shop/next", NEXT), (true, false), "the new one, from a friend");
        tell(&mut lab, &base().without("pod-shop-db").0).await;
        assert_eq!(passes(&lab, "shop/db", DB), (false, false), "the old one");
        assert_eq!(passes(&lab, "shop/next", NEXT), (false, false), "the new one is gone too");
    });
}

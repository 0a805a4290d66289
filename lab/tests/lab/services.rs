//! Services on the wire: what nodes translate, without policy and under it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use postern_lab::observe::Observation;
use postern_lab::party::PartyId;
use postern_lab::prober::{Outcome, Target};
use postern_lab::story;
use postern_lab::working_copy::Files;
use postern_policy::model::{NamespacedName, Protocol};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::inside::{ask, command, connect, node, pod};
use crate::manifests::{Cluster, PodSpec};
use crate::support::{assert_same, engine, key, run, up, up_without_agents};

const CLIENT: &str = "shop/client";
const FRONTEND: ([u8; 4], u16) = ([10, 96, 0, 10], 80);
/// Below TCP's first repetition: one connection, one choice of a backend.
const PATIENCE: Duration = Duration::from_millis(800);

/// A scenario's base, without its policies.
fn without_policy(scenario: &str) -> Files {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(scenario);
    let mut files = story::read(&directory).unwrap().remove(0).files;
    assert!(files.remove("policies.yaml").is_some());
    files
}

async fn observe(files: &Files) -> Observation {
    let mut lab = up_without_agents(&[files]).await;
    lab.apply(files).await.unwrap();
    lab.observe().await.unwrap()
}

/// Who answered, by name within the namespace.
fn answered(observation: &Observation, from: &str, to: &str, port: u16) -> Vec<String> {
    let names = observation.answered.get(&key(from, to, port, Protocol::Tcp)).into_iter().flatten();
    names.map(|name| name.trim_start_matches("shop/").to_owned()).collect()
}

#[test]
fn without_policy_every_frontend_leads_to_its_backends() {
    run(async {
        let files = without_policy("services-basic");
        let observation = observe(&files).await;
        assert_same(&engine(&files), &observation.matrix, "services-basic without policy");
        for from in [CLIENT, "shop/web-1"] {
            assert_eq!(answered(&observation, from, "service:shop/web", 80), ["web-1", "web-2"]);
            assert_eq!(answered(&observation, from, "service:shop/stable", 9090), ["web-1"]);
            assert_eq!(answered(&observation, from, "service:shop/nobody", 80), [""; 0]);
        }
    });
}

#[test]
fn without_policy_traffic_policies_choose_the_backends() {
    run(async {
        let files = without_policy("services-nodes");
        let observation = observe(&files).await;
        assert_same(&engine(&files), &observation.matrix, "services-nodes without policy");
        let both: &[&str] = &["web-1", "web-2"];
        for (from, to, port, expected) in [
            ("shop/client", "service:shop/near", 80, &["web-1"][..]),
            ("shop/far", "service:shop/near", 80, &["web-2"]),
            ("external/out", "service:shop/open@node-a", 30080, both),
            ("external/out", "service:shop/open@external", 80, both),
            ("external/out", "service:shop/local@node-a", 30081, &["web-1"]),
            ("external/out", "service:shop/local@node-b", 30081, &["web-2"]),
            ("external/out", "service:shop/local@external", 80, &["web-1"]),
            ("shop/client", "service:shop/local@node-a", 30081, both),
            ("shop/client", "service:shop/local@node-b", 30081, &["web-2"]),
            ("shop/agent", "service:shop/local@node-a", 30081, both),
            ("shop/web-1", "service:shop/open@node-b", 30080, both),
        ] {
            assert_eq!(answered(&observation, from, to, port), expected, "{from} to {to}");
        }
    });
}

#[test]
fn without_policy_slices_name_the_backends() {
    run(async {
        let files = without_policy("services-slices");
        let observation = observe(&files).await;
        assert_same(&engine(&files), &observation.matrix, "services-slices without policy");
        assert_eq!(answered(&observation, CLIENT, "service:shop/ready", 80), ["web-1"]);
        assert_eq!(answered(&observation, CLIENT, "service:shop/draining", 80), ["web-1"]);
        assert_eq!(answered(&observation, CLIENT, "service:shop/outside", 80), ["external/out"]);
        assert_eq!(answered(&observation, CLIENT, "service:shop/sticky", 80), ["web-1", "web-2"]);
    });
}

/// A client, a pod that it may reach and one that it may not, each on the node that is asked for, and a slice of these.
fn cluster(allowed_on: &str, denied_on: &str, endpoints: &[&str]) -> Cluster {
    let address = |node: &str, last| format!("10.244.{}.{last}", if node == "node-a" { 1 } else { 2 });
    let (allowed, denied) = (address(allowed_on, 11), address(denied_on, 12));
    let mut cluster = Cluster::default().lab("nodes: [node-a, node-b]\n").namespace("shop", &[]);
    for (name, node, ip, ports) in [
        ("client", "node-a", "10.244.1.10", &[][..]),
        ("allowed", allowed_on, &*allowed, &[(8080, "TCP")]),
        ("denied", denied_on, &*denied, &[(8080, "TCP")]),
    ] {
        let labels = [("app", name)];
        cluster = cluster.pod(&PodSpec { name, namespace: "shop", node, ips: &[ip], labels: &labels, ports });
    }
    cluster.put("service", &service(&json!({})));
    let of = |name: &&str| {
        let (address, node) = if *name == "allowed" { (&allowed, allowed_on) } else { (&denied, denied_on) };
        json!({ "addresses": [address], "nodeName": node })
    };
    let endpoints: Vec<Value> = endpoints.iter().map(of).collect();
    cluster.put(
        "slice",
        &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" }
            },
            "ports": [{ "port": 8080 }], "endpoints": endpoints
        }),
    );
    cluster
}

/// The Service, with a part of its spec.
fn service(part: &Value) -> Value {
    let mut spec = json!({ "clusterIP": "10.96.0.10", "ports": [{ "port": 80, "targetPort": 8080 }] });
    spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    let metadata = json!({ "name": "web", "namespace": "shop" });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

/// A [`cluster`] whose clients keep their backend this long.
fn sticky(allowed_on: &str, denied_on: &str, endpoints: &[&str], seconds: u32) -> Cluster {
    let mut cluster = cluster(allowed_on, denied_on, endpoints);
    cluster.put("service", &service(&affinity(seconds)));
    cluster
}

fn affinity(seconds: u32) -> Value {
    let config = json!({ "clientIP": { "timeoutSeconds": seconds } });
    json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config })
}

/// client may send to pods with these labels alone.
fn egress(apps: &[&str]) -> Value {
    let to: Vec<Value> =
        apps.iter().map(|app| json!({ "podSelector": { "matchLabels": { "app": app } } })).collect();
    json!({
        "podSelector": { "matchLabels": { "app": "client" } },
        "policyTypes": ["Egress"], "egress": [{ "to": to }]
    })
}

/// How often each backend answered; under "" what nobody answered.
async fn ask_often(lab: &mut Lab, times: usize) -> BTreeMap<String, usize> {
    let (namespace, name) = CLIENT.split_once('/').unwrap();
    let client = PartyId::Pod(NamespacedName::new(namespace, name));
    let target = Target {
        source: [10, 244, 1, 10].into(),
        destination: SocketAddr::from(FRONTEND),
        protocol: Protocol::Tcp,
        answerer: None,
    };
    let mut answers = BTreeMap::new();
    for outcome in lab.probe(&client, vec![target; times], PATIENCE).await.unwrap() {
        let name = match outcome {
            Outcome::Answered(name) => name,
            Outcome::Dropped => String::new(),
            other => panic!("{other:?}"),
        };
        *answers.entry(name).or_default() += 1;
    }
    answers
}

/// How often a node chose each backend, by its address.
fn chosen(lab: &Lab) -> BTreeMap<String, usize> {
    let rules = command(node(lab, "node-a"), "nft list table inet postern_lab_services");
    let rules = rules.lines().filter(|line| line.contains("dnat"));
    let mut chosen = BTreeMap::new();
    for rule in rules {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let after = |word| words.iter().skip_while(|it| **it != word).nth(1).unwrap();
        let address = words.last().unwrap().split(':').next().unwrap();
        *chosen.entry(address.to_owned()).or_default() += after("packets").parse::<usize>().unwrap();
    }
    chosen
}

/// What `postern dump` says of frontends, for veths whose pods may not send everything.
async fn dumped_frontends(lab: &Lab, name: &str) -> Vec<Value> {
    let dump = lab.dump().await.unwrap().remove(name).unwrap();
    let egress = dump.as_object().unwrap().values().map(|veth| &veth["egress"]["isolated"]);
    egress.filter(|it| !it.is_null()).map(|it| it["frontends"].clone()).collect()
}

#[test]
fn of_a_thousand_connections_exactly_those_to_the_allowed_backend_work() {
    run(async {
        for (allowed_on, denied_on) in [("node-a", "node-a"), ("node-b", "node-b"), ("node-a", "node-b")] {
            let files = cluster(allowed_on, denied_on, &["allowed", "denied"])
                .policy("shop", "client", &egress(&["allowed"]))
                .0;
            let mut lab = up_with(&files).await;
            let judged = json!({ "10.96.0.10:80/TCP": "judged by the backend" });
            assert_eq!(dumped_frontends(&lab, "node-a").await, [judged]);
            // Neighbours are known from here on.
            ask_often(&mut lab, 20).await;
            let before = chosen(&lab);
            let answers = ask_often(&mut lab, 1_000).await;
            let mut after = chosen(&lab);
            for (address, earlier) in before {
                *after.get_mut(&address).unwrap() -= earlier;
            }
            let of = |last| {
                let ending = format!(".{last}");
                after.iter().find(|(address, _)| address.ends_with(&ending)).map_or(0, |(_, count)| *count)
            };
            let when =
                format!("allowed on {allowed_on}, denied on {denied_on}: {answers:?}, chosen {after:?}");
            assert_eq!(answers.get("shop/allowed").copied().unwrap_or(0), of(11), "{when}");
            assert_eq!(answers.get("").copied().unwrap_or(0), 1_000 - of(11), "{when}");
            let repeated = if is_judged_at_egress() { 950..=1_000 } else { 1_000..=1_000 };
            assert!(repeated.contains(&(of(11) + of(12))), "{when}");
            assert!(of(11) > 300 && of(12) > 300, "{when}");
        }
    });
}

/// Conntrack gives a connection another port where one to the same backend, through a Service, has it already.
#[test]
fn a_port_that_a_service_took_is_free_for_its_backend() {
    run(async {
        let files =
            cluster("node-a", "node-b", &["allowed"]).policy("shop", "client", &egress(&["allowed"])).0;
        let lab = up_with(&files).await;
        let client = pod(&lab, "shop/client");
        let through = connect_from(client, 45_000, FRONTEND.into());
        assert!(through.is_ok(), "through the Service: {through:?}");
        let direct = connect_from(client, 45_000, ([10, 244, 1, 11], 8080).into());
        assert!(direct.is_ok(), "the backend itself: {direct:?}");
    });
}

/// A connection from a port that others may have, too.
fn connect_from(client: &Netns, port: u16, to: SocketAddr) -> std::io::Result<Socket> {
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from(([0; 4], port)).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok(socket)
    };
    client.within(connect).unwrap()
}

/// Whether agents judge packets to Services on the devices that these leave by: `cargo xtask test` runs these tests so, too. Conntrack
/// remembers what is dropped there, and leads another connection from the same port the same way, uncounted.
fn is_judged_at_egress() -> bool {
    std::env::var("POSTERN_SERVICES").is_ok_and(|services| services == "egress")
}

/// A lab with these files applied. What conntrack remembers of SYNs, it remembers for a second where that matters, as docs/packet-path.md
/// has it.
async fn up_with(files: &Files) -> Lab {
    let mut lab = up(&[files]).await;
    lab.apply(files).await.unwrap();
    if is_judged_at_egress() {
        for name in ["node-a", "node-b"] {
            command(node(&lab, name), "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_sent=1");
        }
    }
    lab
}

/// Connects again and again until told to stop; who answered.
fn knock(client: Netns, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<BTreeMap<String, usize>> {
    std::thread::spawn(move || {
        let mut answers = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            let Some(stream) = connect(&client, SocketAddr::from(FRONTEND)) else { continue };
            if let Ok(answer) = ask(&stream, "knock", PATIENCE) {
                let name = answer.split(' ').nth(1).unwrap_or_default();
                *answers.entry(name.to_owned()).or_default() += 1;
            }
        }
        answers
    })
}

#[test]
fn endpoints_that_change_under_traffic_never_let_a_denied_backend_answer() {
    run(async {
        for denied_on in ["node-a", "node-b"] {
            let state = |endpoints: &[&str], apps: &[&str]| {
                cluster("node-a", denied_on, endpoints).policy("shop", "client", &egress(apps)).0
            };
            let states = [&["allowed"][..], &["allowed", "denied"], &["denied"], &["denied", "allowed"], &[]]
                .map(|endpoints| state(endpoints, &["allowed"]));
            let mut lab = up(&[&states[0]]).await;
            lab.apply(&states[0]).await.unwrap();
            let client = Netns::open(pod(&lab, CLIENT).name()).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let knocking: Vec<_> =
                (0..4).map(|_| knock(Netns::open(client.name()).unwrap(), Arc::clone(&stop))).collect();
            for round in 1..=25 {
                lab.apply(&states[round % states.len()]).await.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            let mut names = BTreeSet::new();
            for answers in knocking.into_iter().map(|thread| thread.join().unwrap()) {
                names.extend(answers.into_keys());
            }
            assert_eq!(names, BTreeSet::from(["shop/allowed".to_owned()]), "denied on {denied_on}");
            // What is allowed from now on works from now on.
            lab.apply(&state(&["allowed", "denied"], &["allowed", "denied"])).await.unwrap();
            let answers = ask_often(&mut lab, 100).await;
            assert_eq!(answers.get(""), None, "denied on {denied_on}: {answers:?}");
            assert_eq!(answers.len(), 2, "denied on {denied_on}: {answers:?}");
        }
    });
}

/// Connections of which all go the way of the first.
const RUN: usize = 30;
/// Runs that are tried until both backends were chosen: one is missed with a probability below 10^-8.
const TRIES: usize = 30;
const LONG: u32 = 600;

/// Who answered a whole run.
async fn run_of(lab: &mut Lab) -> String {
    let answers = ask_often(lab, RUN).await;
    assert_eq!(answers.len(), 1, "a client keeps its backend: {answers:?}");
    answers.into_keys().next().unwrap()
}

#[test]
fn a_client_keeps_its_backend_while_that_is_there() {
    run(async {
        let state = |endpoints: &[&str]| sticky("node-a", "node-b", endpoints, LONG);
        let both = state(&["allowed", "denied"]);
        let mut lab = up_without_agents(&[&both.0]).await;
        lab.apply(&both.0).await.unwrap();
        let (name, other) = ("shop/allowed", "shop/denied");
        let mut kept = BTreeSet::new();
        for _ in 0..TRIES {
            lab.forget_affinity().unwrap();
            let answered = run_of(&mut lab).await;
            kept.insert(answered.clone());
            // The one that rules look for first: were it remembered for too long, it would show at the end.
            if kept.len() == 2 && answered == name {
                break;
            }
        }
        assert_eq!(kept.len(), 2, "the first connection chooses: {kept:?}");
        for extra in 1..=8 {
            // Other rules each time, and the backends as they were.
            let mut files = both.clone();
            let mut part = affinity(LONG);
            part["externalIPs"] = json!([format!("198.51.100.{extra}")]);
            files.put("service", &service(&part));
            lab.apply(&files.0).await.unwrap();
            assert_eq!(run_of(&mut lab).await, name, "after a change of something else");
        }
        lab.apply(&state(&["denied"]).0).await.unwrap();
        assert_eq!(run_of(&mut lab).await, other, "{name} is gone");
        lab.apply(&both.0).await.unwrap();
        assert_eq!(run_of(&mut lab).await, other, "{name} is back");
    });
}

#[test]
fn a_client_keeps_its_backend_for_the_timeout_alone() {
    run(async {
        let files = sticky("node-a", "node-b", &["allowed", "denied"], 1).0;
        let mut lab = up_without_agents(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let mut kept = BTreeSet::new();
        for _ in 0..TRIES {
            kept.insert(run_of(&mut lab).await);
            if kept.len() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1200)).await;
        }
        panic!("nobody but {kept:?} was chosen");
    });
}

#[test]
fn with_affinity_a_client_has_the_allowed_backend_or_none() {
    run(async {
        for (allowed_on, denied_on) in [("node-a", "node-b"), ("node-b", "node-a")] {
            let cluster = sticky(allowed_on, denied_on, &["allowed", "denied"], LONG);
            let allowing = |apps: &[&str]| cluster.clone().policy("shop", "client", &egress(apps)).0;
            let files = allowing(&["allowed"]);
            let mut lab = up_with(&files).await;
            let mut outcomes = BTreeSet::new();
            for _ in 0..TRIES {
                lab.forget_affinity().unwrap();
                let before = chosen(&lab);
                let answered = run_of(&mut lab).await;
                let mut kept = chosen(&lab);
                kept.retain(|address, count| *count != before[address]);
                let kept: Vec<_> = kept.into_keys().collect();
                assert_eq!(kept.len(), 1, "allowed on {allowed_on}: {kept:?}");
                let expected = if kept[0].ends_with(".11") { "shop/allowed" } else { "" };
                assert_eq!(answered, expected, "allowed on {allowed_on}: {kept:?} is kept");
                outcomes.insert(answered.clone());
                if outcomes.len() == 2 && answered.is_empty() {
                    break;
                }
                if is_judged_at_egress() && answered.is_empty() {
                    // Until conntrack knows no ports any more that lead to the denied one.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
            assert_eq!(outcomes.len(), 2, "allowed on {allowed_on}: {outcomes:?}");
            // The one that it kept all the time.
            lab.apply(&allowing(&["allowed", "denied"])).await.unwrap();
            assert_eq!(run_of(&mut lab).await, "shop/denied", "allowed on {allowed_on}");
        }
    });
}

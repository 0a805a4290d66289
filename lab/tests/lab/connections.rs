//! Established connections while policies change: those that stay allowed lose nothing, those that do not are cut.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_lab::lab::Lab;
use postern_lab::working_copy::Files;
use serde_json::{Value, json};

use crate::inside::{ask, connect, pod};
use crate::manifests::{deny_all, small};
use crate::support::{run, up};

const PATIENCE: Duration = Duration::from_secs(5);
const WEB: &str = "shop/web";
const DB: &str = "shop/db";

fn peers(apps: &[&str]) -> Value {
    apps.iter().map(|app| json!({ "podSelector": { "matchLabels": { "app": app } } })).collect()
}

/// db takes these apps on these ports, and all of shop is isolated for egress but for web.
fn files(apps: &[&str], ports: &[u16]) -> Files {
    let ports: Vec<Value> = ports.iter().map(|port| json!({ "port": port })).collect();
    let db = json!({
        "podSelector": { "matchLabels": { "app": "db" } },
        "ingress": [{ "from": peers(apps), "ports": ports }]
    });
    let web = json!({
        "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
        "egress": [{ "to": peers(&["db"]) }]
    });
    small().policy("shop", "deny", &deny_all()).policy("shop", "db", &db).policy("shop", "web", &web).0
}

fn to_db(lab: &Lab) -> TcpStream {
    connect(pod(lab, WEB), SocketAddr::from(([10, 1, 2, 2], 80))).unwrap()
}

/// Segments that TCP sent again in a pod, as its kernel counts them: every packet that was lost on the way is among them.
fn sent_again(lab: &Lab, id: &str) -> u64 {
    let text =
        pod(lab, id).within(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (heads, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = heads.split_whitespace().zip(values.split_whitespace());
    columns.find(|(head, _)| *head == "RetransSegs").unwrap().1.parse().unwrap()
}

#[test]
fn a_connection_that_stays_allowed_goes_on_without_a_stutter() {
    run(async {
        // Each lets web in on 80, and each is another class.
        let states = [
            files(&["web"], &[80]),
            files(&["web", "api"], &[80]),
            files(&["web"], &[79, 80, 81, 443, 8080, 9090]),
            files(&["api", "db", "web"], &[]),
        ];
        let mut lab = up(&[&states[0]]).await;
        lab.apply(&states[0]).await.unwrap();
        let stream = to_db(&lab);
        let before = [sent_again(&lab, WEB), sent_again(&lab, DB)];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let talking = std::thread::spawn(move || {
            let mut exchanges = 0;
            while !stopped.load(Ordering::Relaxed) {
                ask(&stream, "still there", PATIENCE).unwrap();
                exchanges += 1;
            }
            exchanges
        });
        for round in 1..=20 {
            lab.apply(&states[round % states.len()]).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let exchanges = talking.join().unwrap();
        assert!(exchanges > 1_000, "only {exchanges} exchanges during 20 changes");
        assert_eq!(
            [sent_again(&lab, WEB), sent_again(&lab, DB)],
            before,
            "segments lost in {exchanges} exchanges"
        );
    });
}

#[test]
fn a_connection_that_is_forbidden_is_cut() {
    run(async {
        let allowed = files(&["web"], &[80]);
        let elsewhere = files(&["web"], &[81]);
        let mut lab = up(&[&allowed]).await;
        lab.apply(&allowed).await.unwrap();
        let stream = to_db(&lab);
        assert!(ask(&stream, "before", PATIENCE).is_ok());
        for (round, forbidden) in [files(&["api"], &[80]), elsewhere].into_iter().enumerate() {
            let lost = sent_again(&lab, WEB);
            lab.apply(&forbidden).await.unwrap();
            let token = format!("during {round}");
            assert!(
                ask(&stream, &token, Duration::from_secs(1)).is_err(),
                "an answer under a policy that forbids it"
            );
            assert!(sent_again(&lab, WEB) > lost, "web tries again");
            // Nobody reset it: what is allowed again goes on.
            lab.apply(&allowed).await.unwrap();
            let mut rest = [0; 512];
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let length = std::io::Read::read(&mut &stream, &mut rest).unwrap();
            assert!(rest[..length].starts_with(token.as_bytes()), "what was sent meanwhile arrives");
        }
    });
}

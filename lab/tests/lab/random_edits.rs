//! A thousand random edits, applied to running agents, end in exactly the verdicts of a fresh start.

use std::collections::BTreeSet;

use postern_lab::agent::Agent;
use postern_lab::matrix::Reach;
use serde_json::{Value, json};

use crate::manifests::{Cluster, PodSpec};
use crate::support::{assert_same, engine, run, up};

const EDITS: usize = 1000;
/// With `POSTERN_LONG`.
const MANY_EDITS: usize = 10_000;
/// Edits between two moments at which the agents are let to catch up.
const BURST: usize = 50;
const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const LABELS: [&str; 3] = ["a", "b", "c"];
/// Places for pods: address and node. More pods than places, so that addresses are reused.
const PLACES: [(&str, &str); 10] = [
    ("10.3.1.1", "node-a"),
    ("10.3.1.2", "node-a"),
    ("10.3.1.3", "node-a"),
    ("10.3.1.4", "node-a"),
    ("10.3.1.5", "node-a"),
    ("10.3.2.1", "node-b"),
    ("10.3.2.2", "node-b"),
    ("10.3.2.3", "node-b"),
    ("10.3.2.4", "node-b"),
    ("10.3.2.5", "node-b"),
];

/// A small generator whose sequence depends on its seed alone (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % bound
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn selector(&mut self, key: &str) -> Value {
        match self.below(4) {
            0 => json!({}),
            1 => json!({ "matchLabels": { key: self.one(&LABELS) } }),
            2 => {
                json!({ "matchExpressions": [{ "key": key, "operator": "NotIn", "values": [self.one(&LABELS)] }] })
            }
            _ => {
                json!({ "matchExpressions": [{ "key": key, "operator": "In", "values": [self.one(&LABELS), self.one(&LABELS)] }] })
            }
        }
    }

    fn peer(&mut self) -> Value {
        match self.below(5) {
            0 => json!({ "ipBlock": { "cidr": "10.3.0.0/16", "except": ["10.3.2.0/24"] } }),
            1 => {
                json!({ "ipBlock": { "cidr": self.one(&["0.0.0.0/0", "10.3.1.0/29", "203.0.113.0/24", "10.3.2.3/32"]) } })
            }
            2 => json!({ "namespaceSelector": self.selector("team") }),
            3 => json!({ "namespaceSelector": self.selector("team"), "podSelector": self.selector("app") }),
            _ => json!({ "podSelector": self.selector("app") }),
        }
    }

    fn ports(&mut self) -> Value {
        match self.below(4) {
            0 => json!([]),
            1 => json!([{ "port": 80 }]),
            2 => json!([{ "port": 53, "protocol": "UDP" }, { "port": 80, "endPort": 90 }]),
            _ => json!([{ "protocol": "UDP" }]),
        }
    }

    fn rules(&mut self, peers: &str) -> Value {
        let rules = 0..self.below(3);
        rules.map(|_| json!({ peers: (0..=self.below(2)).map(|_| self.peer()).collect::<Vec<_>>(), "ports": self.ports() })).collect()
    }

    fn policy(&mut self) -> Value {
        let types = match self.below(3) {
            0 => json!(["Ingress"]),
            1 => json!(["Egress"]),
            _ => json!(["Ingress", "Egress"]),
        };
        json!({
            "podSelector": self.selector("app"), "policyTypes": types,
            "ingress": self.rules("from"), "egress": self.rules("to")
        })
    }
}

/// Cluster state, one file an object, and the edits that can happen to it.
struct Editor {
    cluster: Cluster,
    /// Who sits where.
    places: Vec<Option<(String, &'static str)>>,
    pods: usize,
}

impl Editor {
    fn new(random: &mut Random) -> Self {
        let lab =
            "nodes: [node-a, node-b]\nexternals: [{name: out, ips: [203.0.113.9], ports: [{port: 80}]}]\n";
        let mut editor =
            Self { cluster: Cluster::default().lab(lab), places: vec![None; PLACES.len()], pods: 0 };
        for namespace in NAMESPACES {
            editor.label_namespace(random, namespace);
        }
        for place in 0..PLACES.len() - 2 {
            editor.add_pod(random, place);
        }
        editor
    }

    /// One edit.
    fn edit(&mut self, random: &mut Random) {
        let place = random.below(PLACES.len());
        match random.below(20) {
            0 if self.places[place].is_some() => self.remove_pod(place),
            0 | 1 if self.places[place].is_none() => self.add_pod(random, place),
            0..=3 => self.label_pod(random, place),
            4..=6 => {
                let namespace = random.one(&NAMESPACES);
                self.label_namespace(random, namespace);
            }
            7..=9 => {
                let (namespace, name) = (random.one(&NAMESPACES), random.below(4));
                self.cluster.0.remove(&format!("policy-{namespace}-p{name}.json"));
            }
            _ => {
                let (namespace, name) = (random.one(&NAMESPACES), random.below(4));
                let policy = random.policy();
                let cluster = std::mem::take(&mut self.cluster);
                self.cluster = cluster.policy(namespace, &format!("p{name}"), &policy);
            }
        }
    }

    fn label_namespace(&mut self, random: &mut Random, namespace: &str) {
        let labels = [("team", random.one(&LABELS))];
        self.cluster = std::mem::take(&mut self.cluster).namespace(namespace, &labels);
    }

    fn add_pod(&mut self, random: &mut Random, place: usize) {
        self.pods += 1;
        self.places[place] = Some((format!("p{}", self.pods), random.one(&NAMESPACES)));
        self.label_pod(random, place);
    }

    fn label_pod(&mut self, random: &mut Random, place: usize) {
        let Some((name, namespace)) = self.places[place].clone() else { return };
        let (ip, node) = PLACES[place];
        let labels = [("app", random.one(&LABELS))];
        let ports = [(80, "TCP"), (53, "UDP"), (85, "TCP")];
        let pod = PodSpec { name: &name, namespace, node, ips: &[ip], labels: &labels, ports: &ports };
        self.cluster = std::mem::take(&mut self.cluster).pod(&pod);
    }

    fn remove_pod(&mut self, place: usize) {
        if let Some((name, namespace)) = self.places[place].take() {
            self.cluster.0.remove(&format!("pod-{namespace}-{name}.json"));
        }
    }
}

#[test]
fn a_thousand_edits_end_in_the_verdicts_of_a_fresh_start() {
    run(async {
        let seed =
            std::env::var("POSTERN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
        println!("POSTERN_SEED={seed}");
        let mut random = Random(seed);
        let mut editor = Editor::new(&mut random);
        let mut lab = up(&[&editor.cluster.0]).await;
        lab.apply(&editor.cluster.0).await.unwrap();
        let edits = if std::env::var_os("POSTERN_LONG").is_some() { MANY_EDITS } else { EDITS };
        for number in 1..=edits {
            editor.edit(&mut random);
            lab.follow(&editor.cluster.0).await.unwrap();
            if number % BURST == 0 {
                lab.enforced().await.unwrap();
            }
        }
        lab.enforced().await.unwrap();
        let observed = lab.observe().await.unwrap().matrix;
        assert_same(&engine(&editor.cluster.0), &observed, "after all edits");
        let allowed = observed.values().filter(|reach| **reach == Reach::Allowed).count();
        assert!(
            allowed > 0 && allowed < observed.len(),
            "the edits ended in a dull state: choose another seed"
        );
        let edited = lab.dump().await.unwrap();
        let logs: Vec<String> = lab.agents_mut().iter().map(Agent::log).collect();
        lab.restart_from_nothing().await.unwrap();
        lab.enforced().await.unwrap();
        let fresh = lab.dump().await.unwrap();
        assert_eq!(fresh.len(), 2, "both nodes");
        let differing: Vec<String> =
            fresh.iter().flat_map(|(node, fresh)| differing(node, &edited[node], fresh)).collect();
        let logs = logs.join("");
        assert!(differing.is_empty(), "POSTERN_SEED={seed}: {}\n{logs}", differing.join("\n"));
    });
}

/// Interfaces that carry something else after a fresh start.
fn differing(node: &str, edited: &Value, fresh: &Value) -> Vec<String> {
    let interfaces =
        |dump: &Value| dump.as_object().into_iter().flat_map(|dump| dump.keys().cloned()).collect();
    let all: BTreeSet<String> =
        [interfaces(edited), interfaces(fresh)].into_iter().flat_map(|keys: Vec<_>| keys).collect();
    let differs = |interface: &String| edited.get(interface) != fresh.get(interface);
    let message = |interface: String| {
        let (edited, fresh) = (&edited[&interface], &fresh[&interface]);
        format!("{node}: interface {interface}:\n  after the edits {edited}\n  from a fresh start {fresh}")
    };
    all.into_iter().filter(differs).map(message).collect()
}

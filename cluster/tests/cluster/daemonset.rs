//! What deploy/ ships, running: the DaemonSet enforces between real pods on two nodes, may read what it needs and nothing
//! else, does with few capabilities, and goes without a trace.

use std::collections::BTreeSet;
use std::process::Command;

use postern_cluster::programs::Program;

use crate::deploy::deploy;
use crate::site::{Site, eventually};

/// Nothing reaches any pod of the namespace default.
const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: default }
spec: { podSelector: {}, policyTypes: [Ingress] }
";

/// But the client the server.
const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow, namespace: default }
spec:
  podSelector: { matchLabels: { run: server } }
  ingress: [{ from: [{ podSelector: { matchLabels: { run: client } } }], ports: [{ port: 8080 }] }]
";

/// What a service account of the namespace postern may do: `verbs resource`.
fn may(site: &Site, account: &str) -> BTreeSet<String> {
    let user = format!("--as=system:serviceaccount:postern:{account}");
    let table = site.ok(&["auth", "can-i", "--list", "--namespace=postern", &user]);
    let lines = table.lines().skip(1).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let verbs = words.iter().position(|word| word.starts_with('[') && !word.starts_with("[]"));
        let verbs = words[verbs.unwrap_or(0)..].join(" ");
        format!("{} {verbs}", words[0])
    });
    lines.collect()
}

/// What of Postern there may be on a node: pins, and qdiscs for filters.
fn left_on(site: &Site, node: usize) -> String {
    let pins = site.on_node(node, &["find", "/sys/fs/bpf", "-path", "*postern*"]);
    let qdiscs = site.on_node(node, &["sh", "-c", "tc qdisc show | grep clsact || true"]);
    assert!(pins.status.success() && qdiscs.status.success(), "{pins:?} {qdiscs:?}");
    String::from_utf8_lossy(&[pins.stdout, qdiscs.stdout].concat()).into_owned()
}

#[test]
fn the_daemonset_enforces_and_goes_without_a_trace() {
    let site = Site::up();
    assert!(site.reaches(), "nothing is enforced yet");
    site.kustomize("apply", "base");
    site.rolled_out("postern");
    assert!(site.reaches(), "no policy selects the pods");
    site.apply(DENY);
    site.wait_until_reaches(false, "the policy denies");
    site.apply(ALLOW);
    site.wait_until_reaches(true, "another one allows");
    site.ok(&["delete", "networkpolicy", "allow"]);
    site.wait_until_reaches(false, "and allows no more");

    // What it may do, beyond what everybody may.
    site.ok(&["--namespace=postern", "create", "serviceaccount", "nobody"]);
    let (postern, nobody) = (may(&site, "postern"), may(&site, "nobody"));
    let more: Vec<&str> = postern.difference(&nobody).map(String::as_str).collect();
    let expected = [
        "endpointslices.discovery.k8s.io [get list watch]",
        "namespaces [get list watch]",
        "networkpolicies.networking.k8s.io [get list watch]",
        "nodes [get list watch]",
        "pods [get list watch]",
        "services [get list watch]",
    ];
    assert_eq!(more, expected);

    // With agents there, no node is cleaned.
    site.kustomize("apply", "uninstall");
    let selector = "--selector=app.kubernetes.io/name=postern-uninstall";
    let reasons = "--output=jsonpath={.items[*].status.conditions[?(@.type=='PodScheduled')].reason}";
    let reasons = || site.ok(&["--namespace=postern", "get", "pods", selector, reasons]);
    eventually("no node takes a pod that would clean it", || reasons() == "Unschedulable Unschedulable");
    site.delete_daemonset("postern-uninstall");

    // Without agents, what was enforced stays, until the nodes are cleaned.
    assert!(left_on(&site, 0).contains("postern"));
    site.delete_daemonset("postern");
    assert!(!site.reaches(), "what was enforced stays");
    site.kustomize("apply", "uninstall");
    site.rolled_out("postern-uninstall");
    assert!(site.reaches(), "nothing is enforced any more");
    for node in 0..2 {
        assert_eq!(left_on(&site, node), "");
    }
    site.kustomize("delete", "uninstall");
}

#[test]
fn it_enforces_with_few_capabilities() {
    let site = Site::up();
    site.apply(DENY);
    site.kustomize("apply", "reduced");
    site.rolled_out("postern");
    site.wait_until_reaches(false, "the policy denies");
    let status = site.ok(&["--namespace=postern", "exec", "daemonset/postern", "--", "postern", "status"]);
    assert!(status.contains("ready       yes"), "{status}");
    let effective = site.on_node(0, &["sh", "-c", "grep CapEff /proc/$(pgrep --exact postern)/status"]);
    let effective = String::from_utf8_lossy(&effective.stdout).into_owned();
    // NET_BROADCAST, NET_ADMIN, PERFMON, BPF (linux/capability.h).
    let expected: u64 = 1 << 11 | 1 << 12 | 1 << 38 | 1 << 39;
    assert_eq!(effective, format!("CapEff:\t{expected:016x}\n"));
}

#[test]
fn the_chart_installs_and_rolls_a_change_of_settings_out() {
    let site = Site::up();
    let helm = |verb: &str, values: &[&str]| {
        let mut command = Command::new(Program::Helm.path().unwrap());
        command
            .arg(verb)
            .arg("postern")
            .arg(deploy("helm/postern"))
            .arg("--kubeconfig")
            .arg(site.kubeconfig());
        command.args(["--namespace=postern", "--create-namespace"]);
        let output = command.args(values.iter().flat_map(|value| ["--set", value])).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    helm("install", &["metrics.enabled=true"]);
    site.rolled_out("postern");
    site.apply(DENY);
    site.wait_until_reaches(false, "the policy denies");
    let node = site.ok(&["get", "nodes", "--output=jsonpath={.items[0].status.addresses[0].address}"]);
    let url = format!("http://{node}:9474/metrics");
    let metrics = site.ok(&["exec", "client", "--", "curl", "--silent", "--fail", "--max-time", "3", &url]);
    assert!(metrics.contains("postern_"), "{metrics}");
    helm("upgrade", &["metrics.enabled=true", "config.antispoof=all"]);
    site.rolled_out("postern");
    let status = site.ok(&["--namespace=postern", "exec", "daemonset/postern", "--", "postern", "status"]);
    assert!(status.contains("antispoof   all"), "{status}");
}

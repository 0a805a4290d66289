//! A pod is deleted by force, and goes on for as long as it may: it stays isolated until its processes have ended.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::site::{Site, eventually};

/// What this pod's processes are told apart by on their node.
const MARK: &str = "ignores-sigterm";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: default }
spec: { podSelector: { matchLabels: { run: stubborn } }, policyTypes: [Ingress, Egress] }
";

/// Echo requests that the client got so far.
fn echoes(site: &Site) -> u64 {
    let snmp = site.ok(&["exec", "client", "--", "cat", "/proc/net/snmp"]);
    let mut lines = snmp.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "InEchos").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

fn runs(site: &Site) -> bool {
    site.on_node(0, &["pgrep", "--full", MARK]).status.success()
}

#[test]
fn a_pod_that_is_deleted_by_force_stays_isolated_until_its_end() {
    let site = Site::up();
    site.kustomize("apply", "base");
    site.rolled_out("postern");
    let node = site.cluster.nodes()[0].name().to_owned();
    let client = site.ok(&["get", "pod", "client", "--output=jsonpath={.status.podIP}"]);
    site.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: stubborn, namespace: default, labels: {{ run: stubborn }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 15
  containers:
    - name: main
      image: postern.test/netshoot:1
      command: [sh, -c, \"trap '' TERM; while :; do ping -i 0.1 -c 100 {client}; done; : {MARK}\"]
"
    ));
    let start = echoes(&site);
    eventually("nothing isolates it yet", || echoes(&site) > start + 10);
    site.apply(DENY);
    eventually("the policy denies", || {
        let before = echoes(&site);
        sleep(Duration::from_secs(1));
        echoes(&site) == before
    });

    let before = echoes(&site);
    site.ok(&["delete", "pod", "stubborn", "--force", "--grace-period=0"]);
    let deleted = Instant::now();
    let gone = site.ok(&["get", "pods", "--output=name"]);
    assert!(!gone.contains("stubborn"), "{gone}");
    assert!(runs(&site), "it ended before anything could be seen");
    let selector = format!("--field-selector=spec.nodeName={node}");
    let agent = site.ok(&["--namespace=postern", "get", "pods", "--output=name", &selector]);
    let shown = site.ok(&["--namespace=postern", "exec", agent.trim(), "--", "postern", "status"]);
    eventually("it ends", || !runs(&site));
    println!("it ran for {:?} without an object", deleted.elapsed());
    assert_eq!(echoes(&site) - before, 0, "echo requests that got out");
    assert!(shown.contains("default/stubborn (gone)"), "{shown}");
    eventually("nothing stays of it", || {
        let shown = site.ok(&["--namespace=postern", "exec", agent.trim(), "--", "postern", "status"]);
        !shown.contains("stubborn")
    });
}

//! Whole clusters: pods on two nodes, Services, and that nothing stays.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use postern_cluster::cluster::{Cluster, Options};
use postern_cluster::node::{Cni, ProxyMode};

use crate::support::{kubectl, kubectl_ok, leftovers};

const MANIFEST: &str = include_str!("nodes.yaml");
/// What the kubelet would set on the machine.
const SETTINGS: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

#[test]
fn pods_and_services_with_ptp_and_iptables() {
    check(Cni::Ptp, ProxyMode::Iptables, "KUBE-SERVICES", "iptables-save");
}

#[test]
fn pods_and_services_with_bridge_and_nftables() {
    check(Cni::Bridge, ProxyMode::Nftables, "table ip kube-proxy", "nft list ruleset");
}

/// Brings a cluster up, and has every client talk to both servers, by address and through the Service.
fn check(cni: Cni, proxy_mode: ProxyMode, rules: &str, list_rules: &str) {
    let settings =
        || SETTINGS.map(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap());
    let before = settings();
    let helper = PathBuf::from(env!("CARGO_BIN_EXE_postern-cluster"));
    let options = Options { cni, proxy_mode, ..Options::new(helper) };
    let started = Instant::now();
    let mut cluster = Cluster::up(&options, |_| ControlFlow::Continue(())).unwrap();
    println!("two nodes ready after {:.1} s", started.elapsed().as_secs_f32());
    let relay = cluster.control().relay().unwrap();
    let config = relay.kubeconfig();
    let manifest = cluster.control().state().join("nodes.yaml");
    std::fs::write(&manifest, MANIFEST).unwrap();
    kubectl_ok(config, &["apply", "--filename", manifest.to_str().unwrap()]);
    kubectl_ok(config, &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    println!("four pods ready after {:.1} s", started.elapsed().as_secs_f32());

    let of =
        |name: &str, path: &str| kubectl_ok(config, &["get", name, &format!("--output=jsonpath={path}")]);
    let servers = ["server-1", "server-2"];
    for client in ["client-1", "client-2"] {
        let ask = |address: &str, port: &str| {
            let arguments = ["exec", client, "--", "nc", "-w", "3", address, port];
            kubectl_ok(config, &arguments).trim().to_owned()
        };
        for server in servers {
            let address = of(&format!("pod/{server}"), "{.status.podIP}");
            assert_eq!(ask(&address, "8080"), format!("{server} hears {}", own(config, client)));
        }
        let service = of("service/servers", "{.spec.clusterIP}");
        let answers: Vec<String> = (0..24).map(|_| ask(&service, "80")).collect();
        for server in servers {
            assert!(answers.iter().any(|answer| answer.starts_with(server)), "{client}: {answers:?}");
        }
    }
    let refused = kubectl(config, &["exec", "client-1", "--", "nc", "-w", "3", "10.244.2.250", "8080"]);
    assert!(!refused.status.success(), "nobody has this address");
    let node = &cluster.nodes()[0];
    let init = node.init().unwrap().to_string();
    let mut shell = std::process::Command::new("nsenter");
    let inside =
        shell.args(["--mount", "--net", "--pid", "--target", &init, "--", "sh", "-c", list_rules]).output();
    let inside = String::from_utf8_lossy(&inside.unwrap().stdout).into_owned();
    assert!(inside.contains(rules), "{inside}");

    let state = cluster.control().state();
    let run = state.file_name().unwrap().to_str().unwrap();
    assert!(leftovers(run).len() > 5, "it is there: {:?}", leftovers(run));
    drop(cluster);
    assert_eq!(leftovers(run), Vec::<String>::new());
    assert_eq!(settings(), before, "settings of the whole machine");
}

/// The address of a pod, as its peers should see it.
fn own(config: &Path, pod: &str) -> String {
    kubectl_ok(config, &["get", "pod", pod, "--output=jsonpath={.status.podIP}"])
}

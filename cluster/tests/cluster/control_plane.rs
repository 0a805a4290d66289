//! The control plane alone: what it can do, how it is reached, and how it is broken and mended.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use postern_cluster::control_plane::{ControlPlane, Options};
use postern_cluster::programs::KUBERNETES;
use postern_cluster::relay::Mode;
use postern_lab::netlink::Netlink;
use postern_lab::netns::{self, Netns};

use crate::support::{kubectl, kubectl_ok};

#[test]
fn objects_survive_a_crash_of_both_programs_and_not_a_start_over() {
    let mut control = ControlPlane::start(&Options::default()).unwrap();
    let relay = control.relay().unwrap();
    let config = relay.kubeconfig();
    let version = kubectl_ok(config, &["version"]);
    assert!(version.contains(&format!("Server Version: {KUBERNETES}")), "{version}");
    kubectl_ok(config, &["create", "configmap", "kept"]);
    control.apiserver().kill().unwrap();
    assert!(!kubectl(config, &["get", "configmap", "kept"]).status.success(), "nobody is there to answer");
    control.etcd().kill().unwrap();
    control.etcd().start().unwrap();
    control.apiserver().start().unwrap();
    control.wait_until_ready().unwrap();
    kubectl_ok(config, &["get", "configmap", "kept"]);
    control.start_over().unwrap();
    let gone = kubectl(config, &["get", "configmap", "kept"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("not found"), "{gone:?}");
}

#[test]
fn rbac_holds_for_other_users_and_pods_need_no_controllers() {
    let mut control = ControlPlane::start(&Options::default()).unwrap();
    let relay = control.relay().unwrap();
    let pod = ["run", "pod", "--image=none", "--overrides={\"spec\":{\"nodeName\":\"nowhere\"}}"];
    kubectl_ok(relay.kubeconfig(), &pod);
    let nobody = control.state().join("nobody.kubeconfig");
    std::fs::write(&nobody, control.kubeconfig_for("nobody", None, &relay).unwrap()).unwrap();
    let refused = kubectl(&nobody, &["get", "pods"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Forbidden"), "{refused:?}");
    kubectl_ok(
        relay.kubeconfig(),
        &["create", "clusterrole", "reader", "--verb=get,list", "--resource=pods"],
    );
    let granted = ["create", "clusterrolebinding", "nobody", "--clusterrole=reader", "--user=nobody"];
    kubectl_ok(relay.kubeconfig(), &granted);
    // The API server takes a moment to hear of it.
    std::thread::sleep(Duration::from_secs(1));
    assert!(kubectl_ok(&nobody, &["get", "pods"]).contains("pod "));
}

#[test]
fn a_relay_stalls_cuts_and_passes_from_another_namespace() {
    let mut control = ControlPlane::start(&Options::default()).unwrap();
    let elsewhere = Elsewhere::new();
    let relay = control.relay_from(&elsewhere.0).unwrap();
    let ask = || elsewhere.0.within(|| kubectl(relay.kubeconfig(), &["get", "namespaces"])).unwrap();
    assert!(ask().status.success(), "{:?}", ask());
    relay.set(Mode::Stall);
    let started = Instant::now();
    assert!(!ask().status.success());
    assert!(started.elapsed() > Duration::from_secs(4), "a stalled connection hangs until kubectl gives up");
    relay.set(Mode::Cut);
    let connect = || TcpStream::connect(relay.address()).unwrap();
    let mut connection = elsewhere.0.within(connect).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "a cut one is closed at once");
    relay.set(Mode::Pass);
    assert!(ask().status.success());
    assert!(
        !kubectl(relay.kubeconfig(), &["get", "namespaces"]).status.success(),
        "it listens elsewhere only"
    );
}

#[test]
fn nothing_is_left_of_a_dropped_control_plane() {
    let control = ControlPlane::start(&Options::default()).unwrap();
    let (state, netns) = (control.state(), control.netns().path());
    assert!(state.exists() && netns.exists());
    drop(control);
    assert!(!state.exists() && !netns.exists());
}

/// A namespace that is not the cluster's.
struct Elsewhere(Netns);

impl Elsewhere {
    fn new() -> Self {
        let netns = Netns::create(&format!("pstnc-elsewhere-{}", std::process::id())).unwrap();
        Netlink::open_in(&netns).unwrap().set_up(1).unwrap();
        Self(netns)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        netns::delete(self.0.name()).unwrap();
    }
}

//! Command lines of the control plane's programs.

use std::path::{Path, PathBuf};

use super::Identities;
use crate::fabric::{APISERVER_PORT, CONTROL, PODS, SERVICES};

/// Nobody outside the control plane's namespace can reach it, so it needs no certificates.
const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// Nobody makes the service accounts that this admission plugin would give every pod.
pub(super) const WITHOUT_CONTROLLERS: [&str; 1] = ["--disable-admission-plugins=ServiceAccount"];

/// Where etcd keeps its data.
pub(super) fn etcd_data(state: &Path) -> PathBuf {
    state.join("etcd")
}

pub(super) fn etcd(state: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", etcd_data(state).display()),
        format!("--listen-client-urls={ETCD_CLIENTS}"),
        format!("--advertise-client-urls={ETCD_CLIENTS}"),
        format!("--listen-peer-urls={ETCD_PEERS}"),
        format!("--initial-advertise-peer-urls={ETCD_PEERS}"),
        format!("--initial-cluster=default={ETCD_PEERS}"),
        // The cluster is gone after a power failure anyway.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

pub(super) fn apiserver(identities: &Identities) -> Vec<String> {
    let pki = identities.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    vec![
        format!("--etcd-servers={ETCD_CLIENTS}"),
        format!("--advertise-address={CONTROL}"),
        format!("--secure-port={APISERVER_PORT}"),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-client-certificate={}", file("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", file("apiserver-kubelet.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", file("service-accounts.key")),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", file("front-proxy.crt")),
        format!("--proxy-client-key-file={}", file("front-proxy.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        // A stopped one shall not wait for its clients' watches.
        "--shutdown-delay-duration=0s".to_owned(),
    ]
}

pub(super) fn controller_manager(identities: &Identities) -> Vec<String> {
    let pki = identities.pki();
    let mut flags = with_kubeconfig(&identities.kubeconfig("controller-manager"));
    flags.extend([
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", pki.join("service-accounts.key").display()),
        format!("--root-ca-file={}", pki.join("ca.crt").display()),
        // Ranges are given to nodes by their numbers, and routed: see `fabric`.
        "--allocate-node-cidrs=false".to_owned(),
        format!("--cluster-cidr={PODS}"),
        // It makes this folder; the default is in the machine's /usr.
        format!("--flex-volume-plugin-dir={}", pki.join("../volume-plugins").display()),
    ]);
    flags
}

pub(super) fn scheduler(identities: &Identities) -> Vec<String> {
    with_kubeconfig(&identities.kubeconfig("scheduler"))
}

fn with_kubeconfig(kubeconfig: &Path) -> Vec<String> {
    let kubeconfig = kubeconfig.display();
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        // There is one of each.
        "--leader-elect=false".to_owned(),
    ]
}

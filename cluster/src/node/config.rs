//! Configuration files and command lines of a node's programs. Paths are as the node sees them: it has its own `/run`,
//! `/var/lib` and `/var/log`.

use std::path::Path;

use serde_json::{Value, json};

use super::{CNI_PLUGINS, Cni, Error, Plan, ProxyMode, name};
use crate::control_plane::Identities;
use crate::dns;
use crate::fabric::{self, PODS};
use crate::files;
use crate::image;

/// Where containerd listens.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const CNI_CONFIG: &str = "/run/cni/net.d";

/// Command lines.
pub(super) struct CommandLines {
    pub(super) containerd: Vec<String>,
    pub(super) kubelet: Vec<String>,
    pub(super) proxy: Vec<String>,
}

/// Writes everything into `state`, and what the node finds in its `/run` into `run`.
pub(super) fn write(
    identities: &Identities,
    plan: &Plan,
    state: &Path,
    run: &Path,
    cgroup: &str,
) -> Result<CommandLines, Error> {
    let name = name(plan.number);
    let address = fabric::node_address(plan.number).to_string();
    let pair =
        identities.authority().server(&format!("system:node:{name}"), &[name.clone(), address.clone()])?;
    let (certificate, key) = pair.write(state, "kubelet")?;
    let user = format!("system:node:{name}");
    let of_kubelet = identities.write_kubeconfig(&name, &user, Some("system:nodes"))?;
    let of_proxy = identities.write_kubeconfig(&format!("{name}-proxy"), "system:kube-proxy", None)?;
    let cni = run.join("cni/net.d/10-postern-cluster.conflist");
    write_json(&cni, &cni_config(plan.cni, plan.number))?;
    // Pods have no name server of the machine's: it is out of their reach.
    let resolv = state.join("resolv.conf");
    files::write(&resolv, "")?;
    let containerd = state.join("containerd.toml");
    files::write(&containerd, containerd_config())?;
    let kubelet = state.join("kubelet.json");
    let authority = identities.pki().join("ca.crt");
    let mut settings = kubelet_config(cgroup, &certificate, &key, &authority, &resolv);
    if plan.dns {
        settings["clusterDNS"] = json!([fabric::DNS_SERVICE]);
        settings["clusterDomain"] = json!(dns::DOMAIN);
    }
    write_json(&kubelet, &settings)?;
    let proxy = state.join("kube-proxy.json");
    write_json(&proxy, &proxy_config(plan.proxy_mode, &name, &of_proxy))?;
    Ok(CommandLines {
        containerd: vec![format!("--config={}", containerd.display())],
        kubelet: vec![
            format!("--config={}", kubelet.display()),
            format!("--kubeconfig={}", of_kubelet.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={address}"),
        ],
        proxy: vec![format!("--config={}", proxy.display())],
    })
}

fn write_json(path: &Path, value: &Value) -> Result<(), files::Error> {
    files::write(path, format!("{value:#}\n"))
}

/// The settings are those of a machine that is not all ours: no `oom_score_adj` below our own, no `AppArmor`, no systemd.
fn containerd_config() -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let pause = image::PAUSE;
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
# The file systems that they need are not there.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[{cri}]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [{cri}.cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{CNI_CONFIG}"
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}

/// What pods send to the world keeps their addresses: there is nobody out there to whom that matters.
fn cni_config(cni: Cni, number: u8) -> Value {
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{ "subnet": fabric::pod_range(number).to_string() }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let interface = match cni {
        Cni::Ptp => json!({ "type": "ptp", "ipam": ipam }),
        Cni::Bridge => json!({
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "hairpinMode": true,
            "ipam": ipam,
        }),
    };
    let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "0.4.0", "name": "postern-cluster", "plugins": [interface, ports] })
}

fn kubelet_config(cgroup: &str, certificate: &Path, key: &Path, authority: &Path, resolv: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": authority },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": certificate,
        "tlsPrivateKeyFile": key,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "oomScoreAdj": 0,
        "failSwapOn": false,
        "resolvConf": resolv,
        // The default is a folder of the machine's /usr.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // The machine's disk is not ours alone: how full it is, is none of our business.
        "evictionHard": { "memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%" },
        "imageGCHighThresholdPercent": 100,
        // Tests wait for pods to come and go.
        "syncFrequency": "5s",
        "nodeStatusUpdateFrequency": "5s",
    })
}

fn proxy_config(mode: ProxyMode, node: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": match mode { ProxyMode::Iptables => "iptables", ProxyMode::Nftables => "nftables" },
        "hostnameOverride": node,
        "clusterCIDR": PODS,
        "clientConnection": { "kubeconfig": kubeconfig },
        // These are settings of the whole machine.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "oomScoreAdj": 0,
        "metricsBindAddress": "127.0.0.1:10249",
    })
}

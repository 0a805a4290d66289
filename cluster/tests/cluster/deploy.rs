//! What deploy/ ships, before anything runs of it: the two ways to install say the same, and the API server takes both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use postern_cluster::control_plane::{ControlPlane, Options};
use postern_cluster::programs::Program;
use serde_json::Value;

/// Labels and annotations that Helm adds, and kustomize has no use for.
const OF_HELM: [&str; 5] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "checksum/config",
    "helm.sh/chart",
];

/// A folder of deploy/.
pub(crate) fn deploy(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(folder)
}

/// What `kubectl kustomize` builds of a folder.
pub(crate) fn kustomize(folder: &str) -> String {
    let mut command = Command::new(Program::Kubectl.path().unwrap());
    stdout(command.arg("kustomize").arg(deploy("kustomize").join(folder)).output().unwrap())
}

/// What `helm template` makes of the chart with these values.
fn helm(values: &[&str]) -> Output {
    let mut command = Command::new(Program::Helm.path().unwrap());
    command.arg("template").arg("postern").arg(deploy("helm/postern")).args(["--namespace", "postern"]);
    command.args(values.iter().flat_map(|value| ["--set", value])).output().unwrap()
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by kind and name, without what only one of the two ways adds.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let mut object: Value = serde::Deserialize::deserialize(document).unwrap();
        // Helm makes the namespace by itself (--create-namespace).
        if object.is_null() || object["kind"] == "Namespace" {
            continue;
        }
        normalise(&mut object);
        let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(objects.insert(key.clone(), object).is_none(), "{key} twice");
    }
    objects
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !OF_HELM.contains(&name.as_str()));
            fields.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        // kustomize names a ConfigMap after its content.
        Value::String(text) => {
            let hash = text.strip_prefix("postern-").filter(|hash| hash.len() == 10);
            if hash.is_some_and(|hash| hash.chars().all(char::is_alphanumeric)) {
                "postern".clone_into(text);
            }
        }
        _ => {}
    }
}

#[test]
fn the_chart_and_kustomize_make_the_same_objects() {
    for (folder, values) in [("base", &[][..]), ("reduced", &["privileged=false"])] {
        let (by_kustomize, by_helm) = (objects(&kustomize(folder)), objects(&stdout(helm(values))));
        assert_eq!(by_kustomize.len(), 5, "{:?}", by_kustomize.keys());
        let keys = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&by_kustomize), keys(&by_helm), "{folder}");
        for (key, object) in &by_kustomize {
            assert_eq!(object, &by_helm[key], "{folder}: {key} differs: left kustomize, right Helm");
        }
    }
}

#[test]
fn the_chart_has_no_lint() {
    let mut command = Command::new(Program::Helm.path().unwrap());
    stdout(command.args(["lint", "--strict"]).arg(deploy("helm/postern")).output().unwrap());
}

#[test]
fn the_chart_refuses_what_would_not_work() {
    for (values, said) in [
        ("priviledged=false", "priviledged"),
        ("metrics.port=http", "metrics/port"),
        ("metrics.podMonitor.enabled=true", "metrics.enabled"),
        ("image.digest=latest", "image/digest"),
    ] {
        let refused = helm(&[values]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && stderr.contains(said), "{values}: {stderr}");
    }
}

#[test]
fn the_chart_passes_settings_on() {
    let values = ["config.antispoof=all", "config.timeout.tcp-established=2h30m", "metrics.enabled=true"];
    let objects = objects(&stdout(helm(&values)));
    let config = objects[r#""ConfigMap" "postern""#]["data"]["config.yaml"].as_str().unwrap();
    assert_eq!(config, "antispoof: all\ntimeout:\n  tcp-established: 2h30m\n");
    let container = &objects[r#""DaemonSet" "postern""#]["spec"]["template"]["spec"]["containers"][0];
    let address = container["env"].as_array().unwrap().iter().find(|it| it["name"] == "POSTERN_HTTP_ADDRESS");
    assert_eq!(address.unwrap()["value"], "$(HOST_IP):9474");
    // Of a pod on the host's network, a probe without a host asks the node's address.
    assert!(container["readinessProbe"]["httpGet"]["host"].is_null());
}

/// Values without values below them, with their defaults.
fn leaves(path: &str, value: &Value, whole: &[&str], into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !whole.contains(&path) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(&below, value, whole, into);
            }
        }
        leaf => {
            into.insert(path.to_owned(), leaf.to_string());
        }
    }
}

#[test]
fn the_chart_documents_its_values() {
    let values = std::fs::read_to_string(deploy("helm/postern/values.yaml")).unwrap();
    let mut expected = BTreeMap::new();
    let values: Value = serde_yaml_ng::from_str(&values).unwrap();
    leaves("", &values, &["resources", "nodeSelector"], &mut expected);
    let readme = std::fs::read_to_string(deploy("helm/postern/README.md")).unwrap();
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let documented: BTreeMap<String, String> = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (cell(cells[1]), cell(cells[2]))
        })
        .collect();
    assert_eq!(documented, expected, "left README.md, right values.yaml");
}

#[test]
fn the_api_server_takes_all_of_it() {
    let mut control = ControlPlane::start(&Options::default()).unwrap();
    let relay = control.relay().unwrap();
    let apply = |manifests: &str, arguments: &[&str]| {
        let mut command = Command::new(Program::Kubectl.path().unwrap());
        command.arg("--kubeconfig").arg(relay.kubeconfig()).args(["apply", "--server-side", "--filename=-"]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
        stdout(child.wait_with_output().unwrap())
    };
    // A dry run makes no namespace for what comes after it.
    apply(&kustomize("namespace"), &[]);
    let mut applied = BTreeSet::new();
    for manifests in [
        kustomize("base"),
        kustomize("reduced"),
        kustomize("uninstall"),
        stdout(helm(&["privileged=false", "config.antispoof=all"])),
        stdout(helm(&["metrics.enabled=true", "image.digest="])),
    ] {
        let said = apply(&manifests, &["--dry-run=server", "--validate=strict", "--force-conflicts"]);
        applied.extend(said.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
    }
    for kind in ["namespace", "serviceaccount", "configmap", "daemonset.apps"] {
        assert!(applied.iter().any(|it| it.starts_with(&format!("{kind}/postern"))), "{kind}: {applied:?}");
    }
}

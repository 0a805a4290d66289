//! Folders with every kind of mistake, and what becomes of what was good.

mod kinds;
mod lists;
mod subfolders;
mod unread;

use std::fs;
use std::path::Path;

use postern_policy::model::{
    Namespace, NamespacedName, NetworkPolicy, Object, ObjectRef, Peer, PortMatch, Selector,
};
use tempfile::TempDir;

use super::{ManifestError, Reading, Source, digest, load};
use crate::feed::Change;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.0.0.1}]}
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}]}]
";

struct Folder {
    folder: TempDir,
    source: Source,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::new(folder.path());
        let new = Self { folder, source };
        for (name, content) in files {
            new.write(name, content);
        }
        new
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&mut self) -> (Vec<Change>, Vec<String>) {
        let Reading { changes, errors, .. } = self.source.read();
        // The folder's own path is of no interest.
        let prefix = format!("{}/", self.path().display());
        (changes, errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect())
    }
}

/// The namespace that manifests are in without describing it.
fn shop() -> Change {
    let labels = [("kubernetes.io/metadata.name".into(), "shop".into())].into();
    Change::Apply(Object::Namespace(Namespace { name: "shop".into(), labels }))
}

fn policy(changes: &[Change]) -> &NetworkPolicy {
    let policies = changes.iter().filter_map(|change| match change {
        Change::Apply(Object::NetworkPolicy(policy)) => Some(policy),
        _ => None,
    });
    let [policy] = policies.collect::<Vec<_>>()[..] else { panic!("not one policy in {changes:?}") };
    policy
}

fn web() -> ObjectRef {
    ObjectRef::NetworkPolicy(NamespacedName::new("shop", "web"))
}

#[test]
fn edits_become_changes() {
    let mut folder = Folder::new(&[("a.yaml", &format!("{POD}---{POLICY}")), ("ignored.txt", "}{")]);
    let (changes, errors) = folder.read();
    assert_eq!((changes.len(), errors), (3, vec![]));
    assert!(changes.contains(&shop()), "the namespace nobody described");
    assert_eq!(folder.read().0, vec![], "nothing new");
    folder.write("a.yaml", POD);
    folder.write("b.yml", &POLICY.replace("80", "81"));
    let (changes, _) = folder.read();
    assert_eq!(changes.len(), 1, "moved to another file and edited: one change");
    assert!(matches!(policy(&changes).ingress.as_ref().unwrap()[0].ports[0].ports, PortMatch::Range(81, 81)));
    fs::remove_file(folder.path().join("b.yml")).unwrap();
    assert_eq!(folder.read().0, vec![Change::Delete(web())]);
}

#[test]
fn namespaces_that_nobody_describes_have_their_name_as_a_label() {
    let mut folder = Folder::new(&[("a.yaml", POD)]);
    assert!(folder.read().0.contains(&shop()));
    folder.write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: [broken]}\n");
    let gone = Change::Delete(ObjectRef::Namespace("shop".into()));
    assert_eq!(folder.read().0, vec![], "its last good version stays");
    let mut folder = Folder::new(&[
        ("a.yaml", POD),
        ("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: [broken]}\n"),
    ]);
    assert!(!folder.read().0.contains(&shop()), "nobody knows its labels");
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    assert_eq!(folder.read().0, vec![shop()]);
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    assert!(folder.read().0.contains(&gone));
}

#[test]
fn a_broken_document_costs_nothing_but_itself() {
    let mut folder = Folder::new(&[("a.yaml", POLICY)]);
    let _ = folder.read();
    folder.write("a.yaml", &format!("{POD}---\nkind: [unclosed\n---{}", POLICY.replace("80", "81")));
    let (changes, errors) = folder.read();
    assert_eq!(changes.len(), 2, "its neighbours are read");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("a.yaml, document 2: not YAML: "), "{}", errors[0]);
    assert!(
        errors[0].contains("(line 9 of the file)") || errors[0].contains("(line 10 of the file)"),
        "{}",
        errors[0]
    );
}

#[test]
fn what_a_file_held_stays_while_nobody_can_tell_what_it_holds() {
    let mut folder = Folder::new(&[("a.yaml", POLICY), ("b.yaml", POD)]);
    let _ = folder.read();
    folder.write("a.yaml", "kind: [unclosed");
    assert!(folder.source.read().incomplete, "there may be more than was ever seen");
    let (changes, errors) = folder.read();
    assert_eq!(changes, vec![], "the policy stays");
    assert!(errors[0].contains("what was known before stays"), "{}", errors[0]);
    folder.write("a.yaml", "");
    assert!(folder.read().0.contains(&Change::Delete(web())), "an empty file says clearly that it is gone");
}

#[test]
fn the_last_good_version_of_a_named_object_stays() {
    let mut folder = Folder::new(&[("a.yaml", POLICY)]);
    let _ = folder.read();
    folder.write("a.yaml", &POLICY.replace("port: 80", "port: [80]"));
    let (changes, errors) = folder.read();
    assert_eq!(changes, vec![]);
    assert_eq!(errors.len(), 1);
    let expected = "a.yaml, document 1: NetworkPolicy shop/web: spec.ingress[0].ports[0].port: ";
    assert!(errors[0].starts_with(expected), "{}", errors[0]);
    assert!(errors[0].ends_with("its last good version stays"), "{}", errors[0]);
}

#[test]
fn a_policy_that_was_never_readable_isolates_what_it_selects() {
    let cases: &[(&str, String, Selector, bool, bool)] = &[
        ("a broken rule", POLICY.replace("port: 80", "port: [80]"), web_selector(), true, true),
        ("a field misspelt", POLICY.replace("ingress:", "ingres:"), web_selector(), true, true),
        (
            "directions still readable",
            POLICY.replace("  ingress: [{ports: [{port: 80}]}]", "  policyTypes: [Egress]\n  egress: 7"),
            web_selector(),
            false,
            true,
        ),
        (
            "a selector that makes no sense",
            POLICY.replace("matchLabels", "matchExpressions"),
            Selector::default(),
            true,
            true,
        ),
        (
            "an operator that does not exist",
            POLICY.replace("{matchLabels: {app: web}}", "{matchExpressions: [{key: app, operator: Like}]}"),
            Selector::default(),
            true,
            true,
        ),
        (
            "another version of the API",
            POLICY.replace("networking.k8s.io/v1", "extensions/v1beta1"),
            web_selector(),
            true,
            true,
        ),
    ];
    for (what, yaml, selector, ingress, egress) in cases {
        let mut folder = Folder::new(&[("a.yaml", yaml)]);
        let (changes, errors) = folder.read();
        let policy = policy(&changes);
        assert_eq!(&policy.pod_selector, selector, "{what}");
        assert_eq!(policy.ingress, ingress.then(Vec::new), "{what}");
        assert_eq!(policy.egress, egress.then(Vec::new), "{what}");
        assert!(errors[0].contains("isolated until it is mended"), "{what}: {}", errors[0]);
        // Deleting it is honoured.
        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert!(folder.read().0.contains(&Change::Delete(web())), "{what}");
    }
}

fn web_selector() -> Selector {
    let mut folder = Folder::new(&[("a.yaml", POLICY)]);
    policy(&folder.read().0).pod_selector.clone()
}

#[test]
fn a_misspelt_field_is_named_as_people_write_it() {
    let mut folder = Folder::new(&[("a.yaml", &POLICY.replace("ports:", "prots:"))]);
    let (_, errors) = folder.read();
    let expected =
        "a.yaml, document 1: NetworkPolicy shop/web: spec.ingress[0].prots: no such field in a NetworkPolicy";
    assert!(errors[0].starts_with(expected), "{}", errors[0]);
}

#[test]
fn parts_that_cannot_be_meant_match_nothing() {
    let broken = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [192.168.0.0/16]}
    - ipBlock: {cidr: 10.0.0.0/33}
    - ipBlock: {cidr: 10.1.2.3/8}
      podSelector: {}
    - {}
    ports:
    - {port: 0}
    - {port: 80, endPort: 79}
    - {port: http, endPort: 90}
    - {port: \"80\"}
    - {protocol: ICMP}
";
    let mut folder = Folder::new(&[("a.yaml", broken)]);
    let (changes, errors) = folder.read();
    let rule = &policy(&changes).ingress.as_ref().unwrap()[0];
    assert_eq!(rule.peers, vec![Peer::Nothing; 4], "and the list is not empty, which would mean anyone");
    assert!(rule.ports.iter().all(|port| port.ports == PortMatch::Nothing), "{:?}", rule.ports);
    let expected = [
        "from[0].ipBlock.except[0]: 192.168.0.0/16 does not lie inside 10.0.0.0/8",
        "from[1].ipBlock.cidr: \"10.0.0.0/33\" is not a CIDR",
        "from[2].ipBlock: stands beside a selector",
        "ports[0].port: 0 is not between 1 and 65535",
        "ports[1].endPort: 79 is below port 80",
        "ports[2].endPort: needs a numeric port",
        "ports[3].port: \"80\" is not a port name",
        "ports[4].protocol: \"ICMP\" is none of TCP, UDP, SCTP",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{error}: should say {expected}");
    }
}

#[test]
fn a_direction_misspelt_isolates_both() {
    for (types, rules) in [("[egress]", "80"), ("[Ingress, Egres]", "80"), ("[Ingress, Egres]", "[80]")] {
        let spec = format!("  policyTypes: {types}\n  ingress: [{{ports: [{{port: {rules}}}]}}]");
        let yaml = POLICY.replace("  ingress: [{ports: [{port: 80}]}]", &spec);
        let (changes, errors) = Folder::new(&[("a.yaml", &yaml)]).read();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(policy(&changes).ingress.is_some() && policy(&changes).egress == Some(vec![]), "{yaml}");
    }
}

#[test]
fn an_annotation_that_cannot_be_meant_is_reported_and_the_pod_is_used() {
    let annotated = POD.replace("name: web,", "name: web, annotations: {postern.dev/antispoof: none},");
    let mut folder = Folder::new(&[("a.yaml", &annotated)]);
    let (changes, errors) = folder.read();
    assert!(changes.iter().any(|change| matches!(change, Change::Apply(Object::Pod(pod)) if !pod.unguarded)));
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.starts_with("a.yaml, document 1: Pod shop/web: metadata.annotations["), "{error}");
    assert!(error.ends_with("until it is mended, the pod may send from its own addresses alone"), "{error}");
}

#[test]
fn a_name_used_twice_is_reported_and_the_first_counts() {
    let mut folder = Folder::new(&[("a.yaml", POLICY), ("b.yaml", &POLICY.replace("80", "81"))]);
    let (changes, errors) = folder.read();
    assert!(matches!(policy(&changes).ingress.as_ref().unwrap()[0].ports[0].ports, PortMatch::Range(80, 80)));
    assert!(errors[0].starts_with("b.yaml, document 1: NetworkPolicy shop/web stands in "), "{}", errors[0]);
}

#[test]
fn a_folder_that_is_not_there_keeps_everything() {
    let mut folder = Folder::new(&[("a.yaml", POLICY)]);
    let _ = folder.read();
    let moved = folder.path().with_extension("moved");
    fs::rename(folder.path(), &moved).unwrap();
    let Reading { changes, errors, incomplete, .. } = folder.source.read();
    fs::rename(&moved, folder.path()).unwrap();
    assert_eq!(changes, vec![]);
    assert!(incomplete);
    assert!(matches!(&errors[..], [ManifestError::Unreadable { .. }]), "{errors:?}");
}

#[test]
fn other_kinds_and_the_labs_file_are_passed_over() {
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {anything: goes}\n";
    let lab = "nodes: [node-a, {name: node-b, style: bridge}]\nexternals: [{name: dns, ips: [8.8.8.8], ports: [{port: 53, protocol: UDP}]}]\n";
    let folder = Folder::new(&[("a.yaml", other), ("lab.yaml", lab)]);
    let loaded = load(folder.path()).unwrap();
    assert_eq!(loaded.objects, vec![]);
    let lab = loaded.lab.unwrap();
    assert_eq!(lab.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node-a", "node-b"]);
    assert_eq!(lab.externals()[0].name, "dns");
    folder.write("lab.yaml", "nods: []\n");
    assert!(load(folder.path()).unwrap_err()[0].to_string().contains("nods"), "a field misspelt");
}

#[test]
fn the_digest_follows_contents_and_names() {
    let folder = Folder::new(&[("a.yaml", POD)]);
    let first = digest(folder.path()).unwrap();
    folder.write("ignored.txt", "x");
    assert_eq!(digest(folder.path()).unwrap(), first);
    folder.write("a.yaml", POLICY);
    assert_ne!(digest(folder.path()).unwrap(), first);
    folder.write("a.yaml", POD);
    assert_eq!(digest(folder.path()).unwrap(), first);
    fs::rename(folder.path().join("a.yaml"), folder.path().join("b.yaml")).unwrap();
    assert_ne!(digest(folder.path()).unwrap(), first);
}

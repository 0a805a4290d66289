//! Pods, namespaces and nodes, reduced to what policy needs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use postern_policy::model::{ContainerPort, Labels, Namespace, NamespacedName, Node, Pod, Protocol};

use super::slim::{self, Metadata};
use super::{Problem, address};

/// The label that every namespace carries (set by the API server).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The annotation by which a pod opts out of anti-spoofing.
const ANTISPOOF: &str = "postern.dev/antispoof";

pub(super) fn id(metadata: &Metadata) -> Result<NamespacedName, Problem> {
    named(metadata.namespace.as_deref(), metadata.name.as_deref())
}

pub(super) fn named(namespace: Option<&str>, name: Option<&str>) -> Result<NamespacedName, Problem> {
    let name = name.ok_or_else(|| Problem::new("metadata.name", "is missing"))?;
    // What kubectl does with manifests that name no namespace.
    Ok(NamespacedName::new(namespace.unwrap_or("default"), name))
}

fn labels(metadata: &Metadata) -> Labels {
    metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

/// Parses `protocol`, which is TCP when unset.
pub(super) fn protocol(field: &str, protocol: Option<&str>) -> Result<Protocol, Problem> {
    match protocol {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Problem::new(field, format!("{other:?} is none of TCP, UDP, SCTP"))),
    }
}

/// Parses a port number.
pub(super) fn port_number(field: &str, number: i32) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(Problem::new(field, format!("{number} is not between 1 and 65535"))),
    }
}

/// Converts a namespace.
///
/// # Errors
///
/// `metadata.name` is missing.
pub fn namespace(object: &slim::Namespace) -> Result<Namespace, Problem> {
    let name: Arc<str> =
        object.metadata.name.as_deref().ok_or_else(|| Problem::new("metadata.name", "is missing"))?.into();
    let mut namespace = bare_namespace(name);
    namespace
        .labels
        .append(&mut labels(&object.metadata).into_iter().filter(|(key, _)| &**key != NAME_LABEL).collect());
    Ok(namespace)
}

/// A namespace with no labels but the one that the API server gives to all.
#[must_use]
pub fn bare_namespace(name: Arc<str>) -> Namespace {
    Namespace { labels: Labels::from([(NAME_LABEL.into(), name.clone())]), name }
}

/// Converts a node; addresses that are host names are left out.
///
/// # Errors
///
/// `metadata.name` is missing.
pub fn node(object: &slim::Node) -> Result<Node, Problem> {
    let name = object.metadata.name.as_deref().ok_or_else(|| Problem::new("metadata.name", "is missing"))?;
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses = addresses.filter_map(|address| address::address(&address.address)).collect();
    Ok(Node { name: name.into(), addresses })
}

/// Converts a pod. An annotation that cannot be meant is returned beside it: it does not count.
///
/// # Errors
///
/// `metadata.name` is missing, an address is none, or a declared port is out of range.
pub fn pod(object: &slim::Pod) -> Result<(Pod, Vec<Problem>), Problem> {
    let id = id(&object.metadata)?;
    let mut problems = Vec::new();
    let spec = object.spec.as_ref().ok_or_else(|| Problem::new("spec", "is missing"))?;
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let mut ports = Vec::new();
    let containers =
        [("containers", spec.containers.as_ref()), ("initContainers", spec.init_containers.as_ref())];
    for (list, containers) in containers {
        for (container_index, container) in containers.into_iter().flatten().enumerate() {
            for (index, port) in container.ports.iter().flatten().enumerate() {
                let field = format!("spec.{list}[{container_index}].ports[{index}]");
                ports.push(ContainerPort {
                    name: port.name.as_deref().map(Into::into),
                    number: port_number(&format!("{field}.containerPort"), port.container_port)?,
                    protocol: protocol(&format!("{field}.protocol"), port.protocol.as_deref())?,
                });
            }
        }
    }
    let pod = Pod {
        id,
        labels: labels(&object.metadata),
        addresses: addresses(object)?,
        node: spec.node_name.as_deref().map(Into::into),
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        ports,
        unguarded: unguarded(&object.metadata, &mut problems),
        uid: object.metadata.uid.as_deref().map_or(0, hashed),
        created: created(&object.metadata),
    };
    Ok((pod, problems))
}

fn hashed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// When an object was made; one that does not say so in a way that can be read does not say so.
fn created(metadata: &Metadata) -> Option<u64> {
    let created: jiff::Timestamp = metadata.creation_timestamp.as_deref()?.parse().ok()?;
    u64::try_from(created.as_second()).ok()
}

/// Whether a pod has opted out of anti-spoofing. Whatever else the annotation says does not open anything.
fn unguarded(metadata: &Metadata, problems: &mut Vec<Problem>) -> bool {
    match metadata.annotations.iter().flatten().find(|(key, _)| *key == ANTISPOOF) {
        None => false,
        Some((_, value)) if value == "off" => true,
        Some((_, value)) => {
            let message = format!("{value:?} is not \"off\", the only value that this annotation may have");
            problems.push(Problem::new(format!("metadata.annotations[{ANTISPOOF}]"), message));
            false
        }
    }
}

fn addresses(object: &slim::Pod) -> Result<Vec<IpAddr>, Problem> {
    let Some(status) = &object.status else { return Ok(Vec::new()) };
    let listed = status.pod_ips.iter().flatten().enumerate();
    let listed = listed.map(|(index, entry)| (format!("status.podIPs[{index}].ip"), entry.ip.as_str()));
    let single = status.pod_ip.as_deref().map(|address| ("status.podIP".to_owned(), address));
    let mut addresses = Vec::new();
    for (field, address) in listed.chain(single) {
        let address = address::address(address)
            .ok_or_else(|| Problem::new(field, format!("{address:?} is not an IP address")))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(annotations: &str) -> (Pod, Vec<String>) {
        let yaml = format!(
            "metadata: {{namespace: shop, name: web, annotations: {annotations}}}\nspec: {{containers: [{{name: c}}]}}"
        );
        let (pod, problems) = pod(&serde_yaml_ng::from_str(&yaml).unwrap()).unwrap();
        (pod, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_annotation_opts_out_of_anti_spoofing() {
        for (annotations, unguarded) in [
            ("{}", false),
            ("{postern.dev/antispoof: \"off\"}", true),
            ("{postern.dev/other: \"off\"}", false),
        ] {
            let (pod, problems) = converted(annotations);
            assert_eq!((pod.unguarded, problems), (unguarded, vec![]), "{annotations}");
        }
    }

    #[test]
    fn any_other_value_opts_nobody_out() {
        for value in ["on", "OFF", "false", "off ", ""] {
            let (pod, problems) = converted(&format!("{{postern.dev/antispoof: \"{value}\"}}"));
            assert!(!pod.unguarded, "{value:?}");
            let expected = format!(
                "metadata.annotations[postern.dev/antispoof]: {value:?} is not \"off\", the only value that this \
                 annotation may have"
            );
            assert_eq!(problems, [expected]);
        }
    }
}

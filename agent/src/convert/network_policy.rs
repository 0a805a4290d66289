//! `networking.k8s.io/v1` `NetworkPolicy`.

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use postern_policy::model::{NamespaceScope, NetworkPolicy, Peer, Port, PortMatch, Rule, Selector};

use super::address::network;
use super::pod::{named, port_number, protocol};
use super::selector::selector;
use super::{Problem, salvage};

/// Converts a policy. Problems of single peers and ports are returned beside it: those match nothing.
///
/// # Errors
///
/// `metadata.name`, `spec` or `spec.podSelector` cannot be read: nobody knows whom the policy selects.
pub fn network_policy(object: &networking::NetworkPolicy) -> Result<(NetworkPolicy, Vec<Problem>), Problem> {
    let id = named(object.metadata.namespace.as_deref(), object.metadata.name.as_deref())?;
    let spec = object.spec.as_ref().ok_or_else(|| Problem::new("spec", "is missing"))?;
    // Absent selects all pods, as the empty selector does (NetworkPolicySpec.podSelector).
    let pod_selector =
        spec.pod_selector.as_ref().map_or(Ok(Selector::default()), |it| selector("spec.podSelector", it))?;
    let mut problems = Vec::new();
    let types = spec.policy_types.as_deref().unwrap_or_default();
    for (index, name) in types.iter().enumerate() {
        if !salvage::DIRECTIONS.contains(&name.as_str()) {
            let message = format!("{name:?} is neither Ingress nor Egress: both count");
            problems.push(Problem::new(format!("spec.policyTypes[{index}]"), message));
        }
    }
    let egress_rules = spec.egress.as_deref().unwrap_or_default();
    let named = |name: &str| types.iter().any(|it| it == name);
    // NetworkPolicySpec.policyTypes: unset means Ingress, and Egress where there is an egress rule.
    // What is neither was meant to be one of the two.
    let misspelt = !problems.is_empty();
    let ingress = misspelt || named("Ingress") || !named("Egress");
    let egress = misspelt || named("Egress") || (types.is_empty() && !egress_rules.is_empty());

    let ingress = ingress.then(|| {
        let rules = spec.ingress.iter().flatten().enumerate();
        let rules = rules.map(|(index, rule)| {
            let field = format!("spec.ingress[{index}]");
            Rule {
                peers: peers(&format!("{field}.from"), &id.namespace, rule.from.as_deref(), &mut problems),
                ports: ports(&format!("{field}.ports"), rule.ports.as_deref(), &mut problems),
            }
        });
        rules.collect()
    });
    let egress = egress.then(|| {
        let rules = egress_rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| {
            let field = format!("spec.egress[{index}]");
            Rule {
                peers: peers(&format!("{field}.to"), &id.namespace, rule.to.as_deref(), &mut problems),
                ports: ports(&format!("{field}.ports"), rule.ports.as_deref(), &mut problems),
            }
        });
        rules.collect()
    });
    Ok((NetworkPolicy { id, pod_selector, ingress, egress }, problems))
}

fn peers(
    field: &str,
    namespace: &std::sync::Arc<str>,
    peers: Option<&[networking::NetworkPolicyPeer]>,
    problems: &mut Vec<Problem>,
) -> Vec<Peer> {
    let peers = peers.unwrap_or_default().iter().enumerate();
    let peers = peers.map(|(index, it)| {
        peer(&format!("{field}[{index}]"), namespace, it).unwrap_or_else(|problem| {
            problems.push(problem);
            Peer::Nothing
        })
    });
    peers.collect()
}

fn peer(
    field: &str,
    namespace: &std::sync::Arc<str>,
    peer: &networking::NetworkPolicyPeer,
) -> Result<Peer, Problem> {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => ip_block(&format!("{field}.ipBlock"), block),
        (Some(_), _, _) => Err(Problem::new(
            format!("{field}.ipBlock"),
            "stands beside a selector; give each a list item of its own",
        )),
        (None, None, None) => Ok(Peer::Nothing),
        (None, namespaces, pods) => Ok(Peer::Pods {
            namespaces: match namespaces {
                Some(it) => NamespaceScope::Matching(selector(&format!("{field}.namespaceSelector"), it)?),
                None => NamespaceScope::Named(namespace.clone()),
            },
            pods: match pods {
                Some(it) => selector(&format!("{field}.podSelector"), it)?,
                None => Selector::default(),
            },
        }),
    }
}

fn ip_block(field: &str, block: &networking::IPBlock) -> Result<Peer, Problem> {
    let cidr = network(&format!("{field}.cidr"), &block.cidr)?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let field = format!("{field}.except[{index}]");
        let excepted = network(&field, text)?;
        if !cidr.contains(&excepted) {
            return Err(Problem::new(field, format!("{text} does not lie inside {}", block.cidr)));
        }
        except.push(excepted);
    }
    except.sort();
    except.dedup();
    Ok(Peer::Block { cidr, except })
}

fn ports(
    field: &str,
    ports: Option<&[networking::NetworkPolicyPort]>,
    problems: &mut Vec<Problem>,
) -> Vec<Port> {
    let ports = ports.unwrap_or_default().iter().enumerate();
    let ports = ports.map(|(index, it)| {
        port(&format!("{field}[{index}]"), it).unwrap_or_else(|problem| {
            problems.push(problem);
            Port { protocol: postern_policy::model::Protocol::Tcp, ports: PortMatch::Nothing }
        })
    });
    ports.collect()
}

fn port(field: &str, port: &networking::NetworkPolicyPort) -> Result<Port, Problem> {
    let protocol = protocol(&format!("{field}.protocol"), port.protocol.as_deref())?;
    let ports = match (&port.port, port.end_port) {
        (None, None) => PortMatch::Any,
        (Some(IntOrString::Int(number)), end) => {
            let first = port_number(&format!("{field}.port"), *number)?;
            let field = format!("{field}.endPort");
            let last = end.map_or(Ok(first), |end| port_number(&field, end))?;
            if last < first {
                return Err(Problem::new(field, format!("{last} is below port {first}")));
            }
            PortMatch::Range(first, last)
        }
        (Some(IntOrString::String(name)), None) => {
            // IANA service names have a letter (RFC 6335 5.1): a quoted number is a mistake, not a name.
            if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
                return Err(Problem::new(
                    format!("{field}.port"),
                    format!("{name:?} is not a port name; drop the quotes"),
                ));
            }
            PortMatch::Named(name.as_str().into())
        }
        (None | Some(IntOrString::String(_)), Some(_)) => {
            return Err(Problem::new(format!("{field}.endPort"), "needs a numeric port"));
        }
    };
    Ok(Port { protocol, ports })
}

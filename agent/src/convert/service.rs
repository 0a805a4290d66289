//! Services and endpoint slices.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use postern_policy::model::{
    Endpoint, EndpointPort, EndpointSlice, NamespacedName, Requirement, Selector, Service, ServicePort,
    TargetPort,
};

use super::pod::{id, port_number, protocol};
use super::{Problem, address, slim};

/// The label that says whose backends an endpoint slice lists.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `ClientIPConfig.timeoutSeconds` where it is not said.
const AFFINITY_SECONDS: u32 = 10_800;

/// Converts a Service. Of a headless one, `clusterIPs` holds no address.
///
/// # Errors
///
/// `metadata.name` is missing, a port is out of range, or what should be an address is none.
pub fn service(object: &slim::Service) -> Result<Service, Problem> {
    let id = id(&object.metadata)?;
    let spec = object.spec.as_ref().ok_or_else(|| Problem::new("spec", "is missing"))?;
    // ExternalName is DNS only, whatever else the object still says (ServiceSpec.type).
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(external_name(id));
    }
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        ports.push(service_port(&format!("spec.ports[{index}]"), port)?);
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    // Headless, or not given yet.
    let listed = listed.filter(|text| !matches!(text.as_str(), "None" | ""));
    for (field, text) in listed
        .clone()
        .map(|text| ("spec.clusterIPs", text))
        .chain(spec.external_ips.iter().flatten().map(|text| ("spec.externalIPs", text)))
    {
        if address::address(text).is_none() {
            return Err(Problem::new(field, format!("{text:?} is not an IP address")));
        }
    }
    let balanced = object.status.iter().flat_map(|status| &status.load_balancer);
    let balanced = balanced.flat_map(|it| it.ingress.iter().flatten()).map(|it| &it.ip);
    let requirements = |labels: &std::collections::BTreeMap<String, String>| {
        let entries = labels.iter();
        entries
            .map(|(key, value)| Requirement::In(key.as_str().into(), vec![value.as_str().into()]))
            .collect()
    };
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    Ok(Service {
        id,
        cluster_ips: addresses(listed),
        external_ips: addresses(spec.external_ips.iter().flatten().chain(balanced)),
        ports,
        // An empty selector selects nothing here: somebody else writes the slices (ServiceSpec.selector).
        selector: spec
            .selector
            .as_ref()
            .filter(|labels| !labels.is_empty())
            .map(|it| Selector(requirements(it))),
        internal_local: local(&spec.internal_traffic_policy),
        external_local: local(&spec.external_traffic_policy),
        session_affinity: session_affinity(spec),
    })
}

fn session_affinity(spec: &slim::ServiceSpec) -> Option<Duration> {
    spec.session_affinity.as_deref().filter(|it| *it == "ClientIP")?;
    let config = spec.session_affinity_config.as_ref().and_then(|it| it.client_ip.as_ref());
    // The API server takes nothing below 1.
    let seconds = config.and_then(|it| it.timeout_seconds?.try_into().ok()).filter(|it| *it > 0);
    Some(Duration::from_secs(seconds.unwrap_or(AFFINITY_SECONDS).into()))
}

/// Nothing but a name: without addresses and ports there is nothing that policy could look at.
fn external_name(id: NamespacedName) -> Service {
    Service {
        id,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        selector: None,
        internal_local: false,
        external_local: false,
        session_affinity: None,
    }
}

fn service_port(field: &str, port: &slim::ServicePort) -> Result<ServicePort, Problem> {
    let number = port_number(&format!("{field}.port"), port.port)?;
    Ok(ServicePort {
        name: port.name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        protocol: protocol(&format!("{field}.protocol"), port.protocol.as_deref())?,
        port: number,
        target: match &port.target_port {
            // The API server fills it in; manifests may leave it out or write 0 (ServicePort.targetPort).
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => {
                TargetPort::Number(port_number(&format!("{field}.targetPort"), *target)?)
            }
            Some(IntOrString::String(name)) => TargetPort::Named(name.as_str().into()),
        },
        node_port: match port.node_port {
            None | Some(0) => None,
            Some(it) => Some(port_number(&format!("{field}.nodePort"), it)?),
        },
    })
}

/// Converts an endpoint slice.
///
/// # Errors
///
/// `metadata.name` is missing, or a port is out of range.
pub fn endpoint_slice(object: &slim::EndpointSlice) -> Result<EndpointSlice, Problem> {
    let id = id(&object.metadata)?;
    let service = object.metadata.labels.iter().flatten().find(|(key, _)| *key == SERVICE_NAME);
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        let field = format!("ports[{index}]");
        let number = port.port.map(|it| port_number(&format!("{field}.port"), it)).transpose()?;
        ports.push(EndpointPort {
            name: port.name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            protocol: protocol(&format!("{field}.protocol"), port.protocol.as_deref())?,
            port: number,
        });
    }
    let endpoints = object.endpoints.iter().flatten().map(|endpoint| {
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Endpoint {
            addresses: addresses(endpoint.addresses.iter().flatten()),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.as_deref().map(Into::into),
        }
    });
    Ok(EndpointSlice {
        id,
        service: service.map(|(_, name)| name.as_str().into()),
        ports,
        endpoints: endpoints.collect(),
    })
}

/// Those of the texts that are addresses, each once.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| address::address(text)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(spec: &str) -> Result<Service, Problem> {
        let yaml = format!("{{metadata: {{namespace: shop, name: web}}, spec: {spec}}}");
        service(&serde_yaml_ng::from_str(&yaml).unwrap())
    }

    #[test]
    fn a_service_is_its_frontends() {
        let service = converted(
            "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], externalIPs: [192.0.2.1],
              internalTrafficPolicy: Local, selector: {app: web},
              ports: [{port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, targetPort: dns-udp}]}",
        )
        .unwrap();
        let addresses: Vec<IpAddr> = vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(service.cluster_ips, addresses);
        assert_eq!(service.external_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(service.internal_local && !service.external_local);
        assert_eq!(service.ports[0].target, TargetPort::Number(80));
        assert_eq!(service.ports[0].node_port, Some(30080));
        assert_eq!(service.ports[1].target, TargetPort::Named("dns-udp".into()));
    }

    #[test]
    fn affinity_lasts_as_long_as_the_service_says() {
        for (spec, seconds) in [
            ("{}", None),
            ("{sessionAffinity: None}", None),
            ("{sessionAffinity: ClientIP}", Some(10_800)),
            (
                "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}",
                Some(60),
            ),
            (
                "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
                Some(10_800),
            ),
            ("{sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}", None),
        ] {
            assert_eq!(converted(spec).unwrap().session_affinity, seconds.map(Duration::from_secs), "{spec}");
        }
    }

    #[test]
    fn what_is_no_address_is_no_frontend() {
        assert_eq!(
            converted("{clusterIP: None, clusterIPs: [None]}").unwrap().cluster_ips,
            Vec::<IpAddr>::new()
        );
        let named =
            converted("{type: ExternalName, externalName: example.com, clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}").unwrap();
        assert_eq!(named, external_name(named.id.clone()));
        assert_eq!(converted("{selector: {}}").unwrap().selector, None);
    }

    #[test]
    fn a_broken_address_names_its_field() {
        for (spec, expected) in [
            ("{clusterIP: 10.96.0.300}", "spec.clusterIPs: \"10.96.0.300\" is not an IP address"),
            ("{externalIPs: [192.0.2.1, here]}", "spec.externalIPs: \"here\" is not an IP address"),
        ] {
            assert_eq!(converted(spec).unwrap_err().to_string(), expected);
        }
        assert!(converted("{clusterIP: '', externalIPs: []}").unwrap().cluster_ips.is_empty());
    }

    #[test]
    fn a_broken_port_names_its_field() {
        let problem = converted("{ports: [{port: 80}, {port: 80, targetPort: 70000}]}").unwrap_err();
        assert_eq!(problem.to_string(), "spec.ports[1].targetPort: 70000 is not between 1 and 65535");
    }

    #[test]
    fn a_slice_lists_backends_with_their_conditions() {
        let slice = endpoint_slice(
            &serde_yaml_ng::from_str(
                "{metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}},
                  ports: [{name: '', port: 8080}],
                  endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}},
                    {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}]}",
            )
            .unwrap(),
        )
        .unwrap();
        assert_eq!(slice.service.as_deref(), Some("web"));
        assert_eq!((slice.ports[0].name.as_deref(), slice.ports[0].port), (None, Some(8080)));
        let conditions: Vec<_> =
            slice.endpoints.iter().map(|it| (it.ready, it.serving, it.terminating)).collect();
        assert_eq!(conditions, [(true, true, false), (false, false, false), (false, true, true)]);
    }
}

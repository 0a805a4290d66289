//! One node's rules, as nft reads them.
//!
//! ```text
//! prerouting ─┐            what pods and hosts outside send
//!             ├─> a frontend ─> a list of backends ─> a backend: dnat
//! output ─────┘            what the node's processes send
//! postrouting              masquerades what was marked on the way
//! refuse-*                 refuses frontends that nothing serves, before anything is translated
//! ```
//!
//! Each backend counts how often it was chosen: policy may forbid what was chosen, and then nobody else can tell.
//!
//! With session affinity, each backend of a Service's port has a set of the clients that keep it. A list looks there
//! before it chooses, and every choice is remembered anew, as kube-proxy's mode nftables has it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use postern_policy::model::{Object, Protocol, Service, ServicePort};
use postern_policy::services::{Backend, Frontend, Via, eligible};

use super::Objects;

/// The mark of what leaves under the node's address, as kube-proxy has it.
const MASQUERADE: &str = "0x4000";
const TABLE: &str = "inet postern_lab_services";

/// A node's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    text: String,
    /// Chains that nothing hooks in, by name.
    chains: BTreeSet<String>,
    /// Clients that keep a backend: a set for each, by name.
    kept: BTreeSet<String>,
}

impl Table {
    /// A transaction that puts this into the place of the table before. Who keeps a backend goes on keeping it, as long as
    /// the backend is there.
    #[must_use]
    pub fn instead_of(&self, before: &Self) -> String {
        let mut text = format!("table {TABLE}\nflush table {TABLE}\n");
        for chain in before.chains.difference(&self.chains) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "delete chain {TABLE} {chain}");
        }
        for set in before.kept.difference(&self.kept) {
            let _ = writeln!(text, "delete set {TABLE} {set}");
        }
        text + &self.text
    }

    /// What makes the node forget who keeps a backend; empty where nobody can.
    #[must_use]
    pub fn forgetting(&self) -> String {
        let mut text = String::new();
        for set in &self.kept {
            let _ = writeln!(text, "flush set {TABLE} {set}");
        }
        text
    }
}

/// The rules of a node.
#[must_use]
pub fn nftables(objects: &[Object], node: &str) -> Table {
    let objects = Objects::of(objects);
    let mut rules = Rules { node, ..Rules::default() };
    rules.local = objects
        .pods
        .iter()
        .filter(|pod| pod.node.as_deref() == Some(node) && !pod.host_network && !pod.finished)
        .flat_map(|pod| pod.addresses.iter().copied())
        .collect();
    for service in &objects.services {
        for (frontend, via, port) in service.frontends() {
            let candidates = objects.candidates(service, port, frontend.address);
            rules.frontend(service, port, frontend, via, &candidates);
        }
        let here = objects.nodes.iter().filter(|it| *it.name == *node);
        for (frontend, port) in here.flat_map(|it| service.node_ports(it)) {
            let candidates = objects.candidates(service, port, frontend.address);
            rules.frontend(service, port, frontend, Via::NodePort, &candidates);
        }
    }
    rules.table()
}

#[derive(Default)]
struct Rules<'a> {
    node: &'a str,
    /// Addresses of the node's own pods.
    local: BTreeSet<IpAddr>,
    text: String,
    chains: BTreeSet<String>,
    kept: BTreeSet<String>,
    lists: usize,
    refused: String,
    prerouting: String,
    output: String,
}

impl Rules<'_> {
    fn frontend(
        &mut self,
        service: &Service,
        port: &ServicePort,
        frontend: Frontend,
        via: Via,
        candidates: &[Backend],
    ) {
        let Frontend { address, protocol, port: number } = frontend;
        let matched = format!("{} daddr {address} {} dport {number}", ip(address), word(protocol));
        // Writing to a string cannot fail.
        if candidates.is_empty() {
            let how = if protocol == Protocol::Tcp { "reject with tcp reset" } else { "reject" };
            let _ = writeln!(self.refused, "{matched} {how}");
            return;
        }
        let all = eligible(candidates, None);
        if via == Via::Cluster {
            let backends = if service.internal_local { eligible(candidates, Some(self.node)) } else { all };
            let list = self.list(service, port, &backends);
            let _ = writeln!(self.prerouting, "{matched} goto {list}");
            let _ = writeln!(self.output, "{matched} goto {list}");
            return;
        }
        let everything = self.list(service, port, &all);
        // The node's own processes show the node's address anyway.
        let _ = writeln!(self.output, "{matched} goto {everything}");
        if !service.external_local {
            let _ = writeln!(
                self.prerouting,
                "{matched} meta mark set meta mark or {MASQUERADE} goto {everything}"
            );
            return;
        }
        let local: Vec<_> = self.local.iter().filter(|it| it.is_ipv4() == address.is_ipv4()).collect();
        if !local.is_empty() {
            let local = local.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let _ =
                writeln!(self.prerouting, "{} saddr {{ {local} }} {matched} goto {everything}", ip(address));
        }
        let here = self.list(service, port, &eligible(candidates, Some(self.node)));
        let _ = writeln!(self.prerouting, "{matched} goto {here}");
    }

    /// A chain that chooses one of the backends; with none, one that drops.
    fn list(&mut self, service: &Service, port: &ServicePort, backends: &[&Backend]) -> String {
        self.lists += 1;
        let name = format!("backends-{}", self.lists);
        let (mut keep, mut choices) = (String::new(), Vec::new());
        for (index, backend) in backends.iter().enumerate() {
            let (address, number) = (backend.address, backend.port);
            let (ip, protocol) = (ip(address), word(port.protocol));
            let to = if address.is_ipv4() {
                format!("{address}:{number}")
            } else {
                format!("[{address}]:{number}")
            };
            let mut remember = String::new();
            if let Some(timeout) = service.session_affinity {
                let set = self.kept(service, port, backend);
                let _ = writeln!(keep, "{ip} saddr @{set} goto {name}-{index}");
                remember = format!("update @{set} {{ {ip} saddr timeout {}s }}\n", timeout.as_secs());
            }
            // A backend that reaches itself would answer itself, past the translation: it sees the node instead.
            let _ = writeln!(
                self.text,
                "chain {name}-{index} {{\n{ip} saddr {address} meta mark set meta mark or {MASQUERADE}\n\
                 {remember}meta l4proto {protocol} counter dnat {ip} to {to}\n}}"
            );
            self.chains.insert(format!("{name}-{index}"));
            choices.push(format!("{index} : goto {name}-{index}"));
        }
        let choose = if choices.is_empty() {
            "drop".to_owned()
        } else {
            format!("numgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", "))
        };
        let _ = writeln!(self.text, "chain {name} {{\n{keep}{choose}\n}}");
        self.chains.insert(name.clone());
        name
    }

    /// The set of clients that keep a backend of a Service's port, through whichever frontend they come.
    fn kept(&mut self, service: &Service, port: &ServicePort, backend: &Backend) -> String {
        let (address, number) = (backend.address.to_string().replace(':', "."), backend.port);
        let port = format!("{}/{}", word(port.protocol), port.port);
        let name = format!("kept/{}/{port}/{address}/{number}", service.id);
        if self.kept.insert(name.clone()) {
            let kind = if backend.address.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
            let _ = writeln!(self.text, "set {name} {{\ntype {kind}\nflags dynamic, timeout\n}}");
        }
        name
    }

    fn table(self) -> Table {
        let Self { text, chains, kept, refused, prerouting, output, .. } = self;
        let text = format!(
            "table {TABLE} {{\n{text}\
             chain refuse-prerouting {{\ntype filter hook prerouting priority dstnat - 10\n{refused}}}\n\
             chain refuse-output {{\ntype filter hook output priority -110\n{refused}}}\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat\n{prerouting}}}\n\
             chain output {{\ntype nat hook output priority -100\n{output}}}\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat\n\
             meta mark and {MASQUERADE} == {MASQUERADE} masquerade\n}}\n}}\n"
        );
        Table { text, chains, kept }
    }
}

const fn ip(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

//! The node as an agent has it, with its Services: policy by the real engine and data path, backends by nftables and conntrack.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use postern::datapath::Datapath;
use postern::datapath::attach::{Mode, probe};
use postern::datapath::object::{Established, Settings};
use postern::datapath::wanted::{Guarding, Wanted};
use postern::links::Veth;
use postern_policy::model::{NamespacedName, ObjectRef};
use postern_policy::{Engine, Scope};

use super::policy::{Good, Policy};
use super::world::{BACKEND_PORT, NODE_PORT, Options, Place, SERVICE_PORT, Who, World, fed, node_addresses};
use crate::pod_netns::BPFFS;
use crate::rig::objects;

/// What leads where, on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Setting {
    /// How the subject and the routed pod are isolated.
    pub(super) policies: [Policy; 2],
    pub(super) good: Good,
    /// Which of the backends the Service leads to, if there is one.
    pub(super) service: Option<usize>,
    /// Whether the accomplice may send from its own addresses alone.
    pub(super) guarded: bool,
}

/// The backends, the first in the order of [`Good`]. The last are those that policy isolates.
pub(super) const BACKENDS: [Who; 4] =
    [Who::Of(Place::Backend), Who::Remote, Who::Of(Place::Subject), Who::Of(Place::Routed)];
/// Pods of these names, on these nodes.
const PODS: [(&str, &str); 4] =
    [("local", "node-a"), ("remote", "node-b"), ("subject", "node-a"), ("routed", "node-a")];

const NAMES: [&str; 2] = ["subject", "routed"];

pub(super) struct Node {
    engine: Engine,
    datapath: Datapath,
    veths: [Veth; 2],
    accomplice: Veth,
    tunnel_ports: BTreeSet<u16>,
    setting: Setting,
    /// Which backend nftables leads to.
    rules: Option<usize>,
}

impl Node {
    /// In the calling thread's namespaces.
    pub(super) fn start(world: &World, options: Options) -> Self {
        let established = if options.keep { Established::Keep } else { Established::Recheck };
        let settings = Settings { established, ..Settings::default() };
        let mode = if options.clsact { Mode::Clsact } else { probe() };
        let (datapath, first) = Datapath::start(&Path::new(BPFFS).join("postern"), mode, settings).unwrap();
        let mut engine = Engine::new(Scope::Node("node-a".into()), first);
        engine.number_transitional_from(datapath.first_transitional());
        engine.set_local_addresses(node_addresses());
        let setting = Setting::default();
        let veths = [world.subject.clone(), world.routed.clone()];
        let mut node = Self {
            engine,
            datapath,
            veths,
            accomplice: world.accomplice.clone(),
            tunnel_ports: world.tunnel_ports.clone(),
            setting,
            rules: setting.service,
        };
        node.apply(&pod("accomplice", Who::Of(Place::Accomplice), "node-a", "app: accomplice"));
        let (uplink4, uplink6) = (Who::Uplink.v4(), Who::Uplink.v6());
        node.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-a}}\nstatus: {{addresses: [{{type: InternalIP, address: {uplink4}}}, \
             {{type: InternalIP, address: '{uplink6}'}}]}}\n"
        ));
        node.put_policy(0);
        node.put_policy(1);
        node.put_backends();
        node.settle();
        node.put_rules();
        node
    }

    /// Makes everything as it is to be.
    pub(super) fn set(&mut self, setting: Setting, rules_first: bool) {
        let before = std::mem::replace(&mut self.setting, setting);
        let rules = self.rules != setting.service;
        self.rules = setting.service;
        if rules && rules_first {
            self.put_rules();
        }
        for which in 0..2 {
            if before.policies[which] != setting.policies[which] {
                self.put_policy(which);
            }
        }
        if before.good != setting.good || before.service != setting.service {
            self.put_backends();
        }
        self.settle();
        if rules && !rules_first {
            self.put_rules();
        }
    }

    /// Has nftables lead elsewhere, before the agent knows of it.
    pub(super) fn lead(&mut self, service: Option<usize>) {
        self.rules = service;
        self.put_rules();
    }

    fn apply(&mut self, yaml: &str) {
        for object in objects(yaml) {
            self.engine.apply(object);
        }
    }

    fn put_policy(&mut self, which: usize) {
        if let Some(manifest) = self.setting.policies[which].manifest(NAMES[which]) {
            self.apply(&manifest);
        } else {
            self.engine.delete(&ObjectRef::NetworkPolicy(NamespacedName::new("shop", NAMES[which])));
        }
    }

    fn put_backends(&mut self) {
        let Setting { good, service, .. } = self.setting;
        for (which, (name, node)) in PODS.into_iter().enumerate() {
            let role = if good.0.get(which) == Some(&true) { "good" } else { "bad" };
            let serves = if service == Some(which) { "web" } else { "nothing" };
            let labels = format!("app: {name}, role: {role}, serves: {serves}");
            self.apply(&pod(name, BACKENDS[which], node, &labels));
        }
        let (frontend4, frontend6) = (Who::Frontend.v4(), Who::Frontend.v6());
        if service.is_some() {
            self.apply(&format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\nspec:\n  type: NodePort\n  \
                 clusterIPs: [{frontend4}, '{frontend6}']\n  selector: {{serves: web}}\n  ports:\n  \
                 - {{name: tcp, port: {SERVICE_PORT}, targetPort: {BACKEND_PORT}, nodePort: {NODE_PORT}}}\n  \
                 - {{name: udp, port: {SERVICE_PORT}, protocol: UDP, targetPort: {BACKEND_PORT}, nodePort: {NODE_PORT}}}\n"
            ));
        } else {
            self.engine.delete(&ObjectRef::Service(NamespacedName::new("shop", "web")));
        }
    }

    fn settle(&mut self) {
        let plan = self.engine.plan();
        self.datapath.execute(plan).unwrap();
        let mut wanted = BTreeMap::new();
        for pod in self.engine.local_pods().filter(|pod| pod.subject.is_isolated()) {
            let Some(which) = NAMES.iter().position(|name| *name == &*pod.pod.id.name) else { continue };
            let veth = &self.veths[which];
            let addresses = (pod.pod.id.clone(), &pod.pod.addresses[..]);
            let want = Wanted::subject(
                veth.interface.clone(),
                addresses,
                &pod.subject,
                Guarding::WhileIsolated,
                veth.netns,
            );
            wanted.insert(veth.ifindex, want.port_of(veth.master, veth.bridge));
        }
        if self.setting.guarded {
            let veth = &self.accomplice;
            let addresses = veth.addresses.iter().copied().collect();
            let pod = NamespacedName::new("shop", "accomplice");
            wanted.insert(veth.ifindex, Wanted::guard(veth.interface.clone(), Some(pod), addresses));
        }
        self.datapath.set_tunnel_ports(&self.tunnel_ports);
        let errors = self.datapath.reconcile(&wanted, false);
        assert!(errors.is_empty(), "{errors:?}");
        self.datapath.finish().unwrap();
    }

    /// The node's Service, as kube-proxy would have it; and nothing that the node says by itself.
    fn put_rules(&self) {
        let mut rules = String::new();
        // Whoever reaches itself sees the node.
        let mut own = String::new();
        for who in BACKENDS {
            for (ip, address) in [("ip", who.address(false)), ("ip6", who.address(true))] {
                writeln!(own, "{ip} saddr {address} {ip} daddr {address} masquerade").unwrap();
            }
        }
        if let Some(which) = self.rules {
            let (v4, v6) = (BACKENDS[which].v4(), BACKENDS[which].v6());
            for protocol in ["tcp", "udp"] {
                for (who, port) in [(Who::Frontend, SERVICE_PORT), (Who::Uplink, NODE_PORT)] {
                    let to = format!("{protocol} dport {port} dnat");
                    writeln!(rules, "ip daddr {} {to} ip to {v4}:{BACKEND_PORT}", who.v4()).unwrap();
                    writeln!(rules, "ip6 daddr {} {to} ip6 to [{v6}]:{BACKEND_PORT}", who.v6()).unwrap();
                }
            }
        }
        let text = format!(
            "table inet wire\nflush table inet wire\ntable inet wire {{\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat\n{rules}}}\n\
             chain output {{\ntype nat hook output priority -100\n{rules}}}\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat\n{own}}}\n\
             chain quiet {{\ntype filter hook output priority 0\n\
             icmp type {{ destination-unreachable, redirect, time-exceeded, parameter-problem }} drop\n\
             icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-redirect }} drop\n\
             icmp type echo-reply drop\nicmpv6 type echo-reply drop\ntcp flags rst drop\n}}\n}}\n"
        );
        assert!(fed("nft", &["-f", "-"], &text), "{text}");
    }
}

fn pod(name: &str, who: Who, node: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c}}]}}\nstatus: {{podIPs: [{{ip: {}}}, {{ip: '{}'}}]}}\n",
        who.v4(),
        who.v6()
    )
}

/// Has conntrack forget everything, as kube-proxy has it forget UDP flows whose Service changes.
pub(super) fn flush_conntrack() {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    let mut message = Vec::new();
    message.extend(20_u32.to_ne_bytes());
    // `IPCTNL_MSG_CT_DELETE` (2) of `NFNL_SUBSYS_CTNETLINK` (1); `NLM_F_REQUEST`, `NLM_F_ACK`.
    message.extend((1_u16 << 8 | 2).to_ne_bytes());
    message.extend(5_u16.to_ne_bytes());
    message.extend([0; 8]);
    // `struct nfgenmsg`: any family.
    message.extend([0; 4]);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    assert_eq!(answer[16..20], [0; 4], "conntrack refused");
}

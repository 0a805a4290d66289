//! A node that forwards between pods, and translates as kube-proxy does: real programs on real veths and in netfilter's hooks, real
//! sockets, and no agent around the data path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::net::if_::if_nametoindex;
use postern::datapath::Datapath;
use postern::datapath::attach::probe;
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, Settings};
use postern::datapath::pins;
use postern::datapath::wanted::{Guarding, Wanted};
use postern_common::IPPROTO_UDP;
use postern_common::conntrack::{Flow, Flow4, HALF_OPEN_WAYS};
use postern_policy::model::{NamespacedName, ObjectRef};
use postern_policy::{Engine, Scope};

use crate::features;
use crate::pod_netns::{PodNetns, enter_node};
use crate::removal::Pins;
use crate::rig::objects;

/// The pod whose policy changes.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
/// Backends of the Service, by their name.
pub(crate) const GOOD: Ipv4Addr = Ipv4Addr::new(10, 9, 2, 2);
pub(crate) const BAD: Ipv4Addr = Ipv4Addr::new(10, 9, 3, 2);
/// An address outside of the cluster, where somebody answers until it is a Service's.
pub(crate) const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 9, 4, 2);
/// A pod that no policy isolates.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 5, 2);
const ALL: [Ipv4Addr; 5] = [CLIENT, GOOD, BAD, PLAIN, OTHER];

/// Where the Service is, and where its backends are.
pub(crate) const FRONTEND: u16 = 80;
pub(crate) const BACKEND: u16 = 8080;

/// In this time, everything that passes has.
const PATIENCE: Duration = Duration::from_millis(40);

const OBJECTS: &str = r"
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 10.9.1.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.9.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: good, labels: {role: good}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.9.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: bad, labels: {role: bad}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.9.3.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: other, labels: {role: other}}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIPs: [{ip: 10.9.5.2}]}
";

/// How pods are wired to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Each veth has an address of the node.
    Ptp,
    /// Veths are ports of a bridge.
    Bridge,
}

/// The node.
pub(crate) struct Wire {
    datapath: Datapath,
    engine: Engine,
    pods: BTreeMap<Ipv4Addr, PodNetns>,
    bridge: u32,
    pins: Pins,
    servers: Vec<(Ipv4Addr, UdpSocket)>,
    asked: u32,
}

/// Runs a test on a node of its own.
pub(crate) fn on_wire(name: &str, style: Style, settings: Settings, test: impl FnOnce(&mut Wire) + Send) {
    if !features::netfilter() {
        return;
    }
    let node = || {
        enter_node();
        test(&mut Wire::new(name, style, settings));
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

/// Runs a command of the calling thread's namespace.
pub(crate) fn shell(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error} (these tests need it)"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The MAC address of the node's bridge.
fn bridge_mac() -> [u8; 6] {
    let shown = Command::new("ip").args(["-o", "link", "show", "type", "bridge"]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

impl Wire {
    fn new(name: &str, style: Style, settings: Settings) -> Self {
        // Whom a bridge's node tells of each other, those send to each other past it: no Service is there.
        for (file, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
            ("conf/all/send_redirects", "0"),
            ("conf/default/send_redirects", "0"),
        ] {
            fs::write(format!("/proc/sys/net/ipv4/{file}"), value).unwrap();
        }
        let gateway = |pod: Ipv4Addr| Ipv4Addr::from(u32::from(pod) - 1);
        if style == Style::Bridge {
            shell("ip link add br0 type bridge");
            shell("ip link set br0 up");
        }
        let pods: BTreeMap<_, _> = ALL
            .into_iter()
            .map(|pod| {
                let name = format!("veth-{}", pod.octets()[2]);
                let on_veth: &[IpAddr] = if style == Style::Ptp { &[gateway(pod).into()] } else { &[] };
                let netns = PodNetns::create(&name, &[pod.into()], on_veth);
                if style == Style::Bridge {
                    shell(&format!("ip link set {name} master br0"));
                    shell(&format!("ip address add {}/24 dev br0", gateway(pod)));
                }
                netns.within(|| shell(&format!("ip route add default via {}", gateway(pod))));
                (pod, netns)
            })
            .collect();
        let bridge = if style == Style::Bridge { if_nametoindex("br0").unwrap() } else { 0 };
        let servers = [(GOOD, BACKEND), (BAD, BACKEND), (PLAIN, FRONTEND)].map(|(pod, port)| {
            let socket = pods[&pod].within(|| UdpSocket::bind((pod, port)).unwrap());
            socket.set_nonblocking(true).unwrap();
            (pod, socket)
        });
        let pins = Pins::new(name);
        let (datapath, first) = Datapath::start(&pins.0, probe(), settings).unwrap();
        let engine = Engine::new(Scope::Node("node-a".into()), first);
        let mut wire = Self { datapath, engine, pods, bridge, pins, servers: servers.into(), asked: 0 };
        wire.engine.set_local_addresses(ALL.map(|pod| gateway(pod).into()));
        wire.translate(None);
        wire.apply(OBJECTS);
        wire
    }

    /// Applies manifests.
    pub(crate) fn apply(&mut self, yaml: &str) {
        for object in objects(yaml) {
            self.engine.apply(object);
        }
        self.settle();
    }

    /// What the client may send; none: no policy isolates it.
    pub(crate) fn policy(&mut self, egress: Option<&str>) {
        let name = NamespacedName::new("shop", "client");
        if let Some(egress) = egress {
            self.apply(&format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: shop, name: client}},
                  spec: {{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Ingress, Egress], egress: {egress}}}}}"
            ));
        } else {
            self.engine.delete(&ObjectRef::NetworkPolicy(name));
            self.settle();
        }
    }

    /// What the agent knows of the Service: its backend.
    pub(crate) fn service(&mut self, backend: Option<Ipv4Addr>) {
        if let Some(backend) = backend {
            let role = if backend == GOOD { "good" } else { "bad" };
            self.apply(&format!(
                "{{apiVersion: v1, kind: Service, metadata: {{namespace: shop, name: web}},
                      spec: {{clusterIP: 10.96.0.1, externalIPs: [{PLAIN}], selector: {{role: {role}}},
                              ports: [{{port: {FRONTEND}, protocol: UDP, targetPort: {BACKEND}}}]}}}}"
            ));
        } else {
            self.engine.delete(&ObjectRef::Service(NamespacedName::new("shop", "web")));
            self.settle();
        }
    }

    /// Where the node translates the Service's address to.
    #[expect(clippy::unused_self, reason = "of this node: it is the thread's")]
    pub(crate) fn translate(&self, backend: Option<Ipv4Addr>) {
        let rule = backend.map_or(String::new(), |backend| {
            format!("ip daddr {PLAIN} udp dport {FRONTEND} dnat to {backend}:{BACKEND}")
        });
        nft(&format!(
            "table ip test {{\n}}\nflush table ip test\ntable ip test {{\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat\n{rule}\n}}\n\
             chain forward {{\ntype filter hook forward priority filter\nct state new accept\n}}\n}}\n"
        ));
    }

    /// Conntrack forgets everything (`conntrack -F`).
    #[expect(clippy::unused_self, reason = "of this node: it is the thread's")]
    pub(crate) fn forget(&self) {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        // `struct nlmsghdr`: `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`, a request to be acknowledged; `struct nfgenmsg` of no family.
        let mut message = Vec::new();
        message.extend(20_u32.to_ne_bytes());
        message.extend((1_u16 << 8 | 2).to_ne_bytes());
        message.extend((1_u16 | 4).to_ne_bytes());
        message.extend([0; 8]);
        message.extend([0; 4]);
        socket.send(&message, 0).unwrap();
        let (answer, _) = socket.recv_from_full().unwrap();
        assert_eq!(answer[16..20], [0; 4], "conntrack forgets");
    }

    fn settle(&mut self) {
        let plan = self.engine.plan();
        self.datapath.execute(plan).unwrap();
        self.datapath.finish().unwrap();
        let mut wanted = BTreeMap::new();
        let bridge = (self.bridge != 0).then(bridge_mac);
        for local in self.engine.local_pods().filter(|local| local.subject.is_isolated()) {
            let [IpAddr::V4(address)] = local.pod.addresses[..] else { panic!("one address") };
            let veth = &self.pods[&address].veth;
            let pod = (local.pod.id.clone(), &local.pod.addresses[..]);
            let interface = veth.interface.clone();
            let want = Wanted::subject(interface, pod, &local.subject, Guarding::WhileIsolated, veth.netns);
            wanted.insert(veth.ifindex, want.port_of(self.bridge, bridge));
        }
        let errors = self.datapath.reconcile(&wanted, false);
        assert!(errors.is_empty(), "{errors:?}");
    }

    pub(crate) fn pod(&self, address: Ipv4Addr) -> &PodNetns {
        &self.pods[&address]
    }

    /// A socket of the client's.
    pub(crate) fn client(&self, port: u16) -> UdpSocket {
        let socket = self.pods[&CLIENT].within(|| UdpSocket::bind((CLIENT, port)).unwrap());
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Sends one datagram: who got it, and whether the answer came back.
    pub(crate) fn ask(&mut self, client: &UdpSocket, to: (Ipv4Addr, u16)) -> (Option<Ipv4Addr>, bool) {
        self.asked += 1;
        let token = format!("{:08}-token", self.asked);
        client.send_to(token.as_bytes(), to).unwrap();
        let (deadline, mut got, mut buffer) = (Instant::now() + PATIENCE, None, [0; 64]);
        while Instant::now() < deadline {
            for (name, server) in &self.servers {
                let Some((length, from)) = received(server, &mut buffer) else { continue };
                if buffer[..length] == *token.as_bytes() {
                    got = Some(*name);
                    server.send_to(&buffer[..length], from).unwrap();
                }
            }
            if let Some((length, from)) = received(client, &mut buffer)
                && buffer[..length] == *token.as_bytes()
            {
                assert_eq!(from, SocketAddr::from(to), "answers come from whom was asked");
                return (got, true);
            }
            thread::sleep(Duration::from_micros(200));
        }
        (got, false)
    }

    /// A server sends something to the client without being asked: whether it comes.
    pub(crate) fn answer(&mut self, from: Ipv4Addr, client: &UdpSocket) -> bool {
        self.asked += 1;
        let token = format!("{:08}-unasked", self.asked);
        let (_, server) = self.servers.iter().find(|(name, _)| *name == from).unwrap();
        server.send_to(token.as_bytes(), client.local_addr().unwrap()).unwrap();
        let (deadline, mut buffer) = (Instant::now() + PATIENCE, [0; 64]);
        while Instant::now() < deadline {
            if received(client, &mut buffer).is_some_and(|(length, _)| buffer[..length] == *token.as_bytes())
            {
                return true;
            }
            thread::sleep(Duration::from_micros(200));
        }
        false
    }

    /// A socket of a pod's, that blocks.
    pub(crate) fn listen(&self, pod: Ipv4Addr, port: u16) -> UdpSocket {
        self.pods[&pod].within(|| UdpSocket::bind((pod, port)).unwrap())
    }

    /// A datagram that somebody sends in the name of the client goes to who gets it.
    pub(crate) fn who_gets(&self, token: &[u8]) -> BTreeSet<Ipv4Addr> {
        let (deadline, mut got, mut buffer) = (Instant::now() + PATIENCE, BTreeSet::new(), [0; 64]);
        while Instant::now() < deadline {
            for (name, server) in &self.servers {
                if received(server, &mut buffer).is_some_and(|(length, _)| buffer[..length] == *token) {
                    got.insert(*name);
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
        got
    }

    /// The maps, as they are pinned.
    pub(crate) fn maps(&self) -> Maps {
        Maps::open(&object::map_folder(&pins::here(&self.pins.0).unwrap())).unwrap()
    }

    /// The slots that hold packets of the client's port to another one.
    pub(crate) fn slots(&self, pod_port: u16, peer_port: u16) -> Vec<usize> {
        let crossings = self.maps();
        let of_flow = crossings.crossings.iter().map(Result::unwrap).enumerate();
        of_flow
            .filter(|(_, it)| (it.pod_port, it.peer_port) == (pod_port, peer_port))
            .map(|(slot, _)| slot)
            .collect()
    }

    /// Where packets of a flow of the client's are said to go.
    pub(crate) fn backend(&self, port: u16, to: (Ipv4Addr, u16)) -> Option<(Ipv4Addr, u16)> {
        let key = Flow4 {
            ifindex: self.pods[&CLIENT].veth.ifindex,
            pod: CLIENT.octets(),
            peer: to.0.octets(),
            pod_port: port,
            peer_port: to.1,
            protocol: IPPROTO_UDP.into(),
        };
        let maps = self.maps();
        let half_open = || {
            let rows =
                maps.half_open.iter().map(|row| row.unwrap().1).filter(|row| row.ifindex == key.ifindex);
            let flows = rows.flat_map(|row| row.flows.into_iter().zip(row.identities).skip(HALF_OPEN_WAYS));
            let ports = (key.pod_port, key.peer_port);
            let mut of_flow = flows.filter(|(_, it)| (it.pod_port, it.peer_port) == ports);
            of_flow.find(|(_, it)| it.peer[0].to_ne_bytes()[..4] == key.peer).map(|(flow, _)| flow)
        };
        let flow = maps.flows4.get(&key, 0).ok().or_else(half_open)?;
        let Flow { backend: [first, _], backend_port: port, .. } = flow;
        if port == 0 {
            return None;
        }
        let bytes = first.to_ne_bytes();
        Some((Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]), port))
    }

    /// Ways back to the client that are open.
    pub(crate) fn hairpins(&self) -> usize {
        self.maps().hairpins.keys().flatten().count()
    }

    /// What all packets so far were counted under, for messages.
    pub(crate) fn counted(&self) -> String {
        let counted = self.datapath.counted().unwrap().into_iter().filter(|it| it.packets != 0);
        let counted: Vec<_> =
            counted.map(|it| format!("{} {} {}", it.direction, it.reason, it.packets)).collect();
        counted.join(", ")
    }

    /// Packets that were dropped behind NAT under a reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let counted = self.datapath.counted().unwrap();
        let of_reason = counted.iter().filter(|it| it.direction == "behind-nat" && it.reason == reason);
        of_reason.map(|it| it.packets).sum()
    }
}

fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        // Refused before, by somebody who does not listen.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => None,
        Err(error) => panic!("{error}"),
    }
}

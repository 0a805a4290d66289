//! What is denied is dropped before conntrack remembers it: with the same verdicts, and counted as often, as on the veth alone.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::denied_floods::{denied, remembered, track};
use crate::inside::{PATIENCE, ask_udp, node, ping, pod};
use crate::manifests::{Cluster, PodSpec};
use crate::support::{run, up};

/// What is allowed is answered in this time, on a busy machine too.
const LONG: Duration = Duration::from_secs(5);
/// Above what an answer takes, below TCP's second SYN.
const SHORT: Duration = Duration::from_millis(150);

const STYLES: [&str; 2] = ["ptp", "bridge"];
const WEB: [&str; 2] = ["10.1.1.2", "fd00:1::2"];
const NEAR: [&str; 2] = ["10.1.1.3", "fd00:1::3"];
const FAR: [&str; 2] = ["10.1.2.2", "fd00:2::2"];

/// web takes TCP on port 80 from far in, and sends what it likes.
fn policy() -> Value {
    json!({
        "podSelector": { "matchLabels": { "app": "web" } },
        "ingress": [{
            "from": [{ "podSelector": { "matchLabels": { "app": "far" } } }], "ports": [{ "port": 80 }]
        }]
    })
}

fn open(style: &str) -> Cluster {
    let lab = format!("nodes: [{{name: node-a, style: {style}}}, {{name: node-b, style: ptp}}]\n");
    let mut cluster = Cluster::default().lab(&lab).namespace("shop", &[]);
    for (name, node, ips) in [("web", "node-a", &WEB), ("near", "node-a", &NEAR), ("far", "node-b", &FAR)] {
        let (labels, ports) = ([("app", name)], &[(80, "TCP"), (53, "UDP")]);
        cluster = cluster.pod(&PodSpec { name, namespace: "shop", node, ips, labels: &labels, ports });
    }
    cluster
}

/// What became of one packet or connection.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    what: String,
    /// Whether policy lets it through.
    allowed: bool,
    through: bool,
    /// Packets that were counted as denied.
    denied: u64,
    /// Whether its node remembers more than before.
    remembered: bool,
}

/// Sends one of everything, both families.
fn send_everything(lab: &Lab) -> Vec<Came> {
    let (web, near, far, host) =
        (pod(lab, "shop/web"), pod(lab, "shop/near"), pod(lab, "shop/far"), node(lab, "node-a"));
    let mut came = Vec::new();
    let mut note = |what: &str, to: IpAddr, allowed: bool, send: &dyn Fn() -> bool| {
        let what = format!("{what}, {to}");
        let once = || {
            let (counted, entries) = (denied(lab), remembered(host));
            let through = send();
            let (denied, remembered) = (denied(lab) - counted, remembered(host) > entries);
            Came { what: what.clone(), allowed, through, denied, remembered }
        };
        // Meanwhile something else may be denied: a bridge reports its multicast groups (IGMP) when it comes up.
        let is_alone = |came: &Came| came.denied == u64::from(!allowed);
        let mut last = once();
        for _ in 0..2 {
            if !is_alone(&last) {
                last = once();
            }
        }
        came.push(last);
    };
    for family in [0, 1] {
        let [to, there]: [IpAddr; 2] = [WEB[family], FAR[family]].map(|address| address.parse().unwrap());
        let tcp = |from, port, patience| connects(from, SocketAddr::new(to, port), patience);
        let udp = |from, patience| ask_once(from, SocketAddr::new(to, 53), patience);
        note("allowed", to, true, &|| tcp(far, 80, LONG));
        note("another port", to, false, &|| tcp(far, 81, SHORT));
        note("another pod", to, false, &|| tcp(near, 80, SHORT));
        note("a datagram", to, false, &|| udp(far, SHORT));
        note("a datagram of another pod", to, false, &|| udp(near, SHORT));
        note("an echo", to, false, &|| ping(far, to));
        note("a protocol without ports", to, false, &|| raw(far, to));
        note("the node's own", to, true, &|| udp(host, LONG));
        note("the node's echo", to, true, &|| ping(host, to));
        note("an answer", to, true, &|| connects(web, SocketAddr::new(there, 80), LONG));
        note("an answer to a datagram", to, true, &|| ask_once(web, SocketAddr::new(there, 53), LONG));
        note("an answer to an echo", to, true, &|| ping(web, there));
    }
    came
}

/// Whether a connection comes about.
fn connects(from: &Netns, to: SocketAddr, patience: Duration) -> bool {
    from.within(|| TcpStream::connect_timeout(&to, patience).is_ok()).unwrap()
}

/// One datagram, and whether it is answered.
fn ask_once(from: &Netns, to: SocketAddr, patience: Duration) -> bool {
    let asked = from.within(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(b"token", to).unwrap();
        socket.recv(&mut [0; 512]).is_ok()
    });
    asked.unwrap()
}

/// One packet of a protocol that nobody knows; nobody answers it.
fn raw(from: &Netns, to: IpAddr) -> bool {
    let send = || {
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(253))).unwrap();
        socket.send_to(b"payload", &SockAddr::from(SocketAddr::new(to, 0))).unwrap();
    };
    from.within(send).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    false
}

#[test]
fn verdicts_are_those_of_the_veth() {
    run(async {
        for style in STYLES {
            let files = open(style).policy("shop", "web", &policy()).0;
            let mut lab = up(&[&files]).await;
            lab.apply(&files).await.unwrap();
            let without = send_everything(&lab);
            track(node(&lab, "node-a"));
            let with = send_everything(&lab);
            for (without, with) in without.iter().zip(&with) {
                let what = format!("{style}: {without:?}, and {with:?} where connections are tracked");
                assert_eq!((without.through, without.denied), (with.through, with.denied), "{what}");
                assert_eq!((with.through, with.denied), (with.allowed, u64::from(!with.allowed)), "{what}");
                assert!(with.allowed || !with.remembered, "{what}");
            }
            assert!(with.iter().any(|it| it.remembered), "connections are tracked: {with:?}");
        }
    });
}

#[test]
fn what_the_veth_knows_goes_on_where_conntrack_does_not_know_it() {
    run(async {
        let files = open("ptp").0;
        let mut lab = up(&[&files]).await;
        lab.apply(&files).await.unwrap();
        let (web, far) = (pod(&lab, "shop/web"), pod(&lab, "shop/far"));
        let listener = far.within(|| TcpListener::bind((FAR[0], 8000)).unwrap()).unwrap();
        let connect = |web: &Netns| web.within(|| TcpStream::connect((FAR[0], 8000)).unwrap()).unwrap();
        // Older than any policy: only the pod's sockets know of it.
        let older = (connect(web), listener.accept().unwrap().0);
        lab.apply(&open("ptp").policy("shop", "web", &policy()).0).await.unwrap();
        let (web, far) = (pod(&lab, "shop/web"), pod(&lab, "shop/far"));
        let established = (connect(web), listener.accept().unwrap().0);
        let bind = |address: &str| UdpSocket::bind((address, 9000)).unwrap();
        let datagrams = (web.within(|| bind(WEB[0])).unwrap(), far.within(|| bind(FAR[0])).unwrap());
        datagrams.0.send_to(b"ask", (FAR[0], 9000)).unwrap();
        track(node(&lab, "node-a"));
        // The other side speaks first: for conntrack, it starts all of these.
        for (what, (mut at_web, mut at_far)) in [("older", older), ("established", established)] {
            at_far.write_all(b"hear").unwrap();
            assert!(hears(&mut at_web), "{what}");
        }
        datagrams.1.send_to(b"hear", (WEB[0], 9000)).unwrap();
        datagrams.0.set_read_timeout(Some(LONG)).unwrap();
        assert!(datagrams.0.recv(&mut [0; 16]).is_ok(), "half-open");
        let other = SocketAddr::from(([10, 1, 1, 2], 9001));
        assert!(!ask_udp(far, 0, other, "token", PATIENCE), "what the veth does not know");
    });
}

fn hears(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    std::io::Read::read_exact(stream, &mut [0; 4]).is_ok()
}

//! A new pod that a policy selects is never open, from its first address on: nothing comes in, nothing gets out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use postern_lab::party::PartyId;
use postern_lab::prober::{Target, monotonic_ns};
use postern_lab::working_copy::Files;
use postern_policy::model::{NamespacedName, Protocol};

use crate::inside::{PATIENCE, ask_udp, command, connect, external, node, ping, pod};
use crate::manifests::{Cluster, PodSpec, deny_all, small};
use crate::support::{run, run_alone, snapshot, up};

const OUTSIDE: [u8; 4] = [203, 0, 113, 9];
/// Where the host outside counts what new pods send.
const SINK: u16 = 9_999;
/// How long the programs may take to get onto a new link. A runtime starts the first container later than this: it has
/// yet to report the address, and to make the container.
const FIRST_CONTAINER: Duration = Duration::from_millis(100);
/// How long the wires are there before anybody says whose address it is.
const UNKNOWN: Duration = Duration::from_millis(300);

/// A new pod's life.
struct Life {
    /// Its object, without an address yet.
    scheduled: Files,
    /// With its address.
    running: Files,
    /// And nothing isolates it any more.
    free: Files,
    address: IpAddr,
}

fn life(number: u8) -> Life {
    let (node, network) = if number.is_multiple_of(2) { ("node-a", 1) } else { ("node-b", 2) };
    let address = format!("10.1.{network}.{}", 100 + number);
    let pod = |name, namespace, node, ips| PodSpec {
        name,
        namespace,
        node,
        ips,
        labels: &[],
        ports: &[(80, "TCP"), (53, "UDP")],
    };
    let free = small().pod(&pod("near", "other", "node-a", &["10.1.1.4"]));
    let denied = free.clone().policy("shop", "deny", &deny_all());
    let with = |cluster: &Cluster, ips| cluster.clone().pod(&pod("new", "shop", node, ips)).0;
    Life {
        scheduled: with(&denied, &[]),
        running: with(&denied, &[&address]),
        free: with(&free, &[&address]),
        address: address.parse().unwrap(),
    }
}

/// Counts the datagrams that reach the host outside, until told to stop.
fn count(outside: &Netns, stop: &Arc<AtomicBool>) -> Arc<AtomicUsize> {
    let socket = outside.within(|| UdpSocket::bind((Ipv4Addr::from(OUTSIDE), SINK))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let received = Arc::new(AtomicUsize::new(0));
    let (counter, stop) = (Arc::clone(&received), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut [0; 16]).is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    received
}

/// Sends from inside the namespace of that name from the moment it exists: before its pod has a link.
fn send_from(name: String, stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // The name is there a moment before the namespace is.
            if let Ok(inside) = Netns::open(&name)
                && inside.within(|| send_until(&stop)).is_ok()
            {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    });
}

fn send_until(stop: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    while !stop.load(Ordering::Relaxed) {
        // There is no way out at first.
        let _ = socket.send_to(b"out", (Ipv4Addr::from(OUTSIDE), SINK));
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Who tries to reach the new pod all along: from outside, from the other node or the same one.
fn callers(to: IpAddr) -> [(PartyId, Target); 3] {
    let pod = |name| PartyId::Pod(NamespacedName::new("other", name));
    [
        (PartyId::External("outside".to_owned()), OUTSIDE, 80, Protocol::Tcp),
        (pod("near"), [10, 1, 1, 4], 80, Protocol::Tcp),
        (pod("client"), [10, 1, 2, 3], 53, Protocol::Udp),
    ]
    .map(|(party, source, port, protocol)| {
        let destination = SocketAddr::new(to, port);
        (
            party,
            Target { source: source.into(), destination, protocol, answerer: Some("shop/new".to_owned()) },
        )
    })
}

async fn is_born(lab: &mut Lab, number: u8) {
    let life = life(number);
    lab.apply(&life.scheduled).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let received = count(external(lab, "outside"), &stop);
    send_from(format!("{}shop.new", lab.run().netns_prefix()), &stop);
    for (party, target) in callers(life.address) {
        lab.watch(&party, target, Duration::from_millis(1)).await.unwrap();
    }
    let begin = monotonic_ns();
    lab.sync_pods(&snapshot(&life.running)).await.unwrap();
    let started = begin + u64::try_from(FIRST_CONTAINER.as_nanos()).unwrap();
    let left = FIRST_CONTAINER.saturating_sub(Duration::from_nanos(monotonic_ns() - begin));
    tokio::time::sleep(left).await;
    let early = received.load(Ordering::Relaxed);
    tokio::time::sleep(UNKNOWN).await;
    lab.apply(&life.running).await.unwrap();
    tokio::time::sleep(UNKNOWN).await;
    for (party, _) in callers(life.address) {
        let samples = lab.end_watch(&party).await.unwrap();
        let late: Vec<u64> =
            samples.iter().map(|sample| sample.sent_ns).filter(|sent| *sent > started).collect();
        assert!(late.len() > 100, "only {} attempts", late.len());
        let passed = samples.iter().filter(|sample| sample.passed);
        let after_ms: Vec<u64> =
            passed.map(|sample| sample.sent_ns.saturating_sub(begin) / 1_000_000).collect();
        if let Some(last) = after_ms.last() {
            println!("pod {number} was open to {party} until {last} ms after it came");
            assert!(u128::from(*last) < FIRST_CONTAINER.as_millis(), "pod {number}: {party}");
        }
    }
    assert_eq!(received.load(Ordering::Relaxed), early, "pod {number}: datagrams that got out");
    received.store(0, Ordering::Relaxed);

    // All that was tried works once nothing isolates the pod.
    lab.apply(&life.free).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while received.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "pod {number}: nothing gets out of a free pod");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let at = |port| SocketAddr::new(life.address, port);
    assert!(connect(external(lab, "outside"), at(80)).is_some());
    assert!(connect(pod(lab, "other/near"), at(80)).is_some());
    assert!(ask_udp(pod(lab, "other/client"), 0, at(53), "token", PATIENCE));
}

#[test]
fn a_new_pod_is_never_open() {
    run_alone(async {
        let lives: Vec<Life> = (0..6).map(life).collect();
        let states: Vec<&Files> = lives.iter().map(|life| &life.running).collect();
        let mut lab = up(&states).await;
        for number in 0..6 {
            is_born(&mut lab, number).await;
        }
    });
}

#[test]
fn a_pod_without_an_address_cuts_off_nothing_older_and_nothing_of_other_pods() {
    run(async {
        let life = life(0);
        let mut before = life.free.clone();
        before.remove("pod-shop-new.json");
        let mut lab = up(&[&before]).await;
        lab.apply(&before).await.unwrap();
        // A second network of a pod, and something on it that is no pod.
        let far = Netns::create(&format!("{}far", lab.run().netns_prefix())).unwrap();
        let near = pod(&lab, "other/near");
        let host = node(&lab, "node-a");
        command(host, "ip link add br-second type bridge");
        command(host, "ip link set br-second up");
        for (number, netns) in [(1, near), (2, &far)] {
            let name = netns.name();
            command(host, &format!("ip link add second{number} type veth peer name net1 netns {name}"));
            command(host, &format!("ip link set second{number} master br-second up"));
            command(netns, &format!("ip address add 192.168.77.{number}/24 dev net1"));
            command(netns, "ip link set net1 up");
        }
        let reaches = || ping(pod(&lab, "other/near"), [192, 168, 77, 2].into());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !reaches() {
            assert!(Instant::now() < deadline, "the second network never works");
        }
        // Older is what the agent has seen before it hears of the pod, and nothing tells when it has looked at links.
        tokio::time::sleep(Duration::from_secs(2)).await;
        lab.write(&life.scheduled).unwrap();
        lab.enforced().await.unwrap();
        let reaches = || ping(pod(&lab, "other/near"), [192, 168, 77, 2].into());
        assert!(reaches(), "both were there before the pod");
        // Nobody knows that of what comes now.
        let host = node(&lab, "node-a");
        let late = Netns::create(&format!("{}late", lab.run().netns_prefix())).unwrap();
        command(host, &format!("ip link add second3 type veth peer name net1 netns {}", late.name()));
        let quarantined = |lab: &Lab| -> Vec<String> {
            let status = lab.agent("node-a").unwrap().status().unwrap();
            status.endpoints.into_iter().filter(|it| it.quarantined).map(|it| it.interface).collect()
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while quarantined(&lab) != ["second3"] {
            assert!(Instant::now() < deadline, "{:?}", quarantined(&lab));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(reaches(), "still");
        for netns in [far, late] {
            postern_lab::netns::delete(netns.name()).unwrap();
        }
    });
}

#[test]
fn a_pod_without_an_address_does_not_cut_its_node_off() {
    run(async {
        let life = life(0);
        let mut lab = up(&[&life.scheduled]).await;
        lab.apply(&life.scheduled).await.unwrap();
        let near = SocketAddr::from(([10, 1, 1, 4], 80));
        assert!(connect(pod(&lab, "other/client"), near).is_some(), "from the other node");
        assert!(connect(external(&lab, "outside"), near).is_some(), "from outside");
    });
}

//! Which programs are on a veth, by the kernel's word, and that none is missing while they are swapped.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use postern_lab::lab::Lab;
use postern_lab::netns::Netns;

use super::world::{LIARS, Liar, NOBODY, all_allowed, arrive_all, outside, veths, with_flags, world};
use crate::inside::{command, external, node, pod};
use crate::support::{run, up};

/// The kernel keeps 15 bytes of a name.
const POLICY: [&str; 2] = ["postern_from_po", "postern_to_pod"];
const GUARD: [&str; 2] = ["postern_guard", ""];
const NOTHING: [&str; 2] = ["", ""];

/// What a veth carries at TC ingress (what the pod sends) and egress.
fn carried(lab: &Lab, name: &str, interface: &str) -> [String; 2] {
    [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")].map(|(hook, direction)| {
        node(lab, name)
            .within(|| {
                let (_, programs) = SchedClassifier::query_tcx(interface, hook).unwrap();
                let tcx = programs.iter().map(|it| it.name_as_str().unwrap_or_default().to_owned());
                let filters =
                    command(node(lab, name), &format!("tc filter show dev {interface} {direction}"));
                let clsact = filters.split_whitespace().skip_while(|word| *word != "handle").nth(2);
                // tc shows the whole name, which the filter has.
                let clsact = clsact.map(|name| name.chars().take(15).collect::<String>());
                tcx.chain(clsact).collect::<Vec<_>>().join(" ")
            })
            .unwrap()
    })
}

/// How many veths of each node carry what; each node has a liar and its neighbour.
fn assert_carried(lab: &Lab, liars: [&str; 2], others: [&str; 2], when: &str) {
    for liar in &LIARS {
        let mut found: Vec<_> =
            veths(lab, liar.node).iter().map(|interface| carried(lab, liar.node, interface)).collect();
        let mut expected = vec![liars.map(str::to_owned), others.map(str::to_owned)];
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{when}: {}", liar.node);
    }
}

/// Nothing of a pod's addresses is left where no program needs them.
async fn assert_dumped(lab: &Lab, veths_per_node: usize, when: &str) {
    for (node, dump) in lab.dump().await.unwrap() {
        assert_eq!(dump.as_object().unwrap().len(), veths_per_node, "{when}: {node}: {dump:#}");
    }
}

#[test]
fn programs_come_and_go_with_policies_modes_and_agents() {
    run(async {
        for attach in ["tcx", "clsact"] {
            let (open, isolated) = (world(), all_allowed(world()));
            let mut lab = up(&[&isolated.0]).await;
            let mut flags = ["--attach", attach, "--antispoof", "isolated"];
            with_flags(&mut lab, &flags).await;
            lab.apply(&open.0).await.unwrap();
            assert_carried(&lab, NOTHING, NOTHING, "no policy");
            arrive_all(&lab, true, "no policy");
            lab.apply(&isolated.0).await.unwrap();
            assert_carried(&lab, POLICY, NOTHING, "policy");
            arrive_all(&lab, false, "policy");
            lab.apply(&open.0).await.unwrap();
            assert_carried(&lab, NOTHING, NOTHING, "the last policy is gone");
            assert_dumped(&lab, 0, "the last policy is gone").await;

            flags[3] = "all";
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, GUARD, GUARD, "all, no policy");
            assert_dumped(&lab, 2, "all, no policy").await;
            arrive_all(&lab, false, "all, no policy");
            lab.apply(&isolated.0).await.unwrap();
            assert_carried(&lab, POLICY, GUARD, "all, policy");
            arrive_all(&lab, false, "all, policy");
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, POLICY, GUARD, "all, policy, another agent");
            lab.apply(&open.0).await.unwrap();
            assert_carried(&lab, GUARD, GUARD, "all, the last policy is gone");
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, GUARD, GUARD, "all, no policy, another agent");
            arrive_all(&lab, false, "all, no policy, another agent");

            // The policy comes while no agent runs.
            for agent in lab.agents_mut() {
                agent.kill().await;
            }
            lab.write(&isolated.0).unwrap();
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, POLICY, GUARD, "all, policy came between two agents");
            for agent in lab.agents_mut() {
                agent.kill().await;
            }
            lab.write(&open.0).unwrap();
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, GUARD, GUARD, "all, policy went between two agents");

            flags[3] = "isolated";
            with_flags(&mut lab, &flags).await;
            assert_carried(&lab, NOTHING, NOTHING, "from all to isolated");
            assert_dumped(&lab, 0, "from all to isolated").await;
            arrive_all(&lab, true, "from all to isolated");
            flags[3] = "off";
            with_flags(&mut lab, &flags).await;
            lab.apply(&isolated.0).await.unwrap();
            assert_carried(&lab, POLICY, NOTHING, "off");
            arrive_all(&lab, true, "off");
            flags[3] = "isolated";
            with_flags(&mut lab, &flags).await;
            arrive_all(&lab, false, "from off to isolated");
        }
    });
}

#[test]
fn the_other_way_of_attaching_takes_over_guards() {
    run(async {
        let open = world();
        let mut lab = up(&[&open.0]).await;
        for attach in ["tcx", "clsact", "tcx"] {
            with_flags(&mut lab, &["--attach", attach, "--antispoof", "all"]).await;
            lab.apply(&open.0).await.unwrap();
            assert_carried(&lab, GUARD, GUARD, attach);
            arrive_all(&lab, false, attach);
        }
    });
}

/// Datagrams from one socket to another without pause, and how many of them arrive.
struct Stream {
    sender: JoinHandle<usize>,
    sink: JoinHandle<usize>,
}

impl Stream {
    /// From an address of the liar to the host outside.
    fn out(lab: &Lab, liar: &Liar, from: &str, port: u16, stop: &Arc<AtomicBool>) -> Self {
        let from_to = (SocketAddr::new(from.parse().unwrap(), port), outside(from, port));
        Self::start((pod(lab, liar.id), external(lab, "outside")), from_to, stop)
    }

    /// From the host outside to an address of the liar.
    fn into(lab: &Lab, liar: &Liar, to: &str, port: u16, stop: &Arc<AtomicBool>) -> Self {
        let from_to = (outside(to, port), SocketAddr::new(to.parse().unwrap(), port));
        Self::start((external(lab, "outside"), pod(lab, liar.id)), from_to, stop)
    }

    fn start(
        (here, there): (&Netns, &Netns),
        (from, to): (SocketAddr, SocketAddr),
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let sink = there.within(|| UdpSocket::bind(to)).unwrap().unwrap();
        sink.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // Whoever reads may have to wait for a CPU.
        setsockopt(&sink, RcvBufForce, &(64 << 20)).unwrap();
        let sender = here.within(|| UdpSocket::bind(from)).unwrap().unwrap();
        sender.connect(to).unwrap();
        let [sending, receiving] = [Arc::clone(stop), Arc::clone(stop)];
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while !sending.load(Ordering::Relaxed) {
                sent += usize::from(sender.send(b"on and on").is_ok());
                std::thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        let sink = std::thread::spawn(move || {
            let mut received = 0;
            loop {
                match sink.recv(&mut [0; 16]) {
                    Ok(_) => received += 1,
                    Err(_) if receiving.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        Self { sender, sink }
    }

    /// How many datagrams were sent, and how many arrived.
    fn end(self) -> (usize, usize) {
        (self.sender.join().unwrap(), self.sink.join().unwrap())
    }
}

/// Both ways, for each liar's IPv4 address.
fn honest(lab: &Lab, stop: &Arc<AtomicBool>) -> Vec<(&'static str, Stream)> {
    let streams = (7000..).step_by(2).zip(&LIARS).flat_map(|(port, liar)| {
        let own = liar.own()[0];
        [
            ("out", Stream::out(lab, liar, own, port, stop)),
            ("in", Stream::into(lab, liar, own, port + 1, stop)),
        ]
    });
    streams.collect()
}

fn assert_nothing_lost(lab: &mut Lab, streams: Vec<(&'static str, Stream)>, when: &str) {
    let counted: Vec<_> = lab.agents_mut().iter().map(|agent| agent.status().unwrap().packets).collect();
    for (direction, stream) in streams {
        let (sent, received) = stream.end();
        assert!(sent > 1000, "only {sent} datagrams were sent");
        assert_eq!(received, sent, "{when}, {direction}; {counted:?}");
    }
}

#[test]
fn nothing_slips_through_and_nothing_is_lost_while_programs_are_swapped() {
    run(async {
        for attach in ["tcx", "clsact"] {
            let flags = ["--attach", attach, "--antispoof", "all"];
            let (open, isolated) = (world(), all_allowed(world()));
            let mut lab = up(&[&isolated.0]).await;
            with_flags(&mut lab, &flags).await;
            lab.apply(&open.0).await.unwrap();
            arrive_all(&lab, false, attach);
            let stop = Arc::new(AtomicBool::new(false));
            let honest = honest(&lab, &stop);
            let [foreign, _] = NOBODY;
            let spoofed: Vec<_> = (8000..)
                .zip(&LIARS)
                .map(|(port, liar)| Stream::out(&lab, liar, foreign, port, &stop))
                .collect();
            for round in 0..30 {
                lab.apply(if round % 2 == 0 { &isolated.0 } else { &open.0 }).await.unwrap();
                if round % 10 == 9 {
                    with_flags(&mut lab, &flags).await;
                }
            }
            stop.store(true, Ordering::Relaxed);
            for stream in spoofed {
                let (sent, received) = stream.end();
                assert!(sent > 1000, "only {sent} datagrams were spoofed");
                assert_eq!(received, 0, "{attach}: of {sent} spoofed datagrams");
            }
            assert_nothing_lost(&mut lab, honest, attach);
        }
    });
}

#[test]
fn nothing_is_lost_while_the_mode_changes() {
    run(async {
        for attach in ["tcx", "clsact"] {
            let (open, isolated) = (world(), all_allowed(world()));
            let mut lab = up(&[&isolated.0]).await;
            lab.apply(&open.0).await.unwrap();
            // The kernel takes a device out of service for a moment when it gets its clsact qdisc (`qdisc_graft`).
            with_flags(&mut lab, &["--attach", attach, "--antispoof", "all"]).await;
            let stop = Arc::new(AtomicBool::new(false));
            let honest = honest(&lab, &stop);
            for mode in ["isolated", "all", "off", "all", "isolated", "all"] {
                with_flags(&mut lab, &["--attach", attach, "--antispoof", mode]).await;
                lab.apply(&isolated.0).await.unwrap();
                lab.apply(&open.0).await.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert_nothing_lost(&mut lab, honest, attach);
        }
    });
}

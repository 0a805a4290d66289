//! `postern uninstall` leaves nothing of Postern's, and touches nothing of anybody else's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};
use futures::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use postern::datapath::Datapath;
use postern::datapath::attach::{Mode, probe};
use postern::datapath::object::{self, PROGRAMS, Settings};
use postern::datapath::removal::{self, RemovalError, Removed};
use postern::datapath::wanted::Wanted;

use crate::features;
use crate::pod_netns::{BPFFS, PodNetns, enter_node};

/// A folder for pins on the BPF file system of the calling thread's node, which takes what is left in it along.
pub(crate) struct Pins(pub(crate) PathBuf);

impl Pins {
    pub(crate) fn new(name: &str) -> Self {
        Self(Path::new(BPFFS).join(name))
    }
}

/// Runs a test as a node of its own, with two pods.
pub(crate) fn on_node(test: impl FnOnce(&[PodNetns]) + Send) {
    let node = || {
        enter_node();
        let pods = [1, 2].map(|number| {
            let address = |last: u8| IpAddr::from([10, 9, number, last]);
            PodNetns::create(&format!("veth-{number}"), &[address(2)], &[address(1)])
        });
        test(&pods);
    };
    thread::scope(|scope| scope.spawn(node).join().unwrap());
}

/// What an agent puts on the pods' veths: one is in quarantine, the other one open.
fn enforce(pins: &Path, mode: Mode, pods: &[PodNetns]) {
    let (mut datapath, _) = Datapath::start(pins, mode, Settings::default()).unwrap();
    let wanted: BTreeMap<u32, Wanted> = pods
        .iter()
        .zip([Wanted::quarantine, Wanted::open])
        .map(|(pod, wanted)| (pod.veth.ifindex, wanted(pod.veth.interface.clone())))
        .collect();
    let errors = datapath.reconcile(&wanted, false);
    assert!(errors.is_empty(), "{errors:?}");
}

pub(crate) fn remove(pins: &Path) -> Result<Removed, RemovalError> {
    runtime().block_on(removal::remove(pins))
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Programs, by whichever way, on the hooks of these pods' veths.
pub(crate) fn programs(pods: &[PodNetns]) -> usize {
    let tcx: usize = pods
        .iter()
        .flat_map(|pod| {
            [TcAttachType::Ingress, TcAttachType::Egress].map(|hook| {
                match SchedClassifier::query_tcx(&pod.veth.interface, hook) {
                    Ok((_, programs)) => programs.len(),
                    // Before 6.6, there is no such hook.
                    Err(_) if probe() == Mode::Clsact => 0,
                    Err(error) => panic!("{error}"),
                }
            })
        })
        .sum();
    let filters = pods.iter().flat_map(|pod| {
        listed(async |handle| {
            let of = || handle.traffic_filter(pod.veth.ifindex.cast_signed()).get();
            let mut all: Vec<TcMessage> = of().ingress().execute().try_collect().await.unwrap();
            all.extend(of().egress().execute().try_collect::<Vec<_>>().await.unwrap());
            all
        })
    });
    tcx + filters.filter(|it| it.header.handle != TcHandle::UNSPEC).count()
}

/// Interfaces of this namespace that have a clsact qdisc.
fn clsact() -> Vec<i32> {
    let all = listed(async |handle| handle.qdisc().get().execute().try_collect().await.unwrap());
    let is_clsact = |it: &TcMessage| it.attributes.contains(&TcAttribute::Kind("clsact".to_owned()));
    all.iter().filter(|it| is_clsact(it)).map(|it| it.header.index).collect()
}

fn listed(list: impl AsyncFnOnce(rtnetlink::Handle) -> Vec<TcMessage>) -> Vec<TcMessage> {
    runtime().block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        list(handle).await
    })
}

#[test]
fn nothing_is_left_of_tcx() {
    if !features::tcx() {
        return;
    }
    on_node(|pods| {
        let pins = Pins::new("tcx");
        enforce(&pins.0, Mode::Tcx, pods);
        assert_eq!(programs(pods), 4);
        let removed = remove(&pins.0).unwrap();
        // Four on veths; for each family one behind NAT, and one before connections are confirmed.
        assert_eq!((removed.links, removed.filters, removed.qdiscs), (8, 0, 0));
        assert!(removed.maps > 10, "{removed:?}");
        // For veths, and for netfilter.
        assert_eq!(removed.programs, 4 + 4);
        assert_eq!(programs(pods), 0);
        assert!(!pins.0.exists());
        assert_eq!(remove(&pins.0).unwrap(), Removed::default(), "there is nothing to remove twice");
    });
}

#[test]
fn nothing_is_left_of_clsact() {
    on_node(|pods| {
        let pins = Pins::new("clsact");
        enforce(&pins.0, Mode::Clsact, pods);
        assert_eq!((programs(pods), clsact().len()), (4, 2));
        let removed = remove(&pins.0).unwrap();
        let in_netfilter = if features::netfilter() { 4 } else { 0 };
        assert_eq!((removed.links, removed.filters, removed.qdiscs), (in_netfilter, 4, 2));
        assert_eq!((programs(pods), clsact().len()), (0, 0));
        assert!(!pins.0.exists());
    });
}

#[test]
fn filters_go_without_their_pins() {
    on_node(|pods| {
        let pins = Pins::new("lost");
        enforce(&pins.0, Mode::Clsact, pods);
        std::fs::remove_dir_all(&pins.0).unwrap();
        assert_eq!(remove(&pins.0).unwrap().filters, 4);
        assert_eq!((programs(pods), clsact().len()), (0, 0));
    });
}

#[test]
fn what_others_attached_and_pinned_stays() {
    on_node(|pods| {
        let pins = Pins::new("others");
        enforce(&pins.0, Mode::Clsact, pods);
        // Somebody else's program beside ours, and somebody else's qdisc on what is no pod's veth.
        let mut others = object::load(None, Settings::default()).unwrap();
        let options = NlOptions { priority: 7, ..NlOptions::default() };
        let program = object::program(&mut others, PROGRAMS[0]).unwrap();
        let options = TcAttachOptions::Netlink(options);
        program.attach_with_options(&pods[0].veth.interface, TcAttachType::Ingress, options).unwrap();
        qdisc_add_clsact("lo").unwrap();
        let foreign = pins.0.join("somebody-elses");
        std::fs::create_dir(&foreign).unwrap();

        let error = remove(&pins.0).unwrap_err();
        assert!(matches!(&error, RemovalError::Foreign(path) if *path == foreign), "{error}");
        assert!(foreign.exists());
        assert_eq!(programs(pods), 1);
        assert_eq!(clsact(), [1, pods[0].veth.ifindex.cast_signed()]);

        std::fs::remove_dir(&foreign).unwrap();
        let programs = pins.0.join("boot-1-netns-1/programs");
        std::fs::create_dir_all(&programs).unwrap();
        let foreign = programs.join("program");
        object::program(&mut others, PROGRAMS[0]).unwrap().pin(&foreign).unwrap();
        let error = remove(&pins.0).unwrap_err();
        assert!(matches!(&error, RemovalError::Foreign(path) if *path == foreign), "{error}");
        std::fs::remove_file(&foreign).unwrap();
        remove(&pins.0).unwrap();
        assert!(!pins.0.exists());
    });
}

#[test]
fn a_folder_elsewhere_is_refused() {
    on_node(|_| {
        let folder = tempfile::tempdir().unwrap();
        let error = remove(folder.path()).unwrap_err();
        assert!(matches!(error, RemovalError::NotBpffs(_)), "{error}");
        assert!(folder.path().exists());
    });
}

#[test]
fn the_command_refuses_while_an_agent_lives() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("postern.sock");
    let pins = Pins::new("living");
    let uninstall = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.arg("uninstall").arg("--socket").arg(&socket).arg("--bpffs-dir").arg(&pins.0);
        command.output().unwrap()
    };
    // In a namespace of its own: the machine's is not ours to clean.
    on_node(|_| {
        let listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let refused = uninstall();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("an agent runs here"), "{refused:?}");
        drop(listening);
        let done = uninstall();
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(!socket.exists(), "what a killed agent left of its socket goes too");
    });
}

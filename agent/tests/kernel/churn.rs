//! Looking at links while others come and go: the kernel interrupts its lists then, and no veth that is there may be missed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use postern::links::Scanner;
use rtnetlink::{Handle, LinkVeth};

use crate::pod_netns::run;
use crate::removal::on_node;

/// Enough that a list takes several messages.
const OTHERS: usize = 50;

#[test]
fn no_veth_is_missed_while_links_come_and_go() {
    on_node(|pods| {
        let expected: Vec<_> = pods.iter().map(|pod| pod.veth.ifindex).collect();
        run(async |handle: Handle| {
            for number in 0..OTHERS {
                // Both ends are here: these lead to no pod.
                let link = LinkVeth::new(&format!("other{number}"), &format!("far{number}")).build();
                handle.link().add(link).execute().await.unwrap();
            }
        });
        let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let done = AtomicBool::new(false);
        let churn = || {
            setns(&here, CloneFlags::CLONE_NEWNET).unwrap();
            run(async |handle: Handle| {
                while !done.load(Ordering::Relaxed) {
                    handle.link().add(LinkVeth::new("brief", "end").build()).execute().await.unwrap();
                    let name = "brief".to_owned();
                    let brief = handle.link().get().match_name(name).execute();
                    let brief: Vec<_> = futures::TryStreamExt::try_collect(brief).await.unwrap();
                    handle.link().del(brief[0].header.index).execute().await.unwrap();
                }
            });
        };
        thread::scope(|scope| {
            scope.spawn(churn);
            run(async |_| {
                let mut scanner = Scanner::open().unwrap();
                for _ in 0..100 {
                    let view = scanner.scan().await.unwrap();
                    let seen: Vec<_> = view.veths.iter().map(|veth| veth.ifindex).collect();
                    assert_eq!(seen, expected);
                    assert!(view.veths.iter().all(|veth| veth.addresses.len() == 1), "{view:?}");
                    assert!(view.unknown.is_empty(), "{view:?}");
                }
            });
            done.store(true, Ordering::Relaxed);
        });
    });
}

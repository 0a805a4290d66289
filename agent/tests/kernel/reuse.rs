//! The kernel gives the memory of a replaced map element to whatever is written next. A packet that was about to read the replaced
//! one never takes the other one for it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use postern_common::endpoint::Endpoint;
use postern_common::reason::Reason;
use postern_policy::model::{Direction, Protocol};

use crate::programs::Programs;
use crate::rig::IFINDEX;
use crate::traffic::{self, Place};

/// How often the elements are replaced. Of some million packets meanwhile, programs that look once read the wrong one for one or two.
const ROUNDS: usize = 150_000;
/// How often in a row a frame is shown.
const REPEAT: u32 = 10_000;
/// A veth whose pod is not isolated, beside the isolated one that frames are shown on.
const OPEN: u32 = 1_000;

#[test]
fn an_endpoint_is_never_taken_for_another() {
    let (programs, mut maps) = Programs::load();
    let isolated = Endpoint { ingress_class: 1, egress_class: 1, ..Endpoint::default() };
    maps.set_endpoint(IFINDEX, isolated).unwrap();
    let stop = AtomicBool::new(false);
    let before = programs.counted();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (source, destination) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
            let frame = traffic::with_ports(Protocol::Udp, (source, 1), (destination, 2), Place::First);
            while !stop.load(Relaxed) {
                programs.run(Direction::Ingress, &frame, REPEAT);
            }
        });
        for _ in 0..ROUNDS {
            maps.set_endpoint(IFINDEX, isolated).unwrap();
            maps.set_endpoint(OPEN, Endpoint::default()).unwrap();
            maps.remove_endpoint(OPEN).unwrap();
        }
        stop.store(true, Relaxed);
    });
    let counted = programs.counted().since(&before, Direction::Ingress);
    let of = |sought| counted.iter().filter(|(it, _)| *it == sought).map(|(_, packets)| packets).sum::<u64>();
    // A reader that is interrupted each time that it looks may give up: then it finds nothing, and drops.
    let (packets, given_up) = (of(Reason::DeniedByPolicy), of(Reason::NoEndpoint));
    assert!(packets > 100_000, "hardly a frame was shown: {counted:?}");
    assert!(given_up < packets / 100_000 + 1, "{counted:?}");
    let all = counted.iter().map(|(_, packets)| packets).sum::<u64>();
    assert_eq!(packets + given_up, all, "{counted:?}");
}

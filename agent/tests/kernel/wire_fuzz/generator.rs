//! Sequences of frames and changes: a number flows in, a sequence flows out, always the same one.
//!
//! Few addresses, ports and pods, so that what is sent meets what was sent before.

use super::node::Setting;
use super::policy::{Good, Policy};
use super::shape::{ACK, Load, Port, SYN, Shape};
use super::world::{BACKEND_PORT, Mac, NODE_PORT, PODS, Place, SERVICE_PORT, VXLAN_PORT, Who};
use crate::fuzz::dice::Dice;

/// Steps of a sequence.
const STEPS: usize = 400;
/// How many ports are a sequence's own.
pub(super) const OWN_PORTS: u16 = 32;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Send(Shape),
    /// Back, to where the last frame but so many came from, that arrived anywhere.
    Answer {
        back: usize,
        routed: bool,
    },
    /// Once more, in the same flow.
    Again {
        back: usize,
    },
    /// Something is other than before. `rules_first`: nftables before the API's objects.
    Set {
        setting: Setting,
        rules_first: bool,
        forget: bool,
    },
    /// Whoever chooses backends knows of a change that the agent does not know of yet: the next [`Self::Set`] tells both.
    Rules {
        service: Option<usize>,
        forget: bool,
    },
    /// conntrack forgets.
    Forget,
}

/// The sequence of this number.
pub(super) fn sequence(seed: u64, number: u64) -> Vec<Step> {
    let mut dice = Dice::new(Dice::new(seed ^ number.rotate_left(32)).next());
    let mut setting = Setting::default();
    let mut steps = Vec::with_capacity(STEPS);
    change(&mut dice, &mut setting);
    change(&mut dice, &mut setting);
    steps.push(Step::Set { setting, rules_first: false, forget: true });
    while steps.len() < STEPS {
        steps.push(match dice.below(1000) {
            0..=9 => {
                change(&mut dice, &mut setting);
                Step::Set { setting, rules_first: dice.percent(50), forget: dice.percent(50) }
            }
            10..=13 => Step::Forget,
            14..=19 => Step::Rules { service: service(&mut dice), forget: dice.percent(70) },
            20..=250 => Step::Answer { back: dice.below(6), routed: dice.percent(60) },
            251..=400 => Step::Again { back: dice.below(12) },
            _ => Step::Send(shape(&mut dice)),
        });
    }
    steps
}

fn change(dice: &mut Dice, setting: &mut Setting) {
    match dice.below(7) {
        6 => setting.guarded = !setting.guarded,
        0 | 1 => {
            setting.policies[dice.below(2)] = dice.weighted(&[
                (5, Policy::Open),
                (10, Policy::Nothing),
                (10, Policy::Client),
                (8, Policy::Server),
                (8, Policy::Block),
                (6, Policy::Ingress),
                (7, Policy::Egress),
            ]);
        }
        2 => {
            let which = dice.below(2);
            let Good(good) = &mut setting.good;
            good[which] = !good[which];
        }
        _ => setting.service = service(dice),
    }
}

/// Which backend the Service leads to, if there is one.
fn service(dice: &mut Dice) -> Option<usize> {
    dice.one_of(&[None, Some(0), Some(1), Some(0), Some(1), Some(2), Some(3)])
}

fn shape(dice: &mut Dice) -> Shape {
    let from = dice.weighted(&[
        (50, Place::Subject),
        (14, Place::Accomplice),
        (8, Place::Backend),
        (14, Place::Routed),
        (7, Place::Outside),
        (7, Place::Node),
    ]);
    let v6 = dice.percent(40);
    let tag = match dice.below(20) {
        0 => 0xffff,
        1 | 2 => u16::try_from(1 + dice.below(256)).unwrap(),
        3 | 4 => 0xb000 | u16::try_from(dice.below(256)).unwrap(),
        5 => u16::try_from(dice.below(0x1_0000)).unwrap(),
        _ => 0,
    };
    let mut shape = Shape {
        from,
        tag,
        to_mac: Mac::Nobody,
        from_mac: Mac::Of(from),
        vlan: dice.percent(3).then(|| dice.one_of(&[0, 7])),
        v6,
        source: Who::Of(from),
        destination: destination(dice, from),
        load: Load::Portless(47),
    };
    if dice.percent(12) {
        shape.source = stranger(dice);
    } else if from == Place::Outside && dice.percent(60) {
        shape.source = dice.one_of(&[Who::Remote, Who::Block]);
    }
    if dice.percent(10) {
        shape.from_mac = Mac::Of(dice.one_of(&PODS));
    }
    shape.to_mac = to_mac(dice, from, shape.destination);
    shape.load = load(dice, &mut shape);
    if from == Place::Node {
        (shape.vlan, shape.tag) = (None, 0);
        shape.source = Who::Of(Place::Node);
    }
    shape
}

fn destination(dice: &mut Dice, from: Place) -> Who {
    let who = dice.weighted(&[
        (10, Who::Of(Place::Subject)),
        (10, Who::Of(Place::Accomplice)),
        (14, Who::Of(Place::Backend)),
        (8, Who::Of(Place::Routed)),
        (5, Who::Of(Place::Outside)),
        (12, Who::Of(Place::Node)),
        (6, Who::Uplink),
        (6, Who::Remote),
        (16, Who::Frontend),
        (6, Who::Block),
        (2, Who::Stranger),
        (1, Who::AllNodes),
        (1, Who::LinkLocal),
    ]);
    if who == Who::Of(from) { Who::Frontend } else { who }
}

fn stranger(dice: &mut Dice) -> Who {
    dice.one_of(&[
        Who::Of(Place::Subject),
        Who::Of(Place::Accomplice),
        Who::Of(Place::Backend),
        Who::Of(Place::Routed),
        Who::Of(Place::Node),
        Who::Uplink,
        Who::Remote,
        Who::Frontend,
        Who::Block,
        Who::Unspecified,
        Who::LinkLocal,
    ])
}

/// Mostly where it belongs: to the pod itself on the same bridge, else to the node.
fn to_mac(dice: &mut Dice, from: Place, destination: Who) -> Mac {
    let node = if from.is_bridged() { Mac::Bridge } else { Mac::NodeEnd(from) };
    if dice.percent(70) {
        return match destination {
            Who::Of(place) if place.is_bridged() && from.is_bridged() && dice.percent(60) => Mac::Of(place),
            Who::AllNodes | Who::Group(_) => Mac::AllNodes,
            _ => node,
        };
    }
    match dice.below(10) {
        0..=4 => Mac::Of(dice.one_of(&PODS)),
        5 => Mac::NodeEnd(dice.one_of(&PODS)),
        6 => Mac::Broadcast,
        7 => Mac::AllNodes,
        8 => Mac::Nobody,
        _ => node,
    }
}

fn load(dice: &mut Dice, shape: &mut Shape) -> Load {
    let is_frontend = shape.destination == Who::Frontend;
    let to_node_port = shape.destination == Who::Uplink && dice.percent(60);
    // Of their own, so that no two flows become one by translation.
    let own = u16::try_from(dice.below(4)).unwrap();
    let from = Port::Own(if is_frontend {
        8 + own
    } else if to_node_port {
        16 + own
    } else {
        own
    });
    let to = Port::Number(if is_frontend && dice.percent(92) {
        SERVICE_PORT
    } else if to_node_port {
        NODE_PORT
    } else {
        dice.one_of(&[BACKEND_PORT, BACKEND_PORT, 80, 53, 8472, 4000])
    });
    match dice.below(100) {
        0..=54 => Load::Udp { from, to },
        55..=72 => {
            Load::Tcp { from, to, flags: dice.one_of(&[SYN, SYN, SYN, SYN | ACK, ACK, 0, 4, 1 | ACK]) }
        }
        73..=78 => Load::Echo { request: dice.percent(80), identifier: from },
        79..=82 => Load::Portless(dice.one_of(&[47, 50, 99, 255, 4, 41, 2])),
        83..=87 => tunnel(dice, shape),
        _ => link(dice, shape),
    }
}

/// From the pod to its node, as a rule, with a packet of somebody's to somebody in it.
fn tunnel(dice: &mut Dice, shape: &mut Shape) -> Load {
    shape.destination =
        dice.one_of(&[Who::Of(Place::Node), Who::Uplink, Who::Of(Place::Node), Who::Of(Place::Backend)]);
    shape.to_mac = to_mac(dice, shape.from, shape.destination);
    let mut inner = Shape { to_mac: Mac::Tunnel, vlan: None, v6: dice.percent(40), ..shape.clone() };
    inner.source =
        dice.one_of(&[Who::Stranger, Who::Of(shape.from), Who::Of(Place::Accomplice), Who::Remote]);
    inner.destination = destination(dice, shape.from);
    inner.load =
        Load::Udp { from: Port::Own(24), to: Port::Number(dice.one_of(&[80, VXLAN_PORT, BACKEND_PORT])) };
    Load::Tunnel(Box::new(inner))
}

fn link(dice: &mut Dice, shape: &mut Shape) -> Load {
    let somebody = |dice: &mut Dice| match dice.below(8) {
        0 => stranger(dice),
        1 => Who::LinkLocal,
        _ => Who::Of(dice.one_of(&PODS)),
    };
    let is_flooded = dice.percent(70);
    if dice.percent(40) {
        shape.to_mac = if is_flooded { Mac::Broadcast } else { to_mac(dice, shape.from, shape.destination) };
        let sender = if dice.percent(75) { Who::Of(shape.from) } else { stranger(dice) };
        let length = dice.one_of(&[42, 60, 60, 61, 64, 200, 1400]);
        let operation = dice.one_of(&[1, 1, 2, 2, 3, 8, 9]);
        return Load::Arp { operation, sender, target: somebody(dice), length };
    }
    shape.v6 = true;
    let target = somebody(dice);
    if dice.percent(25) {
        shape.source = dice.one_of(&[Who::LinkLocal, Who::LinkLocal, Who::Unspecified, Who::Of(shape.from)]);
        shape.to_mac = Mac::AllNodes;
        shape.destination = dice.one_of(&[Who::AllNodes, Who::Group(shape.from), Who::Block]);
        let kind = dice.one_of(&[130, 131, 131, 132, 143, 143]);
        let more = dice.one_of(&[0, 0, 0, 4, 8, 400]);
        return Load::Listener { kind, hops: dice.one_of(&[1, 1, 1, 2, 64, 255]), more };
    }
    let kind = dice.one_of(&[133, 134, 135, 135, 135, 136, 136, 137]);
    shape.source = dice.one_of(&[
        Who::Of(shape.from),
        Who::Of(shape.from),
        Who::LinkLocal,
        Who::Unspecified,
        Who::Block,
    ]);
    shape.destination = match dice.below(6) {
        0..=2 => match target {
            Who::Of(place) if kind == 135 => Who::Group(place),
            _ => Who::AllNodes,
        },
        3 => target,
        4 => dice.one_of(&[Who::Block, Who::Stranger, Who::Remote, Who::Uplink]),
        _ => Who::Of(dice.one_of(&PODS)),
    };
    shape.to_mac = if is_flooded { Mac::AllNodes } else { to_mac(dice, shape.from, shape.destination) };
    let hops = dice.one_of(&[255, 255, 255, 255, 254, 64]);
    Load::Neighbour { kind, hops, target, more: dice.one_of(&[0, 0, 8, 8, 16, 17, 24, 1200]) }
}

//! Sequences, one after the other, and what becomes of what is found.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::generator::{self, OWN_PORTS, Step};
use super::model::{Breach, Model};
use super::node::{Node, Setting, flush_conntrack};
use super::read::{self, Content, Frame};
use super::shape::{self, Load, Shape};
use super::world::{Mac, Options, Place, Who, World};
use crate::fuzz::sequence::hex;

/// The first port that is some sequence's own, and after how many sequences they come again.
const FIRST_PORT: u16 = 33_000;
const SEQUENCES: u64 = 1000;
/// How long something may be on its way.
const PATIENCE: Duration = Duration::from_millis(500);
/// Different findings after which a run is over.
pub(super) const ENOUGH: usize = 16;
/// Most attempts to make a finding small.
const ATTEMPTS: usize = 120;

/// How a frame may be made simpler.
const SIMPLER: [fn(&mut Shape); 3] =
    [|shape| shape.tag = 0, |shape| shape.vlan = None, |shape| shape.from_mac = Mac::Of(shape.from)];

/// What tells a finding from others: the rule, where from and where to.
type Key = (Breach, Place, Place);

/// What is found.
pub(super) type Findings = BTreeMap<Key, String>;

pub(super) struct Run {
    world: World,
    node: Node,
    options: Options,
    seed: u64,
    /// Frames so far, each of which has a number of its own.
    frames: u32,
    /// Sequences played so far.
    played: u64,
    /// The frame that was found last, as it arrived.
    arrived: String,
    pub(super) seen: Seen,
}

/// What a run has seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) frames: u32,
    pub(super) took: Duration,
    /// Arrivals, by where from and where to.
    pub(super) arrived: BTreeMap<(Place, Place), u64>,
    /// Frames that had to arrive.
    pub(super) musts: u64,
    /// Of these, those that were lost once, and not when all was done again.
    pub(super) unrepeated: u64,
}

/// A frame that is where it must not be, or is not where it must be.
#[derive(Clone, Copy, Debug)]
struct Found {
    breach: Breach,
    place: Place,
    from: Place,
    step: usize,
}

impl Found {
    fn key(&self) -> Key {
        (self.breach, self.from, self.place)
    }
}

/// A frame that was sent.
struct Flight {
    shape: Shape,
    bytes: Vec<u8>,
    /// How much had changed before.
    changes: u64,
    step: usize,
    arrived: Vec<Place>,
}

/// One sequence that is being played.
struct Play<'a> {
    model: Model,
    base: u16,
    flights: HashMap<u32, Flight>,
    /// What arrived, the last one last, and what was sent.
    got: Vec<Shape>,
    sent: Vec<Shape>,
    found: Option<Found>,
    /// The last frame that arrived where it may not.
    arrived: String,
    /// What was done, in steps that do not refer to others.
    done: Vec<Step>,
    /// What is worth stopping for.
    looks_for: LooksFor<'a>,
}

#[derive(Clone, Copy)]
enum LooksFor<'a> {
    /// What is not known yet.
    News(&'a Findings),
    /// This, once more.
    This(Key),
}

impl LooksFor<'_> {
    fn matches(&self, key: Key) -> bool {
        match self {
            Self::News(known) => !known.contains_key(&key),
            Self::This(this) => *this == key,
        }
    }
}

impl Run {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let world = World::enter(options);
        let node = Node::start(&world, options);
        Self {
            world,
            node,
            options,
            seed,
            frames: 0,
            played: 0,
            arrived: String::new(),
            seen: Seen::default(),
        }
    }

    /// Whether the ports of sequences are used up.
    fn is_used_up(&self) -> bool {
        self.played >= SEQUENCES
    }

    /// Plays sequences of these numbers, for so long. Returns the next number.
    pub(super) fn go(&mut self, numbers: Range<u64>, time: Duration, known: &mut Findings) -> u64 {
        let begun = Instant::now();
        let mut number = numbers.start;
        while number < numbers.end && begun.elapsed() < time && !self.is_used_up() && known.len() < ENOUGH {
            let steps = generator::sequence(self.seed, number);
            if let Some((found, steps)) = self.play(&steps, LooksFor::News(known)) {
                let (report, repeats) = self.examine(number, steps, found);
                println!("{report}");
                if found.breach == Breach::Lost && !repeats {
                    // A machine that is too busy is late, too.
                    self.seen.unrepeated += 1;
                } else {
                    known.insert(found.key(), report);
                }
            }
            number += 1;
        }
        (self.seen.took, self.seen.frames) = (begun.elapsed(), self.frames);
        number
    }

    /// Plays a sequence, up to what is looked for. Returns what was done up to there, in steps that do not refer to others.
    fn play(&mut self, steps: &[Step], looks_for: LooksFor<'_>) -> Option<(Found, Vec<Step>)> {
        let base = FIRST_PORT + OWN_PORTS * u16::try_from(self.played % SEQUENCES).unwrap();
        self.played += 1;
        self.node.set(Setting::default(), false);
        flush_conntrack();
        let model = Model::new(Setting::default(), self.world.tunnel, self.options.keep);
        let mut play = Play {
            model,
            base,
            flights: HashMap::new(),
            got: Vec::new(),
            sent: Vec::new(),
            found: None,
            arrived: String::new(),
            done: Vec::new(),
            looks_for,
        };
        for step in steps {
            self.step(&mut play, step);
            if play.found.is_some() {
                break;
            }
        }
        self.look(&mut play);
        let found = play.found?;
        self.arrived = play.arrived;
        play.done.truncate(found.step + 1);
        Some((found, play.done))
    }

    fn step(&mut self, play: &mut Play<'_>, step: &Step) {
        match step {
            Step::Send(shape) => self.send(play, shape.clone()),
            Step::Answer { back, routed } => {
                let Some(at) = play.got.len().checked_sub(1 + back) else { return };
                if let Some(answer) = answer(&play.got[at], *routed) {
                    self.send(play, answer);
                }
            }
            Step::Again { back } => {
                let Some(at) = play.sent.len().checked_sub(1 + back) else { return };
                self.send(play, play.sent[at].clone());
            }
            Step::Set { setting, rules_first, forget } => {
                play.done.push(step.clone());
                self.settle(play);
                self.node.set(*setting, *rules_first);
                play.model.set(*setting);
                if *forget {
                    flush_conntrack();
                    play.model.forget();
                }
            }
            Step::Rules { service, forget } => {
                play.done.push(step.clone());
                self.settle(play);
                self.node.lead(*service);
                play.model.lead(*service);
                if *forget {
                    flush_conntrack();
                    play.model.forget();
                }
            }
            Step::Forget => {
                play.done.push(Step::Forget);
                self.settle(play);
                flush_conntrack();
                play.model.forget();
            }
        }
    }

    /// Waits until nothing is on its way.
    fn settle(&mut self, play: &mut Play<'_>) {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_micros(300));
            self.look(play);
        }
    }

    fn send(&mut self, play: &mut Play<'_>, shape: Shape) {
        let step = play.done.len();
        play.done.push(Step::Send(shape.clone()));
        self.frames += 1;
        let number = self.frames;
        let bytes = shape.frame(number, play.base);
        let Some(frame) = read::frame(&bytes) else { return };
        let destination = match &frame.content {
            Content::Ip(packet) => Some(packet.destination),
            _ => None,
        };
        let mut musts = play.model.must_arrive(&shape, &frame);
        if musts.is_empty() {
            musts.extend(play.model.must_answer(&shape, &frame));
        }
        play.model.sends(&shape, &frame);
        let from = shape.from;
        let changes = play.model.changes();
        play.sent.push(shape.clone());
        let is_sent = self.world.taps.send(from, shape.tag, &bytes, destination);
        play.flights.insert(number, Flight { shape, bytes, changes, step, arrived: Vec::new() });
        if from != Place::Node || is_sent {
            self.seen.musts += u64::from(!musts.is_empty());
        } else {
            musts.clear();
        }
        self.look(play);
        let deadline = Instant::now() + PATIENCE;
        for place in musts {
            while !play.flights[&number].arrived.contains(&place) {
                if Instant::now() > deadline {
                    play.finds(Found { breach: Breach::Lost, place, from, step });
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
                self.look(play);
            }
        }
    }

    /// Sees what has arrived.
    fn look(&mut self, play: &mut Play<'_>) {
        let (last, seen) = (self.frames, &mut self.seen);
        self.world.taps.arrived(|place, bytes| {
            let Some(number) = shape::number(bytes, last) else { return };
            let Some(flight) = play.flights.get_mut(&number) else { return };
            flight.arrived.push(place);
            let (from, step) = (flight.shape.from, flight.step);
            *seen.arrived.entry((flight.shape.from, place)).or_default() += 1;
            if flight.changes != play.model.changes() {
                // It was on its way while things changed.
                return;
            }
            let sent = read::frame(&flight.bytes).unwrap();
            let got = match place {
                Place::Node => local(bytes, &sent),
                _ => read::frame(bytes),
            };
            let Some(got) = got else { return };
            match play.model.arrives(&flight.shape, &sent, place, &got) {
                Ok(()) => {
                    let mut shape = flight.shape.clone();
                    shape.destination = arrived_at(&got).unwrap_or(shape.destination);
                    if let (Load::Udp { to, .. } | Load::Tcp { to, .. }, Content::Ip(packet)) =
                        (&mut shape.load, &got.content)
                    {
                        *to = shape::Port::Number(packet.ports().1);
                        if packet.ports().1 >= play.base && packet.ports().1 < play.base + OWN_PORTS {
                            *to = shape::Port::Own(packet.ports().1 - play.base);
                        }
                    }
                    if shape.destination == Who::Of(place) || place == Place::Outside {
                        play.got.push(shape);
                    }
                }
                Err(breach) => {
                    play.arrived = hex(bytes);
                    let found = Found { breach, place, from, step };
                    play.finds(found);
                }
            }
        });
    }

    /// Makes a finding small, and says what it is.
    /// Returns whether it happens again, too.
    fn examine(&mut self, number: u64, mut steps: Vec<Step>, found: Found) -> (String, bool) {
        let mut attempts = 0;
        let mut length = steps.len() / 2;
        let again = |run: &mut Self, steps: &[Step]| {
            run.play(steps, LooksFor::This(found.key())).map(|(_, done)| done)
        };
        let repeats = again(self, &steps).is_some();
        while repeats && length > 0 {
            let mut from = 0;
            while from < steps.len() && attempts < ATTEMPTS {
                let mut candidate = steps.clone();
                candidate.drain(from..(from + length).min(candidate.len()));
                attempts += 1;
                if let Some(done) = again(self, &candidate) {
                    steps = done;
                } else {
                    from += length;
                }
            }
            length /= 2;
        }
        let how = if repeats { "" } else { ", which did not happen again" };
        for at in 0..steps.len() {
            for simplify in SIMPLER {
                let mut candidate = steps.clone();
                let Step::Send(shape) = &mut candidate[at] else { break };
                simplify(shape);
                if repeats && candidate != steps && again(self, &candidate).is_some() {
                    steps = candidate;
                }
            }
        }
        let mut text = format!(
            "{:?}: from {:?} to {:?}{how}\n  POSTERN_FUZZ_SEED={} POSTERN_FUZZ_SEQUENCE={number}, {:?}\n",
            found.breach, found.from, found.place, self.seed, self.options
        );
        for step in &steps {
            writeln!(text, "  {step:?}").unwrap();
            if let Step::Send(shape) = step {
                writeln!(text, "    {}", hex(&shape.frame(1, FIRST_PORT))).unwrap();
            }
        }
        if found.breach != Breach::Lost {
            writeln!(text, "  arrived as\n    {}", self.arrived).unwrap();
        }
        (text, repeats)
    }
}

impl Play<'_> {
    fn finds(&mut self, found: Found) {
        if self.found.is_none() && self.looks_for.matches(found.key()) {
            self.found = Some(found);
        }
    }
}

/// What a raw socket got, as the frame that it came in: of IPv6 without header.
fn local<'a>(bytes: &'a [u8], sent: &Frame<'a>) -> Option<Frame<'a>> {
    let Content::Ip(before) = &sent.content else { return None };
    let packet = if before.source.is_ipv4() {
        read::v4(bytes)?
    } else {
        read::Packet { body: bytes, ..before.clone() }
    };
    Some(Frame { content: Content::Ip(packet), ..sent.clone() })
}

/// Whose address a packet arrived at.
fn arrived_at(got: &Frame<'_>) -> Option<Who> {
    let Content::Ip(packet) = &got.content else { return None };
    let v6 = packet.destination.is_ipv6();
    super::world::PODS
        .map(Who::Of)
        .into_iter()
        .chain([Who::Remote, Who::Frontend, Who::Block, Who::Uplink, Who::Of(Place::Node)])
        .find(|who| who.address(v6) == packet.destination)
}

/// What somebody sends back who got this.
fn answer(got: &Shape, routed: bool) -> Option<Shape> {
    let from = match got.destination {
        Who::Of(place) => place,
        Who::Remote | Who::Block | Who::Frontend | Who::Stranger => Place::Outside,
        Who::Uplink => Place::Node,
        _ => return None,
    };
    let load = match &got.load {
        Load::Udp { from, to } => Load::Udp { from: *to, to: *from },
        Load::Tcp { from, to, flags } => {
            let flags = if *flags == shape::SYN { shape::SYN | shape::ACK } else { shape::ACK };
            Load::Tcp { from: *to, to: *from, flags }
        }
        Load::Echo { identifier, .. } => Load::Echo { request: false, identifier: *identifier },
        _ => return None,
    };
    let node = if from.is_bridged() { Mac::Bridge } else { Mac::NodeEnd(from) };
    let to_mac = match got.source {
        Who::Of(place) if !routed && place.is_bridged() && from.is_bridged() => Mac::Of(place),
        _ => node,
    };
    Some(Shape {
        from,
        tag: 0,
        to_mac,
        from_mac: Mac::Of(from),
        vlan: None,
        v6: got.v6,
        source: got.destination,
        destination: got.source,
        load,
    })
}

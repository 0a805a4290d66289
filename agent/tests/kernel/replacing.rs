//! No half-applied policy, in the kernel: one thread replaces policies, action by action, another one shows frames to
//! the programs without pause. What every state allows is never dropped, what every state denies never passes.

mod paths;
pub(crate) mod states;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use postern::datapath::maps::Maps;
use postern::datapath::tables::Writer;
use postern_common::endpoint::Endpoint;
use postern_policy::model::{NamespacedName, Object, ObjectRef};
use postern_policy::{Action, Engine, Plan, Scope, Subject};

use self::paths::Path;
use self::states::{Dice, WORKERS};
use crate::frames::NODE_MAC;
use crate::programs::{Counted, Programs};
use crate::rig::IFINDEX;
use crate::traffic::Place;

/// How often policy is replaced.
const PLANS: usize = 200;
/// How often in a row the programs are shown a frame: the kernel repeats it much faster than this process could ask.
const REPEAT: u32 = 400;

/// The source port of connections that last through all plans.
const LASTING: u16 = 9_999;

/// What the two threads tell each other.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    /// Frames shown: one that is being shown is not counted yet.
    shown: AtomicUsize,
    /// The plan being carried out, and how many of its actions have been begun.
    plan: AtomicUsize,
    action: AtomicUsize,
    /// What went wrong, and in which plan.
    failure: Mutex<Option<(usize, String)>>,
}

impl Watch {
    /// Waits until that many frames were shown.
    fn wait(&self, frames: usize) {
        let until = self.shown.load(SeqCst) + frames;
        while self.shown.load(SeqCst) < until && !self.stop.load(SeqCst) {
            thread::yield_now();
        }
    }

    fn now(&self) -> (usize, usize) {
        (self.plan.load(SeqCst), self.action.load(SeqCst))
    }
}

/// Lets the other thread end when this one does, by a failure too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn no_policy_is_ever_half_applied() {
    let (programs, maps) = Programs::load();
    let watch = Watch::default();
    let mut agent = Agent::new(maps);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let first = agent.plan(&mut dice);
    agent.execute(&first, |_| {});
    let mut plans = vec![first];
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = Stop(&watch.stop);
            let counted = programs.counted();
            if let Err(failure) = (Prober { programs: &programs, watch: &watch, counted }).probe() {
                *watch.failure.lock().unwrap() = Some((watch.now().0, failure));
            }
        });
        let _stop = Stop(&watch.stop);
        for number in 1..=PLANS {
            let plan = agent.plan(&mut dice);
            watch.action.store(0, SeqCst);
            watch.plan.store(number, SeqCst);
            let (mut unsettled, mut collecting) = (false, false);
            agent.execute(&plan, |action| {
                // A packet reads its pod's classes, then its peer's, then the verdict. One that read old classes just
                // before a flip must be through before peers move on to classes, and before verdicts go, that its
                // classes are not made for: whoever executes plans waits for a grace period there (membarrier(2)).
                // Here, no packet is on its way any more once one more frame was shown.
                unsettled |= matches!(action, Action::SetSubject { .. } | Action::RemoveSubject { .. });
                let needs_grace = match action {
                    Action::SetPeer { .. } | Action::RemovePeer { .. } => unsettled,
                    Action::RemoveVerdict { .. } => !collecting,
                    _ => false,
                };
                if needs_grace {
                    watch.wait(1);
                    unsettled = false;
                }
                collecting = matches!(action, Action::RemoveVerdict { .. });
                watch.action.fetch_add(1, SeqCst);
                // Mostly in a burst, so that actions overtake packets; now and then packets see what an action leaves
                // behind for a while. Not more often: with all cores busy, each wait takes some time slices.
                watch.wait(match dice.below(128) {
                    0 => 60,
                    1..=3 => 8,
                    _ => 0,
                });
            });
            plans.push(plan);
            if watch.stop.load(SeqCst) {
                break;
            }
        }
        watch.wait(paths::all().len());
    });
    let failure = watch.failure.into_inner().unwrap();
    if let Some((number, failure)) = failure {
        let mut steps = String::new();
        for (index, action) in plans[number].steps.iter().enumerate() {
            writeln!(steps, "{:4} {action:?}", index + 1).unwrap();
        }
        panic!("{failure}\nplan {number}:\n{steps}");
    }
    assert!(watch.shown.into_inner() > 10 * PLANS, "hardly a frame was shown");
}

/// An agent that is told of one state after the other.
struct Agent {
    maps: Maps,
    writer: Writer,
    engine: Engine,
    objects: BTreeMap<ObjectRef, Object>,
}

impl Agent {
    fn new(mut maps: Maps) -> Self {
        let (writer, first_class) = Writer::begin(&mut maps).unwrap();
        let engine = Engine::new(Scope::Node("node-a".into()), first_class);
        Self { maps, writer, engine, objects: BTreeMap::new() }
    }

    /// Takes notice of another state, all at once.
    fn plan(&mut self, dice: &mut Dice) -> Plan {
        let next = states::state(dice);
        for reference in self.objects.keys().filter(|reference| !next.contains_key(reference)) {
            self.engine.delete(reference);
        }
        for object in next.values() {
            self.engine.apply(object.clone());
        }
        self.objects = next;
        let tables = self.engine.tables();
        for path in paths::all() {
            assert!(path.holds(&tables), "this test is wrong about {path:?}\n{}", self.engine.dump());
        }
        self.engine.plan()
    }

    fn execute(&mut self, plan: &Plan, mut before: impl FnMut(&Action)) {
        for action in &plan.steps {
            before(action);
            match action {
                Action::SetSubject { pod, subject } => self.set_endpoint(pod, subject),
                Action::RemoveSubject { pod } => self.set_endpoint(pod, &Subject::default()),
                other => self.writer.execute(&mut self.maps, other).unwrap(),
            }
        }
    }

    fn set_endpoint(&mut self, pod: &NamespacedName, subject: &Subject) {
        let endpoint = Endpoint {
            ingress_class: subject.ingress.0,
            egress_class: subject.egress.0,
            epoch: self.writer.epoch(),
            master_mac: NODE_MAC,
            ..Endpoint::default()
        };
        let worker = WORKERS.iter().zip(1000..).find(|((name, ..), _)| *name == &*pod.name);
        let ifindex = worker.map_or(IFINDEX, |(_, ifindex)| ifindex);
        self.maps.set_endpoint(ifindex, endpoint).unwrap();
    }
}

/// The thread that shows frames. Nobody else runs these programs, so that all they count is its own.
struct Prober<'a> {
    programs: &'a Programs,
    watch: &'a Watch,
    counted: Counted,
}

impl Prober<'_> {
    /// Shows frames until told to stop, or until one is answered wrong.
    fn probe(&mut self) -> Result<(), String> {
        let paths = paths::all();
        for path in paths.iter().filter(|path| path.allowed) {
            self.show(path, Place::First, false, LASTING, 1)?;
        }
        let mut source_ports = (10_000..60_000).cycle();
        while !self.watch.stop.load(SeqCst) {
            for path in &paths {
                let fresh = source_ports.next().unwrap();
                if path.allowed && path.port.is_some() {
                    // The first packet opens a flow that answers for the others.
                    self.show(path, Place::First, false, fresh, 1)?;
                    self.show(path, Place::Later, true, fresh, 1)?;
                    self.show(path, Place::Later, false, LASTING, REPEAT)?;
                    self.show(path, Place::Later, true, LASTING, REPEAT)?;
                } else {
                    self.show(path, Place::First, false, fresh, REPEAT)?;
                }
            }
        }
        Ok(())
    }

    /// Shows a frame of a path, or its reply, and looks at how it was counted each time.
    fn show(
        &mut self,
        path: &Path,
        place: Place,
        reply: bool,
        source_port: u16,
        repeat: u32,
    ) -> Result<(), String> {
        let (direction, frame) = path.frame(place, reply, source_port);
        let begun = self.watch.now();
        let passed = self.programs.run(direction, &frame, repeat);
        self.watch.shown.fetch_add(1, SeqCst);
        let ended = self.watch.now();
        let now = self.programs.counted();
        let counted = now.since(&self.counted, direction);
        self.counted = now;
        if passed == path.allowed && counted.iter().all(|(reason, _)| reason.drops() != path.allowed) {
            return Ok(());
        }
        let reply = if reply { " of a reply" } else { "" };
        Err(format!(
            "{path:?}, {place:?} packet{reply}, source port {source_port}: counted {counted:?}\n(plan, actions begun) was \
             {begun:?} before and {ended:?} after"
        ))
    }
}

//! Flows and Services in any order: what comes of them is what the final objects say (docs/packet-path.md, "Services").

use std::net::{Ipv4Addr, UdpSocket};

use postern::datapath::object::{Established, Settings};

use crate::wire::{BAD, FRONTEND, GOOD, PLAIN, Style, Wire, on_wire};

const SERVICE: (Ipv4Addr, u16) = (PLAIN, FRONTEND);

/// To the Service's address itself; to backends by their labels.
const TO_PLAIN: &str = "{to: [{ipBlock: {cidr: 10.9.4.0/24}}]}";
const TO_GOOD: &str = "{to: [{podSelector: {matchLabels: {role: good}}}]}";
const TO_BAD: &str = "{to: [{podSelector: {matchLabels: {role: bad}}}]}";

/// Whom policy lets the client reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Nothing,
    Only { plain: bool, good: bool, bad: bool },
}

impl Policy {
    fn allows(self, target: Ipv4Addr) -> bool {
        match self {
            Self::Nothing => true,
            Self::Only { plain, good, bad } => {
                [(PLAIN, plain), (GOOD, good), (BAD, bad)].contains(&(target, true))
            }
        }
    }

    fn apply(self, wire: &mut Wire) {
        let Self::Only { plain, good, bad } = self else { return wire.policy(None) };
        let rules = [(plain, TO_PLAIN), (good, TO_GOOD), (bad, TO_BAD)];
        let rules: Vec<&str> = rules.iter().filter(|(is_in, _)| *is_in).map(|(_, rule)| *rule).collect();
        wire.policy(Some(&format!("[{}]", rules.join(", "))));
    }

    fn any(dice: &mut fastrand::Rng) -> Self {
        if dice.u8(..8) == 0 {
            return Self::Nothing;
        }
        Self::Only { plain: dice.bool(), good: dice.bool(), bad: dice.bool() }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Ask,
    /// The node's own doing: kube-proxy may be before the agent or behind it.
    Translate(Option<Ipv4Addr>),
    Service(Option<Ipv4Addr>),
    Policy(Policy),
    /// Conntrack's entry ends.
    Forget,
}

/// What is known of one flow, beside what the data path knows.
struct World {
    policy: Policy,
    translated: Option<Ipv4Addr>,
    service: Option<Ipv4Addr>,
    /// Where conntrack sends it, while it knows.
    entry: Option<Ipv4Addr>,
    /// Where it was let through so far.
    reached: Vec<Ipv4Addr>,
}

impl World {
    /// Where the next packet goes, if it passes.
    fn target(&self) -> Ipv4Addr {
        self.entry.or(self.translated).unwrap_or(PLAIN)
    }

    fn ask(&mut self, wire: &mut Wire, client: &UdpSocket) -> (Option<Ipv4Addr>, bool) {
        let target = self.target();
        let (got, answered) = wire.ask(client, SERVICE);
        if let Some(got) = got {
            assert_eq!(got, target, "the test knows where the node sends what passes");
            self.entry = Some(got);
            self.reached.push(got);
        }
        (got, answered)
    }

    fn happen(&mut self, wire: &mut Wire, client: &UdpSocket, event: Event) {
        match event {
            Event::Ask => {
                self.ask(wire, client);
            }
            Event::Translate(backend) => {
                wire.translate(backend);
                self.translated = backend;
            }
            Event::Service(backend) => {
                wire.service(backend);
                self.service = backend;
            }
            Event::Policy(policy) => {
                policy.apply(wire);
                self.policy = policy;
            }
            Event::Forget => {
                wire.forget();
                self.entry = None;
            }
        }
    }
}

fn backend(dice: &mut fastrand::Rng) -> Option<Ipv4Addr> {
    [None, Some(GOOD), Some(BAD)][dice.usize(..3)]
}

fn events(dice: &mut fastrand::Rng) -> Vec<Event> {
    let any = |dice: &mut fastrand::Rng| match dice.u8(..10) {
        0..5 => Event::Ask,
        5 => Event::Translate(backend(dice)),
        6 => Event::Service(backend(dice)),
        7 | 8 => Event::Policy(Policy::any(dice)),
        _ => Event::Forget,
    };
    let mut events: Vec<Event> = (0..dice.usize(4..16)).map(|_| any(dice)).collect();
    // In the end, the node and the agent know of the same Service.
    let last = backend(dice);
    let mut both = [Event::Translate(last), Event::Service(last)];
    dice.shuffle(&mut both);
    events.extend(both);
    if dice.bool() {
        events.push(Event::Forget);
    }
    events
}

/// Plays events, and checks what the flow, which is older than the last of them, comes to.
fn play(wire: &mut Wire, port: u16, events: &[Event], keeps: bool) -> Result<(), String> {
    let client = wire.client(port);
    // Of the flow before, nothing is left.
    wire.service(None);
    wire.translate(None);
    wire.forget();
    let policy = Policy::Only { plain: true, good: false, bad: false };
    policy.apply(wire);
    let mut world = World { policy, translated: None, service: None, entry: None, reached: Vec::new() };
    for event in events {
        world.happen(wire, &client, *event);
    }
    for number in 0..3 {
        let target = world.target();
        let allowed = world.policy.allows(target);
        let kept = keeps && world.reached.contains(&target);
        let before = world.reached.clone();
        let (got, answered) = world.ask(wire, &client);
        let when =
            format!("datagram {number} to {target}, of {before:?} reached before, under {:?}", world.policy);
        if !allowed && !kept && got.is_some() {
            return Err(format!("{when}: it passed"));
        }
        // Where there is no Service (any more), what the pod sends is judged by the address that it sends to.
        let is_sure = world.service.is_some() || target == PLAIN || world.policy == Policy::Nothing;
        if allowed && is_sure && !(got.is_some() && answered) {
            let counted = wire.counted();
            return Err(format!("{when}: got by {got:?}, answered: {answered}; {counted}"));
        }
    }
    Ok(())
}

fn settings(established: Established) -> Settings {
    Settings { established, ..Settings::default() }
}

/// How many orders are tried of each kind.
fn cases() -> u64 {
    std::env::var("POSTERN_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20)
}

#[test]
fn any_order_of_flow_and_service_comes_to_the_verdict_of_the_final_objects() {
    for (style, established) in [
        (Style::Ptp, Established::Recheck),
        (Style::Bridge, Established::Recheck),
        (Style::Ptp, Established::Keep),
    ] {
        on_wire("any-order", style, settings(established), |wire| {
            for seed in 0..cases() {
                let mut dice = fastrand::Rng::with_seed(seed);
                let events = events(&mut dice);
                let port = 10_000 + u16::try_from(seed).unwrap();
                let played = play(wire, port, &events, established == Established::Keep);
                if let Err(what) = played {
                    panic!("{style:?}, {established:?}, seed {seed}: {what}\n{events:#?}");
                }
            }
        });
    }
}

/// The flow that the issue tells of: it talks on while its address becomes a Service's, conntrack forgets it, and it goes on to a backend
/// that policy denies.
#[test]
fn a_flow_older_than_its_service_is_judged_by_its_backend() {
    for (style, established) in [(Style::Ptp, Established::Recheck), (Style::Bridge, Established::Keep)] {
        on_wire("older", style, settings(established), |wire| {
            for (port, backend) in [(4000, GOOD), (4001, BAD)] {
                wire.policy(Some(&format!("[{TO_PLAIN}, {TO_GOOD}]")));
                let client = wire.client(port);
                for _ in 0..3 {
                    assert_eq!(wire.ask(&client, SERVICE), (Some(PLAIN), true));
                }
                wire.service(Some(backend));
                wire.translate(Some(backend));
                // As long as conntrack knows it, it goes where it went, which policy allows.
                assert_eq!(wire.ask(&client, SERVICE), (Some(PLAIN), true), "{style:?}, {established:?}");
                wire.forget();
                let expected = if backend == GOOD { (Some(GOOD), true) } else { (None, false) };
                for _ in 0..3 {
                    assert_eq!(wire.ask(&client, SERVICE), expected, "{style:?}, {established:?}, {backend}");
                }
                wire.service(None);
                wire.translate(None);
                wire.forget();
            }
        });
    }
}

/// Answers go on while the pod says nothing: they come from where its packets went so far.
#[test]
fn answers_go_on_where_an_address_becomes_a_services() {
    on_wire("answers", Style::Ptp, settings(Established::Recheck), |wire| {
        wire.policy(Some(&format!("[{TO_PLAIN}, {TO_GOOD}]")));
        let client = wire.client(4000);
        for _ in 0..3 {
            assert_eq!(wire.ask(&client, SERVICE), (Some(PLAIN), true));
        }
        wire.service(Some(GOOD));
        wire.translate(Some(GOOD));
        for _ in 0..3 {
            assert!(wire.answer(PLAIN, &client), "unasked");
        }
        // Once the pod spoke, it is known where its packets go.
        assert_eq!(wire.ask(&client, SERVICE), (Some(PLAIN), true));
        assert!(wire.answer(PLAIN, &client));
        // Where they go elsewhere and may not, what comes from there may not either.
        wire.policy(Some(&format!("[{TO_GOOD}]")));
        assert!(!wire.answer(PLAIN, &client));
        assert_eq!(wire.ask(&client, SERVICE), (None, false));
        assert!(!wire.answer(PLAIN, &client));
    });
}

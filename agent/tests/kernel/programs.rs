//! Programs loaded once: run by any thread, whatever another one writes into the maps.

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult};
use postern::datapath::half_open;
use postern::datapath::maps::Maps;
use postern::datapath::object::{self, PROGRAMS, Settings, TICKS};
use postern_common::direction::{EGRESS, INGRESS};
use postern_common::reason::Reason;
use postern_policy::model::Direction;

use crate::rig::{IFINDEX, NEXT, SHOT};

/// The loaded programs.
pub(crate) struct Programs {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
}

/// How many packets were counted under each of [`Reason::ALL`], by direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted([Vec<u64>; 2]);

impl Programs {
    /// Loads them. Whoever gets the maps is the one who writes them.
    pub(crate) fn load() -> (Self, Maps) {
        let mut ebpf = object::load(None, Settings::default()).expect("programs load; these tests need root");
        let Some(Map::PerCpuArray(counters)) = ebpf.map("COUNTERS") else { panic!("no map COUNTERS") };
        // A handle of its own, beside the one that the maps take along.
        let counters = MapData::from_id(counters.info().unwrap().id()).unwrap();
        let counters = Map::from_map_data(counters).unwrap().try_into().unwrap();
        let mut maps = Maps::take(&mut ebpf).unwrap();
        half_open::make_room(&mut maps, IFINDEX).unwrap();
        (Self { ebpf, counters }, maps)
    }

    /// The loaded object.
    pub(crate) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Nanoseconds by the kernel's ticks, which flows expire by.
    pub(crate) fn ticks(&mut self) -> u64 {
        object::ticks(object::program(&mut self.ebpf, TICKS).unwrap()).unwrap()
    }

    /// Shows the program of a direction a frame so many times in a row; whether it passed the last time.
    pub(crate) fn run(&self, direction: Direction, frame: &[u8], repeat: u32) -> bool {
        let program = self.ebpf.program(PROGRAMS[usize::from(number(direction))]).unwrap();
        let program: &SchedClassifier = program.try_into().unwrap();
        match run(program, frame, repeat).unwrap().return_value.cast_signed() {
            NEXT => true,
            SHOT => false,
            other => panic!("TC was told {other}"),
        }
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let total = |direction, reason: &Reason| {
            self.counters.get(&reason.counter(direction), 0).unwrap().iter().sum::<u64>()
        };
        let of = |direction| Reason::ALL.iter().map(|reason| total(direction, reason)).collect();
        Counted([of(INGRESS), of(EGRESS)])
    }
}

impl Counted {
    /// Every packet is counted, once.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// What was counted since `earlier`: only reasons that were.
    pub(crate) fn since(&self, earlier: &Self, direction: Direction) -> Vec<(Reason, u64)> {
        let direction = usize::from(number(direction));
        let grown = self.0[direction].iter().zip(&earlier.0[direction]).map(|(now, then)| now - then);
        Reason::ALL.iter().copied().zip(grown).filter(|(_, grown)| *grown != 0).collect()
    }
}

/// Shows a program a frame so many times in a row. The kernel breaks off in between when a signal is waiting, or a debugger, or who freezes
/// processes: then it is done again.
fn run(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<TestRunResult, ProgramError> {
    let options = || TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    loop {
        match program.test_run(options()) {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A direction as the programs number it.
fn number(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => INGRESS,
        Direction::Egress => EGRESS,
    }
}

//! What the programs cost the verifier: it gives up at a million instructions, and every start of an agent waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use postern::datapath::behind_nat;
use postern::datapath::object::{self, ALL_PROGRAMS, Established, Settings};

use crate::features;

/// Where the counts are recorded, a column for each kernel. A change of the programs that moves one by more than a tenth, either way,
/// changes this file with it: `POSTERN_RECORD=1 cargo xtask test verifier_budget` on that kernel. Of others, `cargo xtask kernels --load` tells
/// the numbers.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/verifier-budget.txt");

/// No program may take more, on any kernel.
const LIMIT: u32 = 100_000;

/// What a program is loaded as: its name, `--established`, and whether it logs.
type Variant = (String, String, String);

/// Instructions on one kernel.
type Counts = BTreeMap<Variant, u32>;

/// Instructions by variant and kernel.
#[derive(Debug, Default)]
struct Record {
    counts: BTreeMap<Variant, BTreeMap<String, u32>>,
}

fn counted() -> Counts {
    let mut counts = Counts::new();
    for settings in Settings::ALL {
        let mut ebpf = object::load(None, settings).expect("programs load; these tests need root");
        let established = if settings.established == Established::Keep { "keep" } else { "recheck" };
        let log = if settings.debug { "log" } else { "silent" };
        if features::netfilter() {
            for (name, count) in behind_nat::verify(&ebpf).unwrap() {
                counts.insert((name.to_owned(), established.to_owned(), log.to_owned()), count);
            }
        }
        for name in ALL_PROGRAMS {
            object::load_program(&mut ebpf, name).unwrap();
            let info = object::program(&mut ebpf, name).unwrap().info().unwrap();
            let count = info.verified_instruction_count().expect("kernel 5.16 or later");
            counts.insert((name.to_owned(), established.to_owned(), log.to_owned()), count);
        }
    }
    counts
}

impl Record {
    fn read() -> Self {
        let text = std::fs::read_to_string(RECORD).unwrap();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let kernels: Vec<&str> = lines.next().unwrap().split_whitespace().skip(3).collect();
        let mut record = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, established, log, ref counts @ ..] = words[..] else { panic!("{RECORD}: {line}") };
            assert_eq!(counts.len(), kernels.len(), "{RECORD}: {line}");
            let counts = kernels.iter().zip(counts).filter(|(_, count)| **count != NONE);
            let counts = counts.map(|(kernel, count)| ((*kernel).to_owned(), count.parse().unwrap()));
            record.counts.insert((name.to_owned(), established.to_owned(), log.to_owned()), counts.collect());
        }
        record
    }

    /// The column of a kernel; none where that is not recorded.
    fn of(&self, kernel: &str) -> Option<Counts> {
        let counts: Counts =
            self.counts.iter().filter_map(|(it, counts)| Some((it.clone(), *counts.get(kernel)?))).collect();
        (!counts.is_empty()).then_some(counts)
    }

    /// Takes over what a kernel counts.
    fn set(&mut self, kernel: &str, counts: &Counts) {
        for counts in self.counts.values_mut() {
            counts.remove(kernel);
        }
        for (variant, count) in counts {
            self.counts.entry(variant.clone()).or_default().insert(kernel.to_owned(), *count);
        }
        self.counts.retain(|_, counts| !counts.is_empty());
    }

    fn text(&self) -> String {
        let version = |kernel: &&String| -> (String, Vec<u32>) {
            let (version, architecture) = kernel.split_once('-').unwrap_or((kernel, ""));
            (architecture.to_owned(), version.split('.').map(|it| it.parse().unwrap()).collect())
        };
        let kernels: BTreeSet<&String> = self.counts.values().flat_map(BTreeMap::keys).collect();
        let mut kernels: Vec<&String> = kernels.into_iter().collect();
        kernels.sort_by_key(version);
        let mut text = String::from(
            "# Instructions that the verifier goes through, by program, --established, whether the programs log, and kernel.\n\
             # A test fails when one moves by more than a tenth and this file does not say so.\n",
        );
        let mut line = |first: [&str; 3], counts: Vec<String>| {
            let counts = counts.iter().zip(&kernels);
            let counts = counts.fold(String::new(), |line, (count, kernel)| {
                let width = kernel.len().max(7);
                format!("{line} {count:>width$}")
            });
            writeln!(text, "{:<20} {:<11} {:<6}{counts}", first[0], first[1], first[2]).unwrap();
        };
        line(["program", "established", "log"], kernels.iter().map(|it| (*it).clone()).collect());
        for ((name, established, log), counts) in &self.counts {
            let count = |kernel: &&String| counts.get(*kernel).map_or(NONE.to_owned(), u32::to_string);
            line([name, established, log], kernels.iter().map(count).collect());
        }
        text
    }
}

/// In place of a count: the kernel has no such programs.
const NONE: &str = "-";

/// The first two numbers of this kernel's version, and its processor where the programs have fences for it.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version = release.split(['.', '-']).take(2).collect::<Vec<_>>().join(".");
    if cfg!(target_arch = "x86_64") { version } else { format!("{version}-{}", std::env::consts::ARCH) }
}

#[test]
fn verifier_budget() {
    let (kernel, counted) = (kernel(), counted());
    let mut record = Record::read();
    if std::env::var_os("POSTERN_RECORD").is_some() {
        record.set(&kernel, &counted);
        std::fs::write(RECORD, record.text()).unwrap();
    }
    for (variant, count) in &counted {
        assert!(*count <= LIMIT, "{variant:?} takes {count} instructions to verify, and may take {LIMIT}");
    }
    let Some(recorded) = record.of(&kernel) else {
        println!("nothing is recorded of Linux {kernel}: {counted:#?}");
        return;
    };
    record.set(&kernel, &counted);
    let should = record.text();
    assert!(counted.keys().eq(recorded.keys()), "programs and settings; {RECORD} should hold:\n{should}");
    for (variant, count) in &counted {
        let budget = recorded[variant];
        assert!(
            count.abs_diff(budget) <= budget / 10,
            "{variant:?} takes {count} instructions to verify, {budget} are recorded; if that is meant, {RECORD} should hold:\n{should}"
        );
    }
}

#[test]
fn no_kernel_takes_more_than_the_limit() {
    let record = Record::read();
    assert!(
        record.counts.len() > 20 && record.counts.values().any(|kernels| kernels.len() > 3),
        "{record:?}"
    );
    for (variant, kernels) in record.counts {
        for (kernel, count) in kernels {
            assert!(count <= LIMIT, "{variant:?} on Linux {kernel}");
        }
    }
}

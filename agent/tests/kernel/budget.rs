//! What the programs cost the verifier: it gives up at a million instructions, and every start of an agent waits for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use postern::datapath::behind_nat;
use postern::datapath::object::{self, ALL_PROGRAMS, Established, Settings};

/// Where the counts are recorded. A change of the programs that moves one by more than a tenth, either way, changes this file with
/// it: `POSTERN_RECORD=1 cargo xtask test verifier_budget`.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/verifier-budget.txt");

/// No program may take more, on this kernel.
const LIMIT: u32 = 100_000;

/// Instructions by program and settings.
type Counts = BTreeMap<(String, String, String), u32>;

fn counted() -> Counts {
    let mut counts = Counts::new();
    for settings in Settings::ALL {
        let mut ebpf = object::load(None, settings).expect("programs load; these tests need root");
        let established = if settings.established == Established::Keep { "keep" } else { "recheck" };
        let log = if settings.debug { "log" } else { "silent" };
        for (name, count) in behind_nat::verify(&ebpf).expect("this kernel has netfilter programs") {
            counts.insert((name.to_owned(), established.to_owned(), log.to_owned()), count);
        }
        for name in ALL_PROGRAMS {
            let info = object::program(&mut ebpf, name).unwrap().info().unwrap();
            let count = info.verified_instruction_count().expect("kernel 5.16 or later");
            counts.insert((name.to_owned(), established.to_owned(), log.to_owned()), count);
        }
    }
    counts
}

fn recorded() -> Counts {
    let record = std::fs::read_to_string(RECORD).unwrap();
    let lines = record.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, established, log, count] => {
            ((name.to_owned(), established.to_owned(), log.to_owned()), count.parse().unwrap())
        }
        _ => panic!("{RECORD}: {line}"),
    };
    lines.map(parse).collect()
}

fn written(counts: &Counts) -> String {
    let mut record = String::from(
        "# Instructions that the verifier goes through (Linux 6.18), by program, --established, and whether the\n\
         # programs log. A test fails when one moves by more than a tenth and this file does not say so.\n",
    );
    for ((name, established, log), count) in counts {
        writeln!(record, "{name:<20} {established:<8} {log:<7} {count:>7}").unwrap();
    }
    record
}

#[test]
fn verifier_budget() {
    let counted = counted();
    if std::env::var_os("POSTERN_RECORD").is_some() {
        std::fs::write(RECORD, written(&counted)).unwrap();
    }
    let recorded = recorded();
    assert_eq!(
        counted.keys().collect::<Vec<_>>(),
        recorded.keys().collect::<Vec<_>>(),
        "programs and settings; {RECORD} should hold:\n{}",
        written(&counted)
    );
    for (what, count) in &counted {
        assert!(*count <= LIMIT, "{what:?} takes {count} instructions to verify, and may take {LIMIT}");
        let budget = recorded[what];
        assert!(
            count.abs_diff(budget) <= budget / 10,
            "{what:?} takes {count} instructions to verify, {budget} are recorded; if that is meant, {RECORD} should hold:\n{}",
            written(&counted)
        );
    }
}

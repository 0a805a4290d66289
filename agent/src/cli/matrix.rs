//! `postern matrix`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use postern_policy::matrix::{Cell, IpFamily, Reach, matrix};

use super::Output;
use crate::manifests;

/// Says who may reach whom according to a folder of manifests: no cluster, no privileges.
///
/// Every pod and every host outside the cluster (lab.yaml) to every other, on each port that the destination declares,
/// and to every Service: `service:NAMESPACE/NAME` stands for its cluster addresses, `...@NODE` for its node port on that
/// node, `...@external` for its external and load balancers' addresses. `mixed` (in JSON "mixed", beside true and false):
/// some of the backends that may be chosen are allowed, others are not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  postern matrix -f lab/scenarios/demo/base
  postern matrix -f manifests -o json | jq '.[] | select(.allowed == true and .to == \"production/db\")'
  postern matrix -f manifests -o json | jq '.[] | select(.allowed == \"mixed\") | .from + \" \" + .to'

What policy does not look at is passed over, and said once a kind.

Exit codes: 0 printed; 1 manifests that cannot be read; 2 bad usage.")]
pub(super) struct Matrix {
    /// Folder of Kubernetes YAML, subfolders included, and optionally lab.yaml
    #[arg(short, long = "filename", value_name = "DIR")]
    folder: PathBuf,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Matrix {
    pub(super) fn run(self) -> Result<ExitCode> {
        let loaded = match manifests::load(&self.folder) {
            Ok(loaded) => loaded,
            Err(errors) => {
                for error in &errors {
                    eprintln!("postern: {error}");
                }
                bail!(
                    "{} problem(s) in {}; no matrix until they are mended",
                    errors.len(),
                    self.folder.display()
                );
            }
        };
        for note in &loaded.notes {
            eprintln!("postern: {note}");
        }
        let externals = loaded.lab.map(|lab| lab.externals()).unwrap_or_default();
        let cells = matrix(&loaded.objects, &externals);
        match self.output {
            Output::Json => out!("{}", serde_json::to_string_pretty(&cells)?),
            Output::Table => print(&cells),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A row a source, a column a destination's port.
fn print(cells: &[Cell]) {
    if cells.is_empty() {
        out!(
            "nothing to show: no pod with an address declares a port, and lab.yaml names no host with ports"
        );
        return;
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.ip_family == family).collect();
        if cells.is_empty() {
            continue;
        }
        let columns: BTreeSet<_> = cells.iter().map(|cell| (&cell.to, cell.port, cell.protocol)).collect();
        let mut rows: BTreeMap<&str, BTreeMap<_, Reach>> = BTreeMap::new();
        for cell in &cells {
            rows.entry(&cell.from).or_default().insert((&cell.to, cell.port, cell.protocol), cell.allowed);
        }
        let from = format!("{family:?} FROM \\ TO").replace("V4", "IPv4").replace("V6", "IPv6");
        let title = |(to, port, protocol): &(&String, u16, _)| {
            format!("{}\n{protocol}/{port}", to.replace('/', "/\n"))
        };
        let mut table = super::plain_table(std::iter::once(from).chain(columns.iter().map(title)));
        for (source, row) in &rows {
            let cell = |column| row.get(column).map_or("", |allowed| word(*allowed));
            table.add_row(std::iter::once(*source).chain(columns.iter().map(cell)));
        }
        out!("{table}\n");
    }
}

const fn word(allowed: Reach) -> &'static str {
    match allowed {
        Reach::Allowed => "yes",
        Reach::Mixed => "mixed",
        Reach::Denied => "-",
    }
}

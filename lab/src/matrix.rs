//! Connectivity matrices: who reaches whom on which port. The shape that `postern matrix` prints too.

use std::collections::BTreeMap;
use std::fmt;

use postern_policy::matrix::IpFamily;
pub use postern_policy::matrix::{Cell, Reach};
use postern_policy::model::Protocol;

/// What a cell is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The source: `NAMESPACE/POD` or `external/NAME`.
    pub from: String,
    /// The destination, likewise, or a Service as [`Cell::to`] has it.
    pub to: String,
    /// The destination's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The address family.
    pub ip_family: IpFamily,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, port, protocol, ip_family } = self;
        write!(f, "{from} -> {to} {protocol} {port}")?;
        if *ip_family == IpFamily::V6 { write!(f, " (IPv6)") } else { Ok(()) }
    }
}

/// A matrix, by key.
pub type Matrix = BTreeMap<Key, Reach>;

/// The cells in their order.
#[must_use]
pub fn cells(matrix: &Matrix) -> Vec<Cell> {
    let cell = |(key, allowed): (&Key, &Reach)| Cell {
        from: key.from.clone(),
        to: key.to.clone(),
        port: key.port,
        protocol: key.protocol,
        ip_family: key.ip_family,
        allowed: *allowed,
    };
    matrix.iter().map(cell).collect()
}

/// Cells, from wherever they come, as a matrix.
#[must_use]
pub fn matrix(cells: Vec<Cell>) -> Matrix {
    let entry = |cell: Cell| {
        let Cell { from, to, port, protocol, ip_family, allowed } = cell;
        (Key { from, to, port, protocol, ip_family }, allowed)
    };
    cells.into_iter().map(entry).collect()
}

/// A cell where two matrices differ. `None`: the matrix has no such cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The cell.
    pub key: Key,
    /// What was expected.
    pub expected: Option<Reach>,
    /// What was observed.
    pub observed: Option<Reach>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |reach: Option<Reach>| reach.map_or("no such cell".to_owned(), |reach| reach.to_string());
        write!(f, "{}: expected {}, observed {}", self.key, word(self.expected), word(self.observed))
    }
}

/// Every cell where the two differ.
#[must_use]
pub fn differences(expected: &Matrix, observed: &Matrix) -> Vec<Difference> {
    let missing = expected.keys().filter(|key| !observed.contains_key(key));
    let mut differing: Vec<Difference> = observed
        .keys()
        .chain(missing)
        .map(|key| Difference {
            key: key.clone(),
            expected: expected.get(key).copied(),
            observed: observed.get(key).copied(),
        })
        .filter(|difference| difference.expected != difference.observed)
        .collect();
    differing.sort_by(|a, b| a.key.cmp(&b.key));
    differing
}

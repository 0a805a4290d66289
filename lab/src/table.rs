//! Matrices as text: one row per destination port, one column per source.
//!
//! ```text
//!                               production  production  external
//!                               frontend    api         internet
//! production/frontend 8080/TCP  +           +           -
//! ```
//!
//! `+` allowed, `-` denied, `~` mixed: it depends on which backend of the Service is chosen; `.` no such cell: the two have
//! no address family in common, or there is no way to ask. People read it, and expectations are written in it: [`parse`]
//! reads what [`Table`] prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use postern_policy::matrix::IpFamily;
use postern_policy::model::Protocol;

use crate::matrix::{Key, Matrix, Reach};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// A matrix to print.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What to print.
    pub matrix: &'a Matrix,
    /// Cells that differ from this one are marked `*`.
    pub before: Option<&'a Matrix>,
    /// Whether to use colours.
    pub colours: bool,
    /// How wide a line may be. Wider ones get numbers for column heads.
    pub width: usize,
}

/// One row's destination.
type Row<'a> = (&'a str, u16, Protocol, IpFamily);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<&str> =
            self.matrix.keys().map(|key| &*key.from).collect::<BTreeSet<_>>().into_iter().collect();
        let rows: BTreeSet<Row<'_>> =
            self.matrix.keys().map(|key| (&*key.to, key.port, key.protocol, key.ip_family)).collect();
        let labels: BTreeMap<Row<'_>, String> = rows.iter().map(|row| (*row, label(*row))).collect();
        let margin = labels.values().map(String::len).max().unwrap_or(0);
        let heads = self.heads(f, &sources, margin)?;
        for (row, label) in &labels {
            write!(f, "{label:margin$}")?;
            for (position, (source, head)) in (1..).zip(sources.iter().zip(&heads)) {
                // Nothing stands behind the last column.
                let width = if position == sources.len() { 0 } else { *head };
                self.cell(f, source, *row, width)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Table<'_> {
    /// Prints the column heads, and returns how wide each column is.
    fn heads(
        &self,
        f: &mut fmt::Formatter<'_>,
        sources: &[&str],
        margin: usize,
    ) -> Result<Vec<usize>, fmt::Error> {
        let parts: Vec<(&str, &str)> =
            sources.iter().map(|source| source.split_once('/').unwrap_or(("", source))).collect();
        let widths: Vec<usize> =
            parts.iter().map(|(namespace, name)| namespace.len().max(name.len()).max(2)).collect();
        if margin + widths.iter().map(|width| width + 2).sum::<usize>() <= self.width {
            for line in [0, 1] {
                let mut text = " ".repeat(margin);
                for ((namespace, name), width) in parts.iter().zip(&widths) {
                    write!(text, "  {:width$}", if line == 0 { namespace } else { name })?;
                }
                writeln!(f, "{}", self.paint(DIM, text.trim_end()))?;
            }
            return Ok(widths);
        }
        for (number, source) in (1..).zip(sources) {
            writeln!(f, "{}", self.paint(DIM, &format!("{number:4} {source}")))?;
        }
        let numbers = (1..=sources.len()).fold(String::new(), |text, number| text + &format!("  {number:2}"));
        writeln!(f, "{:margin$}{}", "", self.paint(DIM, &numbers))?;
        Ok(vec![2; sources.len()])
    }

    fn cell(&self, f: &mut fmt::Formatter<'_>, source: &str, row: Row<'_>, width: usize) -> fmt::Result {
        let (to, port, protocol, ip_family) = row;
        let key = Key { from: source.to_owned(), to: to.to_owned(), port, protocol, ip_family };
        let allowed = self.matrix.get(&key);
        let changed = self.before.is_some_and(|before| before.get(&key) != allowed);
        let (mark, colour) = match allowed {
            Some(reach @ Reach::Allowed) => (reach.mark(), GREEN),
            Some(reach @ Reach::Mixed) => (reach.mark(), YELLOW),
            Some(reach @ Reach::Denied) => (reach.mark(), RED),
            None => (".", DIM),
        };
        let text = format!("{:width$}", if changed { format!("{mark}*") } else { mark.to_owned() });
        let style = if changed { format!("{BOLD}{colour}") } else { colour.to_owned() };
        write!(f, "  {}", self.paint(&style, &text))
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colours { format!("{style}{text}{RESET}") } else { text.to_owned() }
    }
}

fn label((to, port, protocol, ip_family): Row<'_>) -> String {
    match ip_family {
        IpFamily::V4 => format!("{to} {port}/{protocol}"),
        IpFamily::V6 => format!("{to} {port}/{protocol}/IPv6"),
    }
}

/// A table that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Reads a table. Empty lines and lines that start with `#` are comments.
///
/// # Errors
/// It is not a table.
pub fn parse(text: &str) -> Result<Matrix, ParseError> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let missing = ParseError { line: 1, reason: "two lines of column heads are missing" };
    let (_, namespaces) = lines.next().ok_or_else(|| missing.clone())?;
    let (line, names) = lines.next().ok_or(missing)?;
    let (namespaces, names): (Vec<_>, Vec<_>) =
        (namespaces.split_whitespace().collect(), names.split_whitespace().collect());
    if namespaces.len() != names.len() {
        return Err(ParseError { line, reason: "not as many names as namespaces in the column heads" });
    }
    let sources: Vec<String> =
        namespaces.iter().zip(names).map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let mut matrix = Matrix::new();
    for (line, row) in lines {
        let wrong = |reason| ParseError { line, reason };
        let mut words = row.split_whitespace();
        let to = words.next().unwrap_or_default();
        let port = words.next().and_then(parse_port);
        let (port, protocol, ip_family) = port.ok_or(wrong("expected `namespace/pod port/protocol`"))?;
        let marks: Vec<&str> = words.collect();
        if marks.len() != sources.len() {
            return Err(wrong("not as many marks as sources"));
        }
        for (mark, from) in marks.into_iter().zip(&sources) {
            let key = Key { from: from.clone(), to: to.to_owned(), port, protocol, ip_family };
            let allowed = match mark {
                "+" => Reach::Allowed,
                "~" => Reach::Mixed,
                "-" => Reach::Denied,
                "." => continue,
                _ => return Err(wrong("a mark is none of + - ~ .")),
            };
            if matrix.insert(key, allowed).is_some() {
                return Err(wrong("this cell stands further up already"));
            }
        }
    }
    Ok(matrix)
}

fn parse_port(text: &str) -> Option<(u16, Protocol, IpFamily)> {
    let mut parts = text.split('/');
    let port = parts.next()?.parse().ok()?;
    let word = parts.next()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == word)?;
    match (parts.next(), parts.next()) {
        (None, None) => Some((port, protocol, IpFamily::V4)),
        (Some("IPv6"), None) => Some((port, protocol, IpFamily::V6)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

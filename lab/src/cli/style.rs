//! How output looks: colours where a person reads it, and how wide.

use std::io::IsTerminal;

use postern_lab::matrix::Matrix;
use postern_lab::table::Table;

/// Width where no terminal says otherwise.
const WIDTH: usize = 160;

/// Colours: on a terminal, unless `NO_COLOR` is set.
pub(super) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}

/// A matrix as a table, with the changes since `before`.
pub(super) fn table<'a>(matrix: &'a Matrix, before: Option<&'a Matrix>) -> Table<'a> {
    let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH);
    Table { matrix, before, colours: colours(), width }
}

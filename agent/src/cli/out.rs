//! Standard output, which may be a pipe whose reader has seen enough, or a file on a full disk.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

use crate::logging::say;

/// Prints a line, as `println!` does, which would panic where that fails.
macro_rules! out {
    ($($arguments:tt)*) => {
        $crate::cli::out::line(format_args!($($arguments)*))
    };
}

/// Writes a line. A reader that is gone is no error (`postern matrix | head`): the command goes on to its end. Anything else ends it,
/// since half of an answer may be taken for the whole.
pub(super) fn line(arguments: Arguments<'_>) {
    match writeln!(io::stdout(), "{arguments}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            say(&format!("postern: writing to standard output: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

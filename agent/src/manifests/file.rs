//! Reading one file.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::Path;

/// More than this is no manifest, or too much to read on every change.
const LIMIT: u64 = 64 << 20;

/// The content of a file; nothing where it went since it was listed.
///
/// # Errors
///
/// It cannot be read, is too large, or is not UTF-8.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match content(path) {
        // A link into nothing is still there.
        Err(error) if error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(error),
        Ok(content) => String::from_utf8(content)
            .map(Some)
            .map_err(|_| Error::new(ErrorKind::InvalidData, "is not UTF-8; save it as such")),
    }
}

/// The bytes of a file.
///
/// # Errors
///
/// It cannot be read, or is too large.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path)?;
    let mut content = Vec::new();
    if file.metadata()?.len() <= LIMIT {
        file.take(LIMIT + 1).read_to_end(&mut content)?;
        if content.len() as u64 <= LIMIT {
            return Ok(content);
        }
    }
    Err(Error::new(ErrorKind::FileTooLarge, format!("is larger than {} MiB; split it", LIMIT >> 20)))
}

//! A fingerprint of a folder's manifests, by which others can tell whether an edit is enforced yet.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// SHA-256 over names and contents of the manifests, in hexadecimal.
///
/// # Errors
///
/// The folder or a file cannot be read.
pub fn digest(folder: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    // What cannot be looked at is the reader's to report; only without the folder there is nothing to tell.
    std::fs::read_dir(folder)?;
    for path in super::listing::list(folder).files {
        let name = path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_encoded_bytes();
        let content = super::file::content(&path)?;
        // Lengths keep one file's end apart from the next one's name.
        for part in [name, content.as_slice()] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

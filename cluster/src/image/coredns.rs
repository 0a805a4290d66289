//! The image of CoreDNS: the one program that was built from its Go module.

use std::fs;
use std::path::Path;

use super::archive::Layer;
use super::{COREDNS, Error};
use crate::files;

/// Makes the archive from the program.
pub(super) fn build(program: &Path, archive: &Path) -> Result<(), Error> {
    let failed = |error| Error::Archive { path: archive.to_owned(), error };
    let content = fs::read(program).map_err(files::Error::on("read", program))?;
    let mut layer = Layer::new();
    layer.file("coredns", 0o755, &content).map_err(failed)?;
    layer.folder("tmp", 0o1777).map_err(failed)?;
    let image = layer.into_image(COREDNS, &["/coredns"]).map_err(failed)?;
    fs::write(archive, image).map_err(failed)
}

//! Pins of programs, by which the next agent goes on with them: nothing is verified, and nothing swapped.
//!
//! ```text
//! <pins>/programs/<digest>/<program>
//! ```
//!
//! The digest is one of what the programs are made of (the object, its globals, the pinned maps) and of what the kernel says of each
//! program there. **A folder is believed only if its name is the digest of what is found in it**: another version, another setting, a map
//! that was made anew, a pin that is missing, or that is somebody else's, all give another one. A folder gets its name last, when all of
//! it is there, so that one that was not finished has none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::SchedClassifier;
use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};

use super::info::{self, Info};
use crate::datapath::globals::Globals;
use crate::datapath::link;
use crate::datapath::maps::SHAPES;
use crate::datapath::object::{OBJECT, Settings, map_folder, pinned_seed};

/// The folder below a pin folder that holds pins of programs.
pub(in crate::datapath) const FOLDER: &str = "programs";

/// Where programs are pinned until all of them are.
const UNFINISHED: &str = "new";

/// Names of programs: in the object, and as pins.
pub(super) struct Names {
    pub(super) classifiers: Vec<&'static str>,
    pub(super) netfilter: Vec<&'static str>,
}

/// Programs that an earlier agent pinned, in the order of their names.
pub(super) struct Found {
    pub(super) classifiers: BTreeMap<&'static str, SchedClassifier>,
    pub(super) netfilter: Vec<OwnedFd>,
}

/// The pins of programs of a boot and network namespace.
#[derive(Debug)]
pub(in crate::datapath) struct ProgramPins {
    folder: PathBuf,
    maps: PathBuf,
    /// The folder with the programs that this agent has; none where they are not pinned.
    own: Option<PathBuf>,
    /// Whether there may be others.
    earlier: bool,
}

impl ProgramPins {
    pub(super) fn new(pins: &Path) -> Self {
        Self { folder: pins.join(FOLDER), maps: map_folder(pins), own: None, earlier: true }
    }

    /// The programs that an agent with these settings would load, if they are pinned.
    pub(super) fn find(&mut self, settings: Settings, names: &Names) -> Option<Found> {
        // What is wrong with the maps is said by whoever loads programs onto them.
        let recipe = self.recipe(settings).ok()??;
        for folder in entries(&self.folder).unwrap_or_default() {
            match open(&folder, names, &recipe) {
                Ok(Some(found)) => {
                    self.own = Some(folder);
                    return Some(found);
                }
                Ok(None) => debug!(folder = %folder.display(), "pinned programs are not those of this agent"),
                Err(error) => debug!(folder = %folder.display(), %error, "pinned programs cannot be used"),
            }
        }
        None
    }

    /// Pins programs that were loaded with these settings, for the next agent.
    ///
    /// # Errors
    ///
    /// The kernel refuses: the next agent loads them anew.
    pub(super) fn pin(
        &mut self,
        settings: Settings,
        programs: &[(&'static str, BorrowedFd<'_>)],
    ) -> io::Result<()> {
        let missing = || io::Error::other("their maps are not pinned");
        let recipe = self.recipe(settings)?.ok_or_else(missing)?;
        let unfinished = self.folder.join(UNFINISHED);
        remove(&unfinished)?;
        std::fs::create_dir_all(&unfinished)?;
        let mut infos = Vec::new();
        for (name, program) in programs {
            link::pin(program, &unfinished.join(name))?;
            infos.push((*name, info::of(*program)?));
        }
        let own = self.folder.join(digest(recipe, &infos));
        // Nothing has this name, unless by somebody's hand.
        remove(&own)?;
        std::fs::rename(&unfinished, &own)?;
        self.own = Some(own);
        Ok(())
    }

    /// Removes all pins of other programs, once no veth needs them: they are of no use to any agent then.
    pub(in crate::datapath) fn remove_earlier(&mut self) {
        if !self.earlier {
            return;
        }
        self.earlier = false;
        for folder in entries(&self.folder).unwrap_or_default() {
            if Some(&folder) != self.own.as_ref()
                && let Err(error) = remove(&folder)
            {
                warn!(folder = %folder.display(), %error, "pins of programs that nothing uses stay");
            }
        }
    }

    /// What programs with these settings are made of; none without an earlier agent's maps.
    fn recipe(&self, settings: Settings) -> io::Result<Option<Sha256>> {
        let seed = pinned_seed(&self.maps).map_err(io::Error::other)?;
        if seed == 0 {
            return Ok(None);
        }
        let mut maps = Vec::new();
        for shape in SHAPES {
            let map = MapData::from_pin(self.maps.join(shape.name)).and_then(|map| map.info());
            maps.push(map.map_err(io::Error::other)?.id());
        }
        let mut recipe = Sha256::new();
        recipe.update(OBJECT.len().to_le_bytes());
        recipe.update(OBJECT);
        // Everything in these is shown.
        recipe.update(format!("{:?} {maps:?}", Globals::new(settings, seed)));
        Ok(Some(recipe))
    }
}

/// What is pinned in a folder, if its name is the digest of that.
fn open(folder: &Path, names: &Names, recipe: &Sha256) -> io::Result<Option<Found>> {
    let mut found = Found { classifiers: BTreeMap::new(), netfilter: Vec::new() };
    let mut infos = Vec::new();
    for name in &names.classifiers {
        let program = SchedClassifier::from_pin(folder.join(name)).map_err(io::Error::other)?;
        infos.push((*name, info::of(program.fd().map_err(io::Error::other)?.as_fd())?));
        found.classifiers.insert(name, program);
    }
    for name in &names.netfilter {
        let program = link::open(&folder.join(name))?;
        infos.push((*name, info::of(program.as_fd())?));
        found.netfilter.push(program);
    }
    let digest = digest(recipe.clone(), &infos);
    Ok((folder.file_name() == Some(digest.as_ref())).then_some(found))
}

/// SHA-256 of what programs are made of, and of what the kernel says of them, in hexadecimal.
fn digest(mut recipe: Sha256, programs: &[(&'static str, Info)]) -> String {
    recipe.update(format!("{programs:?}"));
    recipe.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

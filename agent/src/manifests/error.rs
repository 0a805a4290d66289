//! What can be wrong with a manifest: where it stands, what it is, what is done about it.

use std::fmt;
use std::path::{Path, PathBuf};

use postern_policy::model::ObjectRef;

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Which of the file's documents, from 1.
    pub document: usize,
    /// Which item of the document's list, from 1; which one of that item, where it is a list itself, and so on.
    pub items: Vec<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file.display(), self.document)?;
        self.items.iter().try_for_each(|item| write!(f, ", item {item}"))
    }
}

/// One thing wrong in a folder of manifests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A folder or a file cannot be read.
    #[error("{}: {message}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A document or an item is not YAML, or not an object that Kubernetes knows.
    #[error("{place}: {}{message}", object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default())]
    Invalid {
        /// Where it stands.
        place: Place,
        /// The object, as far as it can be told.
        object: Option<ObjectRef>,
        /// Field, cause and what is done about it.
        message: String,
    },
    /// Two documents are the same object.
    #[error("{place}: {object} stands in {} too; the one here is not used{}", first.display(), if *isolated {
        ", and until one of them goes, the pods it selects are isolated"
    } else {
        ""
    })]
    Duplicate {
        /// Where the second one stands.
        place: Place,
        /// The object.
        object: ObjectRef,
        /// Where it was found first.
        first: PathBuf,
        /// It is a policy that isolates more than the first one does.
        isolated: bool,
    },
}

impl ManifestError {
    /// Where it is.
    pub(super) fn file(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. } => path,
            Self::Invalid { place, .. } | Self::Duplicate { place, .. } => &place.file,
        }
    }

    /// What they are sorted by: as people read.
    pub(super) fn order(&self) -> (&Path, usize, &[usize]) {
        match self {
            Self::Unreadable { path, .. } => (path, 0, &[]),
            Self::Invalid { place, .. } | Self::Duplicate { place, .. } => {
                (&place.file, place.document, &place.items)
            }
        }
    }
}

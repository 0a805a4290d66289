//! What can be wrong with a manifest: where it stands, what it is, what is done about it.

use std::path::PathBuf;

use postern_policy::model::ObjectRef;

/// One thing wrong in a folder of manifests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The folder or a file cannot be read.
    #[error("{}: {message}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A document is not YAML, or not an object that Kubernetes knows.
    #[error("{}, document {document}: {}{message}", file.display(), object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Which of the file's documents, from 1.
        document: usize,
        /// The object, as far as it can be told.
        object: Option<ObjectRef>,
        /// Field, cause and what is done about it.
        message: String,
    },
    /// Two documents are the same object.
    #[error("{}, document {document}: {object} stands in {} too; the one here is not used", file.display(), first.display())]
    Duplicate {
        /// The file.
        file: PathBuf,
        /// Which of the file's documents, from 1.
        document: usize,
        /// The object.
        object: ObjectRef,
        /// Where it was found first.
        first: PathBuf,
    },
}

//! A story: a base of manifests, then one more file per step, each with the matrix that a person expects after it.
//!
//! ```text
//! base/                 the manifests of step 1, with lab.yaml
//! 2-deny-all.yaml       added in step 2; its first comment line is the step's title
//! expected/1.txt        after step 1, as [`crate::table`] has it
//! ```

use std::path::{Path, PathBuf};

use crate::matrix::Matrix;
use crate::table;
use crate::working_copy::{self, Files};

/// A story cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    Files(#[from] working_copy::Error),
    /// There is no expectation for a step.
    #[error("{path}: there is no expected matrix for step {step}", path = .path.display())]
    NoExpectation {
        /// Where it should be.
        path: PathBuf,
        /// The step.
        step: usize,
    },
    /// An expectation does not parse.
    #[error("{path}: {error}", path = .path.display())]
    Expectation {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        error: table::ParseError,
    },
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What happens, in a line.
    pub title: String,
    /// The file that the step adds; `None` for the base.
    pub file: Option<String>,
    /// All manifests from this step on.
    pub files: Files,
    /// What must be observed.
    pub expected: Matrix,
}

/// Where the base of a story is.
#[must_use]
pub fn base(story: &Path) -> PathBuf {
    story.join("base")
}

/// Reads all steps of the story at `directory`.
///
/// # Errors
/// A file is missing or does not parse.
pub fn read(directory: &Path) -> Result<Vec<Step>, Error> {
    let expectations = working_copy::read(&directory.join("expected"))?;
    let additions = working_copy::read(directory)?;
    let additions = additions.into_iter().filter(|(name, _)| is_yaml(name));
    let mut files = working_copy::read(&base(directory))?;
    let title = "no policy: everything is allowed".to_owned();
    let expected = expectation(directory, &expectations, 1)?;
    let mut steps = vec![Step { title, file: None, files: files.clone(), expected }];
    for (number, (name, content)) in (2..).zip(additions) {
        let title = first_comment(&content).unwrap_or_else(|| name.clone());
        files.insert(name.clone(), content);
        let expected = expectation(directory, &expectations, number)?;
        steps.push(Step { title, file: Some(name), files: files.clone(), expected });
    }
    Ok(steps)
}

fn expectation(directory: &Path, expectations: &Files, step: usize) -> Result<Matrix, Error> {
    let name = format!("{step}.txt");
    let path = directory.join("expected").join(&name);
    let content = expectations.get(&name).ok_or_else(|| Error::NoExpectation { path: path.clone(), step })?;
    let text = String::from_utf8_lossy(content);
    table::parse(&text).map_err(|error| Error::Expectation { path, error })
}

fn is_yaml(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "yaml")
}

fn first_comment(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let comment = text.lines().next()?.strip_prefix('#')?.trim();
    Some(comment.trim_end_matches('.').to_owned())
}

//! A story: a base of manifests, then one more file per step, each with the matrix that a person expects after it.
//!
//! ```text
//! base/                 the manifests of step 1, with lab.yaml
//! 2-deny-all.yaml       added in step 2; its first comment line is the step's title
//! 3-relabel/            step 3: files that are added, or replace what had their name; the title is the first comment of
//!                       the first; one that holds comments alone takes objects away
//! expected/1.txt        after step 1, as [`crate::table`] has it; its first comment line is that step's title
//! ```
//!
//! Steps follow each other by the number that their names begin with.

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
    /// The file or folder that the step adds; `None` for the base.
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
    let mut files = working_copy::read_tree(&base(directory))?;
    let title = expectations.get("1.txt").and_then(|content| first_comment(content)).unwrap_or_default();
    let expected = expectation(directory, &expectations, 1)?;
    let mut steps = vec![Step { title, file: None, files: files.clone(), expected }];
    for (number, (name, additions)) in (2..).zip(additions(directory)?) {
        let title = additions.values().next().and_then(|content| first_comment(content));
        files.extend(additions);
        let expected = expectation(directory, &expectations, number)?;
        let title = title.unwrap_or_else(|| name.clone());
        steps.push(Step { title, file: Some(name), files: files.clone(), expected });
    }
    Ok(steps)
}

/// What each step adds, in order, by the name of its file or folder.
fn additions(directory: &Path) -> Result<Vec<(String, Files)>, Error> {
    let files = working_copy::read(directory)?.into_iter().filter(|(name, _)| is_yaml(name));
    let mut steps: Vec<(String, Files)> =
        files.map(|(name, content)| (name.clone(), Files::from([(name, content)]))).collect();
    for name in working_copy::folders(directory)?.into_iter().filter(|name| number(name).is_some()) {
        let files = working_copy::read_tree(&directory.join(&name))?;
        steps.push((name, files));
    }
    steps.sort_by(|(a, _), (b, _)| (number(a), a).cmp(&(number(b), b)));
    Ok(steps)
}

/// The number that a step's name begins with.
fn number(name: &str) -> Option<u32> {
    let digits = name.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(name.len());
    name[..digits].parse().ok()
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

#[cfg(test)]
mod tests {
    use super::{number, read};

    #[test]
    fn steps_are_files_and_folders_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("base/a.yaml", "a: 1");
        write("2-file.yaml", "# Second.\nb: 2");
        write("10-last.yaml", "no: title");
        write("9-folder/a.yaml", "# Nothing is left of a.\n");
        write("README.md", "no step");
        for (step, title) in [(1, "# First."), (2, ""), (3, ""), (4, "")] {
            write(&format!("expected/{step}.txt"), &format!("{title}\n   x\n   a\nx/a 80/TCP  +\n"));
        }
        let steps = read(folder.path()).unwrap();
        let titles: Vec<&str> = steps.iter().map(|step| &*step.title).collect();
        assert_eq!(titles, ["First", "Second", "Nothing is left of a", "10-last.yaml"]);
        let last: Vec<&str> = steps[3].files.keys().map(|name| &**name).collect();
        assert_eq!(last, ["10-last.yaml", "2-file.yaml", "a.yaml"]);
        assert_eq!(steps[3].files["a.yaml"], b"# Nothing is left of a.\n");
    }

    #[test]
    fn only_leading_digits_are_a_number() {
        assert_eq!(["12-x", "base", "3", "x-4"].map(number), [Some(12), None, Some(3), None]);
    }
}

//! From the text of one file to objects, document by document: a broken one does not take its neighbours down.

use serde_json::Value;

use crate::convert::object::{self, Kind, Parsed};

/// Reads every document of a file; none for a kind that policy does not look at.
pub(super) fn parse(text: &str) -> Vec<Option<Parsed>> {
    split(text).into_iter().map(|(line, document)| read(line, &document)).collect()
}

/// Splits at document markers by hand: a syntax error would end the parser's own stream at the first broken document.
/// Gives the number of lines before each document too.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(0, String::new())];
    for (line, content) in text.lines().enumerate() {
        let marker =
            content.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        match (marker, documents.last_mut()) {
            (None, Some((_, document))) => {
                document.push_str(content);
                document.push('\n');
            }
            (Some(rest), _) => documents.push((line, format!("{rest}\n"))),
            (None, None) => {}
        }
    }
    // Documents are counted as a reader counts them: what stands before a leading marker is none when it says nothing.
    documents.retain(|(_, document)| {
        document.lines().any(|it| !it.trim().is_empty() && !it.trim().starts_with('#'))
    });
    documents
}

fn read(line: usize, text: &str) -> Option<Parsed> {
    let value: Value = match serde_yaml_ng::from_str(text) {
        Ok(value) => value,
        Err(error) => return Some(syntax_error(line, &error)),
    };
    let kind = value.get("kind").and_then(Value::as_str);
    let version = value.get("apiVersion").and_then(Value::as_str);
    let (Some(kind), Some(version)) = (kind, version) else {
        let message = "apiVersion and kind are missing: not a Kubernetes object".to_owned();
        return Some(object::broken(None, &value, message));
    };
    let kind = Kind::named(kind)?;
    Some(if version == kind.api_version() {
        object::parse(kind, &value)
    } else {
        object::broken(Some(kind), &value, format!("apiVersion {version:?} is not known for {kind}"))
    })
}

fn syntax_error(line: usize, error: &serde_yaml_ng::Error) -> Parsed {
    // The parser counts within the document; people count within the file.
    let place =
        error.location().map(|at| format!(" (line {} of the file)", line + at.line())).unwrap_or_default();
    Parsed::Broken { object: None, isolation: None, message: format!("not YAML: {error}{place}") }
}

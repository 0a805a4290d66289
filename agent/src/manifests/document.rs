//! From the text of one file to objects, document by document and item by item: a broken one does not take its
//! neighbours down.

use postern_policy::model::{NetworkPolicy, ObjectRef};
use serde_json::Value;

use super::fragment;
use super::kind::{self, Type};
use super::yaml::{self, Step};
use crate::convert::object::{self, Kind, Parsed};

/// A document, or an item of one that is a list.
#[derive(Debug)]
pub(super) struct Item {
    /// Which document of the file, from 1.
    pub(super) document: usize,
    /// Which item of it, from 1, and of that item, and so on; empty for what is no item.
    pub(super) items: Vec<usize>,
    /// What it turned out to be.
    pub(super) content: Content,
}

/// What a document or an item turned out to be.
#[derive(Debug)]
pub(super) enum Content {
    /// An object, whatever is wrong with its fields.
    Object(Parsed),
    /// Nothing that can be read as an object.
    Unread(Unread),
    /// Something that policy does not look at, as people call it.
    Passed(String),
}

/// What is left of something that cannot be read.
#[derive(Debug)]
pub(super) struct Unread {
    /// The object, as far as it can be told.
    pub(super) object: Option<ObjectRef>,
    /// What isolates the pods that policies in there select, as far as that can be told; without a name where the
    /// policy has none.
    pub(super) isolation: Vec<NetworkPolicy>,
    /// What is wrong.
    pub(super) message: String,
}

impl From<Unread> for Content {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread)
    }
}

/// Reads every document of a file.
pub(super) fn parse(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for (index, (line, text)) in split(text).into_iter().enumerate() {
        let document = index + 1;
        match yaml::parse(&text) {
            Ok(yaml::Document { value: Value::Null, .. }) => {}
            Ok(yaml::Document { value, twice }) => {
                Place { document, items: &mut Vec::new(), into: &mut items }.read(&value, None, &twice);
            }
            Err(error) => {
                let content = syntax_error(line, &text, &error).into();
                items.push(Item { document, items: Vec::new(), content });
            }
        }
    }
    items
}

/// Splits at document markers by hand: a syntax error would end the parser's own stream at the first broken document.
/// Gives the number of lines before each document too.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(0, String::new())];
    for (line, content) in text.lines().enumerate() {
        // Files that were put together have a byte order mark wherever one of them began.
        let content = content.strip_prefix('\u{feff}').unwrap_or(content);
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
    let says_something = |line: &str| {
        let text = line.trim();
        !text.is_empty() && !text.starts_with('#') && !line.starts_with('%') && text != "..."
    };
    documents.retain(|(_, document)| document.lines().any(says_something));
    documents
}

fn syntax_error(line: usize, text: &str, error: &serde_yaml_ng::Error) -> Unread {
    // The parser counts within the document; people count within the file.
    let location = error.location();
    let place =
        location.as_ref().map(|at| format!(" (line {} of the file)", line + at.line())).unwrap_or_default();
    let (object, isolation) = fragment::remains(text, location.map(|at| at.line()));
    Unread { object, isolation, message: format!("not YAML: {error}{place}") }
}

/// Where reading stands.
struct Place<'a> {
    document: usize,
    items: &'a mut Vec<usize>,
    into: &'a mut Vec<Item>,
}

impl Place<'_> {
    /// Reads an object or a list. `default` is what an item of a typed list is when it does not say so itself.
    fn read(&mut self, value: &Value, default: Option<Kind>, twice: &[Vec<Step>]) {
        let silent = |key| value.get(key).is_none_or(Value::is_null);
        let kind = match default {
            Some(kind) if silent("kind") && silent("apiVersion") => Type::Object(kind),
            _ => kind::of(value),
        };
        let content = match kind {
            Type::Other(name) => Content::Passed(name),
            Type::List(kind) => return self.list(value, kind, twice),
            Type::Unknown { meant, message } => unread(meant, value, message),
            Type::Object(kind) => match twice {
                [] => Content::Object(object::parse(kind, value)),
                twice => unread(Some(kind), value, given_twice(twice)),
            },
        };
        self.push(content);
    }

    fn push(&mut self, content: Content) {
        self.into.push(Item { document: self.document, items: self.items.clone(), content });
    }

    fn list(&mut self, value: &Value, kind: Option<Kind>, twice: &[Vec<Step>]) {
        let mut of_items: Vec<Vec<Vec<Step>>> = Vec::new();
        let items = match value.get("items") {
            // Go writes an empty list that way.
            Some(Value::Null) => &[],
            Some(Value::Array(items)) => items.as_slice(),
            _ => {
                self.push(unread(None, value, "items: is missing, or no list".to_owned()));
                return;
            }
        };
        of_items.resize(items.len(), Vec::new());
        let mut own = Vec::new();
        for path in twice {
            match path.as_slice() {
                [Step::Key(key), Step::Index(index), rest @ ..] if key == "items" && !rest.is_empty() => {
                    of_items[*index].push(rest.to_vec());
                }
                _ => own.push(path.clone()),
            }
        }
        if !own.is_empty() {
            self.push(unread(None, value, given_twice(&own)));
        }
        for (index, (item, twice)) in items.iter().zip(of_items).enumerate() {
            self.items.push(index + 1);
            self.read(item, kind, &twice);
            self.items.pop();
        }
    }
}

fn given_twice(twice: &[Vec<Step>]) -> String {
    let fields: Vec<String> = twice.iter().map(|path| yaml::field(path)).collect();
    match &fields[..] {
        [field] => format!("{field}: is given twice"),
        fields => format!("{}: are given twice each", fields.join(", ")),
    }
}

/// An object that cannot be read, of a kind that is at best probable.
fn unread(kind: Option<Kind>, value: &Value, message: String) -> Content {
    match object::broken(kind, value, message) {
        Parsed::Broken { object, isolation, message } => {
            Unread { object, isolation: isolation.into_iter().collect(), message }.into()
        }
        parsed @ Parsed::Object(..) => Content::Object(parsed),
    }
}

//! From the text of one document to a value, with what the parser alone would let pass: keys given twice, of which the
//! last would win, and aliases that make much of little. JSON is YAML.

use serde::de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// What a key given twice has for a value: one that is valid nowhere it would matter, so that nobody goes by it.
const UNTOLD: Value = Value::Bool(false);
/// What a value takes of a document's room, beside its text.
const VALUE: usize = 16;
/// Room that aliases may fill, beside what the text itself would.
const ALIASES: usize = 4 << 20;

/// A step from a value into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A document.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    /// The keys that are given twice. They hold [`UNTOLD`].
    pub(super) twice: Vec<Vec<Step>>,
}

/// Reads a document. `<<` is merged, as kubectl does.
pub(super) fn parse(text: &str) -> Result<Document, serde_yaml_ng::Error> {
    let mut reader = Reader { room: text.len() * VALUE + ALIASES, path: Vec::new(), twice: Vec::new() };
    let value = Part(&mut reader).deserialize(serde_yaml_ng::Deserializer::from_str(text))?;
    // What an alias repeats is found twice as often.
    reader.twice.dedup();
    Ok(Document { value, twice: reader.twice })
}

/// `spec.ingress[0].ports`
pub(super) fn field(path: &[Step]) -> String {
    path.iter().fold(String::new(), |field, step| match step {
        Step::Key(key) if field.is_empty() => key.clone(),
        Step::Key(key) => format!("{field}.{key}"),
        Step::Index(index) => format!("{field}[{index}]"),
    })
}

struct Reader {
    room: usize,
    path: Vec<Step>,
    twice: Vec<Vec<Step>>,
}

impl Reader {
    fn take<E: de::Error>(&mut self, length: usize) -> Result<(), E> {
        self.room = self.room.checked_sub(length + VALUE).ok_or_else(|| {
            E::custom("its aliases repeat too much; write out what they stand for, in several documents")
        })?;
        Ok(())
    }
}

/// A value, read with an eye on the whole document.
struct Part<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a value that JSON knows")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.take(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let reader = self.0;
        reader.take(0)?;
        let mut values = Vec::new();
        loop {
            reader.path.push(Step::Index(values.len()));
            let value = list.next_element_seed(Part(reader))?;
            reader.path.pop();
            match value {
                Some(value) => values.push(value),
                None => return Ok(values.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let reader = self.0;
        reader.take(0)?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            reader.take(key.len())?;
            reader.path.push(Step::Key(key.clone()));
            let value = map.next_value_seed(Part(reader))?;
            match object.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    entry.insert(UNTOLD);
                    reader.twice.push(reader.path.clone());
                }
            }
            reader.path.pop();
        }
        match object.remove("<<") {
            None => {}
            Some(Value::Array(sources)) => sources.into_iter().try_for_each(|it| merge(&mut object, it))?,
            Some(source) => merge(&mut object, source)?,
        }
        Ok(object.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _tagged: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("a tag of its own (!...) means nothing to Kubernetes"))
    }
}

/// Fills in what `object` does not say itself.
fn merge<E: de::Error>(object: &mut Map<String, Value>, source: Value) -> Result<(), E> {
    match source {
        Value::Object(source) => {
            for (key, value) in source {
                object.entry(key).or_insert(value);
            }
            Ok(())
        }
        // `<<` twice, which is said already.
        Value::Bool(false) => Ok(()),
        _ => Err(E::custom("<<: is no mapping to merge")),
    }
}

//! The three answers: yes, no, and "it depends on the backend".

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whether connections get through. In JSON `true`, `false` or `"mixed"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// None does.
    Denied,
    /// Those to some of a Service's backends do.
    Mixed,
    /// All do.
    Allowed,
}

impl Reach {
    /// What single connections come to together. Where there is none to make, none gets through.
    pub fn of(connections: impl IntoIterator<Item = bool>) -> Self {
        let all = connections.into_iter().map(Self::from);
        all.reduce(Self::and).unwrap_or(Self::Denied)
    }

    /// What two come to together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Mixed }
    }

    /// The mark of a table: `+`, `-`, `~`.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Denied => "-",
            Self::Mixed => "~",
            Self::Allowed => "+",
        }
    }
}

impl From<bool> for Reach {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Denied }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "denied",
            Self::Mixed => "mixed",
            Self::Allowed => "allowed",
        })
    }
}

impl Serialize for Reach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Denied => serializer.serialize_bool(false),
            Self::Mixed => serializer.serialize_str("mixed"),
            Self::Allowed => serializer.serialize_bool(true),
        }
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Answer)
    }
}

struct Answer;

impl serde::de::Visitor<'_> for Answer {
    type Value = Reach;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or \"mixed\"")
    }

    fn visit_bool<E>(self, allowed: bool) -> Result<Reach, E> {
        Ok(allowed.into())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Reach, E> {
        if text == "mixed" {
            Ok(Reach::Mixed)
        } else {
            Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
}

//! An image's name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};

/// A name as container runtimes store it: with a registry and a tag, both of which may be left out when it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    repository: String,
    tag: String,
}

impl Name {
    /// What stands behind the colon.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Name {
    type Err = Error;

    /// Reads a name by the rules of kubelet and Docker: without a registry it is Docker Hub's, without a tag the latest.
    fn from_str(name: &str) -> Result<Self, Error> {
        let allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || ".-_/:".contains(it);
        let (path, tag) = match name.rsplit_once(':') {
            // A colon before a slash is a registry's port.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (name, "latest"),
        };
        let is_tag = |it: char| it.is_ascii_alphanumeric() || ".-_".contains(it);
        if path.split('/').any(str::is_empty) || !path.chars().all(allowed) {
            bail!("{name}: an image's name is lower case, as in localhost/postern:0.1.0");
        }
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(is_tag) {
            bail!(
                "{name}: {tag:?} is no tag; use letters, digits, dots and dashes, as in localhost/postern:0.1.0"
            );
        }
        let is_registry = |it: &str| it == "localhost" || it.contains(['.', ':']);
        let repository = match path.split_once('/') {
            Some((registry, _)) if is_registry(registry) => path.to_owned(),
            Some(_) => format!("docker.io/{path}"),
            None => format!("docker.io/library/{path}"),
        };
        Ok(Self { repository, tag: tag.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn names_are_completed_as_kubelet_completes_them() {
        let completed = |name: &str| name.parse::<Name>().map(|name| name.to_string()).ok();
        for (name, expected) in [
            ("postern", Some("docker.io/library/postern:latest")),
            ("postern:0.1.0", Some("docker.io/library/postern:0.1.0")),
            ("someone/postern:0.1.0", Some("docker.io/someone/postern:0.1.0")),
            ("localhost/postern:0.1.0", Some("localhost/postern:0.1.0")),
            ("registry.test:5000/postern", Some("registry.test:5000/postern:latest")),
            ("registry.test:5000/postern:0.1.0_rc-1", Some("registry.test:5000/postern:0.1.0_rc-1")),
            ("Postern", None),
            ("postern:", None),
            ("postern:a b", None),
            ("/postern", None),
            ("", None),
        ] {
            assert_eq!(completed(name).as_deref(), expected, "{name:?}");
        }
    }
}

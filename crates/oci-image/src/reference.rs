//! The name of an image: `registry/repository:tag`.

use std::fmt;

/// A full name. containerd looks images up by the whole text, so that a short name, which clients
/// complete each in their own way, would not be found again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: String,
}

/// Why a text is no [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image name of the form registry.domain/repository:tag")]
pub struct InvalidReference {
    text: String,
}

impl Reference {
    /// Parses `registry/repository:tag`. The registry has a dot or a port, which is how every
    /// client tells it from the first part of a repository.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        Self::split(text).ok_or_else(|| InvalidReference {
            text: text.to_owned(),
        })
    }

    fn split(text: &str) -> Option<Self> {
        let (registry, path) = text.split_once('/')?;
        let (repository, tag) = path.split_once(':')?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let is_tag = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let valid = registry.contains(['.', ':'])
            && registry.chars().all(is_host)
            && registry.starts_with(|c: char| c.is_ascii_alphanumeric())
            && repository.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_part)
            })
            && (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(is_tag);
        valid.then(|| Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Where it is stored.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name without registry and tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What follows the colon.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_name_is_taken_apart_and_put_together_again() {
        let text = "000000000000.dkr.ecr.us-east-1.amazonaws.com/carapace/agentd:v1.2";
        let reference = Reference::parse(text).unwrap();
        assert_eq!(
            reference.registry(),
            "000000000000.dkr.ecr.us-east-1.amazonaws.com"
        );
        assert_eq!(reference.repository(), "carapace/agentd");
        assert_eq!(reference.tag(), "v1.2");
        assert_eq!(reference.to_string(), text);
    }

    #[test]
    fn short_or_odd_names_are_refused() {
        for text in [
            "",
            "agentd",
            "agentd:dev",
            "carapace/agentd:dev",
            "carapace.local/agentd",
            "carapace.local/agentd:",
            "carapace.local/Agentd:dev",
            "carapace.local//agentd:dev",
            "carapace.local/../agentd:dev",
            "carapace.local/agentd:dev:dev",
            "carapace.local/agentd@sha256:00",
            "carapace.local/agentd:-dev",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}

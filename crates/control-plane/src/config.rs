//! A function's configuration, read from its environment once and as a whole.
//!
//! A function that lacks three variables says so in one message: whoever deployed it fixes all
//! three at once, instead of one per attempt.

use std::{error::Error, fmt, str::FromStr};

use carapace_core::quoted;

/// Reads variables and remembers everything that is wrong with them.
pub struct Environment<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misconfigured(Vec<String>);

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the function is not configured: {}", self.0.join("; "))
    }
}

impl Error for Misconfigured {}

/// Reads the configuration of this process with `parse`, which asks for one variable after the
/// other and may only give up at the end.
pub fn from_process<T>(
    parse: impl FnOnce(&mut Environment<'_>) -> Option<T>,
) -> Result<T, Misconfigured> {
    from(&|name| std::env::var(name).ok(), parse)
}

/// Reads a configuration with `parse` from wherever `read` finds it.
pub fn from<T>(
    read: &dyn Fn(&str) -> Option<String>,
    parse: impl FnOnce(&mut Environment<'_>) -> Option<T>,
) -> Result<T, Misconfigured> {
    let mut environment = Environment {
        read,
        problems: Vec::new(),
    };
    let parsed = parse(&mut environment);
    match parsed {
        Some(config) if environment.problems.is_empty() => Ok(config),
        _ => Err(Misconfigured(environment.problems)),
    }
}

impl Environment<'_> {
    /// A variable that has to be there and to be a `T`. `None` has been noted as a problem.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let text = (self.read)(name).filter(|text| !text.is_empty());
        let Some(text) = text else {
            self.problems.push(format!("{name} is not set"));
            return None;
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems
                    .push(format!("{name} is {}: {error}", quoted(&text)));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use carapace_core::PoolName;

    use super::*;

    fn parse(environment: &mut Environment<'_>) -> Option<(String, PoolName)> {
        let table = environment.required("TABLE_NAME");
        let pool = environment.required("WARM_POOL");
        Some((table?, pool?))
    }

    #[test]
    fn a_complete_environment_is_read() {
        let read = |name: &str| match name {
            "TABLE_NAME" => Some("carapace".to_owned()),
            "WARM_POOL" => Some("agents".to_owned()),
            _ => None,
        };
        let (table, pool) = from(&read, parse).unwrap();
        assert_eq!((table.as_str(), pool.as_str()), ("carapace", "agents"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let read = |name: &str| (name == "WARM_POOL").then(|| "Not a pool".to_owned());
        insta::assert_snapshot!(
            from(&read, parse).unwrap_err(),
            @r#"the function is not configured: TABLE_NAME is not set; WARM_POOL is "Not a pool": "Not a pool" is not a pool's name: it must be a DNS-1123 label of at most 63 characters"#
        );
    }
}

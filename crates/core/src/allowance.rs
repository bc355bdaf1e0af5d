//! What a user may spend: a budget for models, and how fast.

use std::{ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

/// What one user may use of the models, all sandboxes and keys taken together. The model gateway
/// enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Unchecked")]
pub struct Allowance {
    /// The most that may be spent within [`Self::budget_days`], in whole US dollars.
    pub budget_usd: u32,
    /// After how many days the budget begins anew.
    pub budget_days: u32,
    /// The most requests in a minute.
    pub requests_per_minute: u32,
    /// The most tokens in a minute, in and out.
    pub tokens_per_minute: u32,
}

/// The same, before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    budget_usd: u32,
    budget_days: u32,
    requests_per_minute: u32,
    tokens_per_minute: u32,
}

const BUDGET_USD: RangeInclusive<u32> = 1..=100_000;
const BUDGET_DAYS: RangeInclusive<u32> = 1..=366;
const REQUESTS_PER_MINUTE: RangeInclusive<u32> = 1..=10_000;
const TOKENS_PER_MINUTE: RangeInclusive<u32> = 1..=100_000_000;

/// An allowance that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAllowance {
    /// It isn't the JSON of one.
    #[error(
        "it must be JSON like {{\"budget_usd\": 20, \"budget_days\": 30, \
         \"requests_per_minute\": 60, \"tokens_per_minute\": 200000}}: {0}"
    )]
    NotJson(String),
    /// A field is out of its bounds.
    #[error("its {field} is {value}, but it must be from {least} to {most}")]
    OutOfBounds {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u32,
        /// The least that it may be.
        least: u32,
        /// The most that it may be.
        most: u32,
    },
}

impl TryFrom<Unchecked> for Allowance {
    type Error = InvalidAllowance;

    fn try_from(given: Unchecked) -> Result<Self, InvalidAllowance> {
        let fields = [
            ("budget_usd", given.budget_usd, BUDGET_USD),
            ("budget_days", given.budget_days, BUDGET_DAYS),
            (
                "requests_per_minute",
                given.requests_per_minute,
                REQUESTS_PER_MINUTE,
            ),
            (
                "tokens_per_minute",
                given.tokens_per_minute,
                TOKENS_PER_MINUTE,
            ),
        ];
        for (field, value, bounds) in fields {
            if !bounds.contains(&value) {
                return Err(InvalidAllowance::OutOfBounds {
                    field,
                    value,
                    least: *bounds.start(),
                    most: *bounds.end(),
                });
            }
        }
        Ok(Self {
            budget_usd: given.budget_usd,
            budget_days: given.budget_days,
            requests_per_minute: given.requests_per_minute,
            tokens_per_minute: given.tokens_per_minute,
        })
    }
}

/// As it stands in a function's environment: JSON.
impl FromStr for Allowance {
    type Err = InvalidAllowance;

    fn from_str(text: &str) -> Result<Self, InvalidAllowance> {
        let given: Unchecked = serde_json::from_str(text)
            .map_err(|error| InvalidAllowance::NotJson(error.to_string()))?;
        given.try_into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn usual() -> Value {
        json!({
            "budget_usd": 20, "budget_days": 30,
            "requests_per_minute": 60, "tokens_per_minute": 200_000
        })
    }

    #[test]
    fn an_allowance_is_read_as_it_is_written() {
        let read: Allowance = usual().to_string().parse().unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), usual());
        assert_eq!(serde_json::from_value::<Allowance>(usual()).unwrap(), read);
    }

    /// I6
    #[test]
    fn what_is_missing_misspelt_or_out_of_bounds_is_no_allowance() {
        for field in usual().as_object().unwrap().keys() {
            for wrong in [
                json!(0),
                json!(u32::MAX),
                json!(-1),
                json!("20"),
                json!(1.5),
            ] {
                let mut allowance = usual();
                allowance[field] = wrong.clone();
                let text = allowance.to_string();
                assert!(text.parse::<Allowance>().is_err(), "{field} {wrong}");
                assert!(serde_json::from_value::<Allowance>(allowance).is_err());
            }
            let mut allowance = usual();
            allowance.as_object_mut().unwrap().remove(field);
            assert!(
                allowance.to_string().parse::<Allowance>().is_err(),
                "{field}"
            );
        }
        let mut allowance = usual();
        allowance["budget_eur"] = json!(20);
        assert!(allowance.to_string().parse::<Allowance>().is_err());
    }

    #[test]
    fn a_refusal_names_the_field_and_its_bounds() {
        let mut allowance = usual();
        allowance["budget_days"] = json!(400);
        let refused = allowance.to_string().parse::<Allowance>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "its budget_days is 400, but it must be from 1 to 366"
        );
    }
}

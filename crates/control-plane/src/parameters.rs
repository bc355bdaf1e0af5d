//! The sign-up policy, kept in a parameter of Systems Manager.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_ssm::{Client, error::ProvideErrorMetadata};
use carapace_core::{identity::Policies, policy::Policy, ports::Trouble};
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "Systems Manager";

/// How long a policy that was read is used before it is read again: so soon a change counts.
const FRESH: Duration = Duration::from_mins(1);

/// The parameter that holds the policy as JSON.
///
/// A policy that can't be read, or is none, is trouble, also if an older one is still known: who
/// was blocked a minute ago must not get in because Systems Manager is down.
#[derive(Debug)]
pub struct PolicyParameter {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    name: String,
    cached: Mutex<Option<(Instant, Arc<Policy>)>>,
}

impl PolicyParameter {
    /// The parameter of this name; nothing is read yet.
    pub fn new(aws: Arc<Aws>, name: String) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            name,
            cached: Mutex::new(None),
        }
    }

    async fn read(&self) -> Result<Arc<Policy>, Trouble> {
        let client = self
            .client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await;
        let answer = boxed(client.get_parameter().name(&self.name).send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        let value = answer.parameter().and_then(|parameter| parameter.value());
        parse(value.unwrap_or_default())
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<Policy>)>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policies for PolicyParameter {
    async fn policy(&self) -> Result<Arc<Policy>, Trouble> {
        if let Some((read_at, policy)) = self.cached().as_ref()
            && read_at.elapsed() < FRESH
        {
            return Ok(Arc::clone(policy));
        }
        let policy = self.read().await?;
        *self.cached() = Some((Instant::now(), Arc::clone(&policy)));
        Ok(policy)
    }
}

fn parse(text: &str) -> Result<Arc<Policy>, Trouble> {
    let policy = Policy::parse(text).map_err(|error| Trouble::Refused {
        service: SERVICE,
        why: error.to_string(),
    })?;
    Ok(Arc::new(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_no_policy_is_trouble_that_says_what_is_wrong() {
        for text in ["", "{}", "example.com"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let text = r#"{"version":1,"allowed_domains":["*"],"plus_tags":"distinct","sign_ups_per_domain_per_hour":1}"#;
        let refused = parse(text).unwrap_err().to_string();
        assert!(refused.contains("allowed_domains[0]"), "{refused}");
    }
}

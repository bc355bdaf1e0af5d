//! The model gateway's master key, kept in Secrets Manager.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata};
use carapace_core::{model_key::MasterKey, ports::Trouble};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "Secrets Manager";

/// How long a key that was read is used before it is read again, so that a rotation is noticed.
const FRESH: Duration = Duration::from_mins(5);

/// The secret that holds the master key, as `{"master_key": "…"}`, without the prefix `sk-` that the gateway wants.
#[derive(Debug)]
pub struct MasterKeySecret {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    arn: String,
    cached: Mutex<Option<(Instant, MasterKey)>>,
}

#[derive(Deserialize)]
struct Content {
    master_key: String,
}

impl MasterKeySecret {
    /// The secret with this ARN; nothing is read yet.
    pub fn new(aws: Arc<Aws>, arn: String) -> Self {
        Self {
            aws,
            client: OnceCell::new(),
            arn,
            cached: Mutex::new(None),
        }
    }

    /// A secret that has been read already.
    #[cfg(test)]
    pub(crate) fn known(key: MasterKey) -> Self {
        let secret = Self::new(Arc::default(), String::new());
        *secret.cached() = Some((Instant::now(), key));
        secret
    }

    /// The master key.
    pub async fn master_key(&self) -> Result<MasterKey, Trouble> {
        if let Some((read_at, key)) = self.cached().as_ref()
            && read_at.elapsed() < FRESH
        {
            return Ok(key.clone());
        }
        let key = self.read().await?;
        *self.cached() = Some((Instant::now(), key.clone()));
        Ok(key)
    }

    /// Forgets the key, because the gateway doesn't accept it: it may have been rotated.
    pub fn forget(&self) {
        *self.cached() = None;
    }

    async fn read(&self) -> Result<MasterKey, Trouble> {
        let client = self
            .client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await;
        let answer = boxed(client.get_secret_value().secret_id(&self.arn).send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        parse(answer.secret_string().unwrap_or_default())
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<(Instant, MasterKey)>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is wrong with the secret's form, never what is in it.
fn parse(text: &str) -> Result<MasterKey, Trouble> {
    let refused = |why: String| Trouble::Refused {
        service: SERVICE,
        why,
    };
    let content: Content = serde_json::from_str(text)
        .map_err(|_| refused("the secret is not {\"master_key\": \"…\"}".to_owned()))?;
    // LiteLLM wants the prefix, and Secrets Manager cannot generate one.
    MasterKey::parse(format!("sk-{}", content.master_key))
        .map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_the_right_form_is_read() {
        assert_eq!(
            parse(r#"{"master_key":"master-key"}"#).unwrap().expose(),
            "sk-master-key"
        );
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_saying_the_secret() {
        for text in [
            "very-secret",
            r#"{"key":"very-secret"}"#,
            r#"{"master_key":"very secret"}"#,
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(!refused.contains("very"), "{refused}");
        }
    }
}

//! Secrets, kept in Secrets Manager.
//!
//! A secret is a JSON object with one text in it. It is read when it is first needed, used for a
//! while, and read again, so that a rotation is noticed; sooner, if whoever it is for does not
//! accept it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_secretsmanager::{Client, error::ProvideErrorMetadata};
use carapace_core::{model_key::MasterKey, ports::Trouble, slack::signature::SigningSecret};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::aws::{Aws, boxed, trouble};

const SERVICE: &str = "Secrets Manager";

/// How long a secret that was read is used before it is read again, so that a rotation is noticed.
const FRESH: Duration = Duration::from_mins(5);

/// How long a secret that was read is what it is, whatever is said of it: whoever sends rubbish
/// must not have us ask Secrets Manager for every piece of it.
const SETTLED: Duration = Duration::from_secs(10);

/// What a secret holds.
pub trait Content: Clone {
    /// The field of the JSON object that holds it.
    const FIELD: &'static str;

    /// Takes the text of that field. What is wrong with it is said without repeating it.
    fn take(text: &str) -> Result<Self, String>;
}

/// The model gateway's master key, as `{"master_key": "…"}`, without the prefix `sk-`.
impl Content for MasterKey {
    const FIELD: &'static str = "master_key";

    fn take(text: &str) -> Result<Self, String> {
        // LiteLLM wants the prefix, and Secrets Manager cannot generate one.
        Self::parse(format!("sk-{text}")).map_err(|error| error.to_string())
    }
}

/// What Slack signs its requests with, as `{"signing_secret": "…"}`.
impl Content for SigningSecret {
    const FIELD: &'static str = "signing_secret";

    fn take(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }
}

/// The secret that holds the model gateway's master key.
pub type MasterKeySecret = Secret<MasterKey>;

/// A secret in Secrets Manager.
pub struct Secret<T> {
    aws: Arc<Aws>,
    client: OnceCell<Client>,
    arn: String,
    cached: Mutex<Option<Cached<T>>>,
}

#[derive(Clone)]
struct Cached<T> {
    read_at: Instant,
    content: T,
}

impl<T: Content> Secret<T> {
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
    pub(crate) fn known(content: T) -> Self {
        let secret = Self::new(Arc::default(), String::new());
        secret.keep(content);
        secret
    }

    /// The secret, as it was read within the last minutes.
    pub async fn read(&self) -> Result<T, Trouble> {
        match self.younger_than(FRESH) {
            Some(content) => Ok(content),
            None => self.fetch().await,
        }
    }

    /// The secret as it is now, because it was not accepted as it was: it may have been rotated.
    /// `None` if it was read only just now, so that it can't be another.
    pub async fn read_again(&self) -> Result<Option<T>, Trouble> {
        match self.younger_than(SETTLED) {
            Some(_) => Ok(None),
            None => self.fetch().await.map(Some),
        }
    }

    /// Forgets the secret, because it wasn't accepted: the next read asks for it.
    pub fn forget(&self) {
        *self.cached() = None;
    }

    fn younger_than(&self, age: Duration) -> Option<T> {
        let cached = self.cached();
        let young = cached
            .as_ref()
            .filter(|cached| cached.read_at.elapsed() < age);
        young.map(|cached| cached.content.clone())
    }

    async fn fetch(&self) -> Result<T, Trouble> {
        let client = self
            .client
            .get_or_init(async || Client::new(self.aws.config().await))
            .await;
        let answer = boxed(client.get_secret_value().secret_id(&self.arn).send()).await;
        let answer = answer.map_err(|error| trouble(SERVICE, error.code(), &error))?;
        let content: T = parse(answer.secret_string().unwrap_or_default())?;
        self.keep(content.clone());
        Ok(content)
    }

    fn keep(&self, content: T) {
        *self.cached() = Some(Cached {
            read_at: Instant::now(),
            content,
        });
    }

    fn cached(&self) -> MutexGuard<'_, Option<Cached<T>>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Content> fmt::Debug for Secret<T> {
    /// Where it is, and never what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} of {})", T::FIELD, self.arn)
    }
}

/// Says what is wrong with the secret's form, never what is in it.
fn parse<T: Content>(text: &str) -> Result<T, Trouble> {
    let field = T::FIELD;
    let refused = |why: String| Trouble::Refused {
        service: SERVICE,
        why,
    };
    let object: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let held = object.as_ref().and_then(|object| object.get(field));
    let held = held
        .and_then(Value::as_str)
        .ok_or_else(|| refused(format!("the secret is not {{\"{field}\": \"…\"}}")))?;
    T::take(held).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_the_right_form_is_read() {
        let key: MasterKey = parse(r#"{"master_key":"master-key"}"#).unwrap();
        assert_eq!(key.expose(), "sk-master-key");
        let secret = r#"{"signing_secret":"8f742231b10e8888abcd99yyyzzz85a5","note":1}"#;
        assert!(parse::<SigningSecret>(secret).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_saying_the_secret() {
        for text in [
            "very-secret",
            "",
            "[]",
            r#"{"key":"very-secret"}"#,
            r#"{"master_key":"very secret"}"#,
            r#"{"master_key":["very-secret"]}"#,
            r#"{"signing_secret":"very"}"#,
        ] {
            let master = parse::<MasterKey>(text).unwrap_err().to_string();
            assert!(!master.contains("very"), "{master}");
            let signing = parse::<SigningSecret>(text).unwrap_err().to_string();
            assert!(!signing.contains("very"), "{signing}");
        }
    }

    /// Nothing can be fetched in a unit test, so whoever tries is told apart by the failure.
    fn aged(age: Duration) -> Secret<MasterKey> {
        let secret = Secret::known(MasterKey::parse("sk-master-key").unwrap());
        if let Some(cached) = secret.cached().as_mut() {
            cached.read_at = Instant::now().checked_sub(age).unwrap();
        }
        secret
    }

    #[tokio::test]
    async fn a_secret_is_used_for_minutes_and_not_asked_for_again_within_seconds() {
        let young = aged(Duration::from_secs(9));
        assert!(young.read().await.is_ok());
        assert!(young.read_again().await.unwrap().is_none());
        let settled = aged(Duration::from_secs(11));
        assert!(settled.younger_than(FRESH).is_some());
        assert!(settled.younger_than(SETTLED).is_none());
        let old = aged(Duration::from_mins(6));
        assert!(old.younger_than(FRESH).is_none());
        young.forget();
        assert!(young.younger_than(FRESH).is_none());
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = aged(Duration::ZERO);
        assert_eq!(format!("{secret:?}"), "Secret(master_key of )");
    }
}

//! `pre-sign-up`: whether an account may be made.
//!
//! Cognito waits five seconds and asks three times. So every call is bounded by what is left of
//! the time, and the same sign-up, which has the same username each time, gets the same answer
//! however far an earlier try came. In this order:
//!
//! 1. the event is read and the policy judges it, which costs nothing once the policy is known;
//! 2. the mailbox's entry is looked at. If it is this account's, an earlier try has done the rest.
//!    If it is another's, Cognito is asked for that one account;
//! 3. the sign-up is counted, also one that is about to be denied: whoever tries addresses to learn
//!    which have accounts is stopped by the same limit;
//! 4. the mailbox is entered.

use std::{collections::HashMap, time::Duration};

use aws_lambda_events::event::cognito::{
    CognitoEventUserPoolsPreSignup, CognitoEventUserPoolsPreSignupTriggerSource as Trigger,
};
use carapace_control_plane::{lambda::diagnostic, named};
use carapace_core::{
    email::EmailAddress,
    identity::{
        Accounts, Counted, Entered, Entry, Identities, IdentityKey, Policies, Stand, Username,
        hour, stand,
    },
    policy::{Denied, Policy, Source, Verdict, judge},
    ports::{Clock, Trouble},
};
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};

/// Of Cognito's five seconds, what may be spent on waiting for others.
pub const WITHIN: Duration = Duration::from_millis(3500);

/// The trigger.
pub struct PreSignUp<P, I, A, C> {
    /// Where the policy is.
    pub policies: P,
    /// Which mailboxes have accounts.
    pub identities: I,
    /// The accounts themselves.
    pub accounts: A,
    /// The clock.
    pub clock: C,
    /// How long all calls together may take.
    pub within: Duration,
}

/// Why no account is made. Cognito shows the text on its sign-up page, with its own words around
/// it, so it speaks to the person there, ends without a full stop, and gives nothing away but what
/// they can change. In particular, whether an address is blocked or has an account, and whether
/// many sign up or something is broken, reads the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignUpDenied {
    /// The address is not of the one form that is accepted.
    #[error("Sign-up needs a plain e-mail address, such as name@example.com")]
    AddressNotAccepted,
    /// The address has a plus-tag and the policy does not want any.
    #[error("Sign-up needs an e-mail address without a plus sign")]
    TagNotAccepted,
    /// The identity provider itself says that the address is not proven.
    #[error("Sign-up needs an e-mail address that your identity provider has verified")]
    AddressNotVerified,
    /// The operator has not named the domain.
    #[error("Sign-up is not open for addresses at this domain")]
    DomainNotAllowed,
    /// The operator has not named the identity provider.
    #[error("Sign-up is not open through this identity provider")]
    ProviderNotAllowed,
    /// The mailbox is blocked, or has an account, or another sign-up for it is under way.
    #[error(
        "This address cannot be used for a new account. If you have signed up before, sign in instead"
    )]
    AddressUnavailable,
    /// There were too many sign-ups for this domain within the hour.
    #[error("Sign-up is not possible at the moment. Please try again later")]
    TooManySignUps,
    /// The policy can't be read, or something else that this depends on does not answer.
    #[error("Sign-up is not possible at the moment. Please try again later")]
    Unavailable,
    /// The event is not what Cognito sends.
    #[error("Sign-up is not possible at the moment")]
    MalformedEvent,
}

named!(
    SignUpDenied: AddressNotAccepted, TagNotAccepted, AddressNotVerified, DomainNotAllowed,
    ProviderNotAllowed, AddressUnavailable, TooManySignUps, Unavailable, MalformedEvent,
);

impl From<Denied> for SignUpDenied {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::AddressBlocked => Self::AddressUnavailable,
            Denied::PlusTagRefused => Self::TagNotAccepted,
            Denied::DomainNotAllowed => Self::DomainNotAllowed,
            Denied::ProviderNotAllowed => Self::ProviderNotAllowed,
        }
    }
}

impl From<Trouble> for SignUpDenied {
    fn from(trouble: Trouble) -> Self {
        tracing::error!(%trouble, "a sign-up is denied because something is not there");
        Self::Unavailable
    }
}

impl<P: Policies, I: Identities, A: Accounts, C: Clock> PreSignUp<P, I, A, C> {
    /// Answers one event: the event itself if an account may be made, or else an error.
    pub async fn handle(&self, event: Value) -> Result<Value, Diagnostic> {
        self.answer(event)
            .await
            .map_err(|denied| diagnostic(&denied))
    }

    async fn answer(&self, mut event: Value) -> Result<Value, SignUpDenied> {
        // Whatever came in: that an address is somebody's is proven by the code that Cognito mails,
        // not by us, and only the policy makes an account good without one.
        let response = |confirm: bool| json!({"autoConfirmUser": confirm, "autoVerifyEmail": false, "autoVerifyPhone": false});
        *event
            .get_mut("response")
            .ok_or(SignUpDenied::MalformedEvent)? = response(false);
        let asked = Asked::read(&event)?;
        let allowed = tokio::time::timeout(self.within, self.allow(&asked)).await;
        let verdict = allowed.unwrap_or_else(|_| {
            tracing::error!("a sign-up is denied because the time is up");
            Err(SignUpDenied::Unavailable)
        })?;
        event["response"] = response(verdict.auto_confirm);
        Ok(event)
    }

    async fn allow(&self, asked: &Asked) -> Result<Verdict, SignUpDenied> {
        let domain = asked.address.domain();
        let policy = self.policies.policy().await?;
        let judged = judge(&policy, asked.source(), &asked.address).inspect_err(|denied| {
            tracing::info!(%domain, %denied, "a sign-up is denied");
        });
        if judged == Err(Denied::AddressBlocked) {
            // Counted as if it had an account, or else the limit would tell which of both it is.
            self.count(asked, &policy).await?;
        }
        let verdict = judged?;

        let key = IdentityKey::derive(&asked.pool_id, &verdict.identity);
        let entry = self.identities.entry(&key).await?;
        if entry
            .as_ref()
            .is_some_and(|entry| entry.username == asked.username)
        {
            tracing::info!(%domain, "a sign-up is let through to Cognito again");
            return Ok(verdict);
        }
        let now = self.clock.now();
        let stands = match &entry {
            None => Stand::Abandoned,
            Some(entry) => {
                let account = self.accounts.account(&asked.pool_id, &entry.username);
                stand(entry, account.await?, now)
            }
        };
        self.count(asked, &policy).await?;
        match (stands, &entry) {
            (Stand::Abandoned, _) => {}
            (Stand::NeverConfirmed, Some(entry)) => {
                let delete = self
                    .accounts
                    .delete_unconfirmed(&asked.pool_id, &entry.username);
                delete.await?;
                tracing::info!(%domain, "an account that nobody confirmed makes room");
            }
            (stands, _) => {
                tracing::info!(%domain, ?stands, "a sign-up is denied: the mailbox has an account");
                return Err(SignUpDenied::AddressUnavailable);
            }
        }
        let mine = Entry {
            username: asked.username.clone(),
            at: now,
        };
        let entered = self.identities.enter(&key, entry.as_ref(), &mine).await?;
        if entered == Entered::Overtaken && !self.is_mine(&key, &asked.username).await? {
            tracing::info!(%domain, "a sign-up is denied: another for the mailbox was faster");
            return Err(SignUpDenied::AddressUnavailable);
        }
        tracing::info!(%domain, "a sign-up is let through to Cognito");
        Ok(verdict)
    }

    async fn count(&self, asked: &Asked, policy: &Policy) -> Result<(), SignUpDenied> {
        // Whoever may create users may create as many as they like.
        if asked.trigger == Way::AdminCreateUser {
            return Ok(());
        }
        let domain = policy.counted_with(asked.address.domain());
        let most = policy.sign_ups_per_domain_per_hour();
        let hour = hour(self.clock.now());
        let counted = self.identities.count(domain, hour, most).await?;
        if counted == Counted::TooMany {
            tracing::warn!(%domain, most, "a sign-up is denied: too many in this hour");
            return Err(SignUpDenied::TooManySignUps);
        }
        Ok(())
    }

    /// Whether another try of the same sign-up entered the mailbox meanwhile: Cognito may ask
    /// again while we are still at it.
    async fn is_mine(&self, key: &IdentityKey, username: &Username) -> Result<bool, Trouble> {
        let entry = self.identities.entry(key).await?;
        Ok(entry.is_some_and(|entry| entry.username == *username))
    }
}

/// In which way somebody signs up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    SignUp,
    AdminCreateUser,
    ExternalProvider,
}

/// What Cognito asks.
struct Asked {
    pool_id: String,
    username: Username,
    trigger: Way,
    issuer: Option<String>,
    address: EmailAddress,
}

impl Asked {
    fn read(event: &Value) -> Result<Self, SignUpDenied> {
        let event = CognitoEventUserPoolsPreSignup::deserialize(event).map_err(|error| {
            // Where the JSON is wrong, not what stands there: that may be somebody's password.
            tracing::error!(kind = ?error.classify(), "the event is not what Cognito sends");
            SignUpDenied::MalformedEvent
        })?;
        let header = event.cognito_event_user_pools_header;
        let trigger = match header.trigger_source {
            Some(Trigger::SignUp) => Way::SignUp,
            Some(Trigger::AdminCreateUser) => Way::AdminCreateUser,
            Some(Trigger::ExternalProvider) => Way::ExternalProvider,
            _ => return Err(SignUpDenied::MalformedEvent),
        };
        let attributes = event.request.user_attributes;
        let pool_id = header.user_pool_id.filter(|id| !id.is_empty());
        let username = header.user_name.as_deref().and_then(Username::parse);
        let (Some(pool_id), Some(username)) = (pool_id, username) else {
            return Err(SignUpDenied::MalformedEvent);
        };
        let email = attributes.get("email");
        let address = email.and_then(|email| EmailAddress::parse(email).ok());
        let address = address.ok_or(SignUpDenied::AddressNotAccepted)?;
        let mut issuer = None;
        if trigger == Way::ExternalProvider {
            // The mailbox is proven by the provider or by nobody.
            if attributes
                .get("email_verified")
                .is_some_and(|is| !is.eq_ignore_ascii_case("true"))
            {
                return Err(SignUpDenied::AddressNotVerified);
            }
            issuer = issuer_of(&attributes, username.provider())?;
        }
        Ok(Self {
            pool_id,
            username,
            trigger,
            issuer,
            address,
        })
    }

    fn source(&self) -> Source<'_> {
        match self.trigger {
            Way::SignUp => Source::SignUp,
            Way::AdminCreateUser => Source::AdminCreateUser,
            Way::ExternalProvider => Source::ExternalProvider {
                name: self.username.provider().unwrap_or_default(),
                issuer: self.issuer.as_deref(),
            },
        }
    }
}

/// Who issued the assertion, where Cognito says so: in `identities`, a list in JSON, as text. It is an
/// attribute of the account, and so not there before there is one; then it names the issuer of SAML
/// alone. It is held against the policy nonetheless, in case Cognito says more one day. That an issuer
/// is the policy's is seen to where the provider is added to the pool: `cdk/lib/identity/providers.ts`.
fn issuer_of(
    attributes: &HashMap<String, String>,
    provider: Option<&str>,
) -> Result<Option<String>, SignUpDenied> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Identity {
        provider_name: String,
        issuer: Option<String>,
    }
    let Some(identities) = attributes.get("identities") else {
        return Ok(None);
    };
    let identities: Vec<Identity> =
        serde_json::from_str(identities).map_err(|_| SignUpDenied::MalformedEvent)?;
    let this = identities.into_iter().find(|identity| {
        provider.is_some_and(|provider| provider.eq_ignore_ascii_case(&identity.provider_name))
    });
    // Of the user's identities one is this provider's, or something is very wrong.
    Ok(this.ok_or(SignUpDenied::ProviderNotAllowed)?.issuer)
}

#[cfg(test)]
mod tests;

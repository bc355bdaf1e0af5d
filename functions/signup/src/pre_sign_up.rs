//! `pre-sign-up`: whether an account may be made.

use aws_lambda_events::event::cognito::{
    CognitoEventUserPoolsPreSignup, CognitoEventUserPoolsPreSignupTriggerSource as Source,
};
use carapace_control_plane::{
    config::{Misconfigured, from_process},
    lambda::diagnostic,
    named,
};
use carapace_core::email::{AllowedDomains, EmailAddress};
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};

/// The trigger.
pub struct PreSignUp {
    /// The domains whose addresses may sign up.
    pub allowed: AllowedDomains,
}

/// Why no account is made. Cognito shows the text on its sign-up page, with its own words around
/// it, so it speaks to the person there, ends without a full stop, and gives nothing away but what
/// they can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignUpDenied {
    /// The address is not of the one form that is accepted.
    #[error("Sign-up needs a plain e-mail address, such as name@example.com")]
    AddressNotAccepted,
    /// The operator has not named the domain.
    #[error("Sign-up is not open for addresses at this domain")]
    DomainNotAllowed,
    /// The account would come from another identity provider.
    #[error("Sign-up is not open through another identity provider")]
    ProviderNotAllowed,
    /// The event is not what Cognito sends.
    #[error("Sign-up is not possible at the moment")]
    MalformedEvent,
}

named!(SignUpDenied: AddressNotAccepted, DomainNotAllowed, ProviderNotAllowed, MalformedEvent);

impl PreSignUp {
    /// The trigger from `ALLOWED_EMAIL_DOMAINS`, a list separated by commas.
    pub fn from_environment() -> Result<Self, Misconfigured> {
        from_process(|environment| {
            environment
                .required("ALLOWED_EMAIL_DOMAINS")
                .map(|allowed| Self { allowed })
        })
    }

    /// Answers one event: the event itself if an account may be made, or else an error.
    pub fn handle(&self, event: Value) -> Result<Value, Diagnostic> {
        self.answer(event).map_err(|denied| diagnostic(&denied))
    }

    fn answer(&self, mut event: Value) -> Result<Value, SignUpDenied> {
        let response = event
            .get_mut("response")
            .ok_or(SignUpDenied::MalformedEvent)?;
        // Whatever came in: an account becomes good by the code that Cognito mails, not by us.
        *response = json!({
            "autoConfirmUser": false, "autoVerifyEmail": false, "autoVerifyPhone": false
        });
        self.allow(&event)?;
        Ok(event)
    }

    fn allow(&self, event: &Value) -> Result<(), SignUpDenied> {
        let event = CognitoEventUserPoolsPreSignup::deserialize(event).map_err(|error| {
            // Where the JSON is wrong, not what stands there: that may be somebody's password.
            tracing::error!(kind = ?error.classify(), "the event is not what Cognito sends");
            SignUpDenied::MalformedEvent
        })?;
        match event.cognito_event_user_pools_header.trigger_source {
            // An administrator may skip the sign-up page, but not the rule.
            Some(Source::SignUp | Source::AdminCreateUser) => {}
            // A provider says what it likes about addresses; none is trusted yet.
            Some(Source::ExternalProvider) => return Err(SignUpDenied::ProviderNotAllowed),
            _ => return Err(SignUpDenied::MalformedEvent),
        }
        let email = event.request.user_attributes.get("email");
        let address = email.and_then(|email| EmailAddress::parse(email).ok());
        let address = address.ok_or(SignUpDenied::AddressNotAccepted)?;
        if !self.allowed.allow(address.domain()) {
            tracing::info!(domain = %address.domain(), "a sign-up from a domain that is not allowed");
            return Err(SignUpDenied::DomainNotAllowed);
        }
        tracing::info!(domain = %address.domain(), "a sign-up is let through to Cognito");
        Ok(())
    }
}

#[cfg(test)]
mod tests;

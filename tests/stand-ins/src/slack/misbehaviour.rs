//! How the stand-in fails when it is told to.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;

use super::api::Failure;
use super::arguments::Arguments;

/// What is to go wrong, where, and how often. Without a channel or a user it goes wrong for all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Misbehaviour {
    /// A method, or `*`.
    #[serde(default = "any")]
    method: String,
    /// Only calls about this channel.
    channel: Option<String>,
    /// Only calls about this user, or that stream to them.
    #[serde(alias = "team_user")]
    user: Option<String>,
    /// So many calls; one, if it is not said.
    times: Option<u64>,
    /// So many calls are answered with 429.
    rate_limited: Option<u64>,
    /// After so many seconds the caller may come again.
    retry_after: Option<u64>,
    /// `ok: false` with this error.
    error: Option<String>,
    /// This HTTP status instead of Slack.
    status: Option<u16>,
    /// The answer takes so long.
    stall_seconds: Option<f64>,
    /// What was asked for is done all the same, and only the answer says otherwise.
    #[serde(default)]
    applied: bool,
    /// What streams there is ended, at once, as Slack ends it after minutes.
    #[serde(default)]
    pub(super) end_streams: bool,
}

fn any() -> String {
    "*".to_owned()
}

/// What becomes of one call.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) stall: Option<Duration>,
    pub(super) failure: Option<Failure>,
    pub(super) applied: bool,
}

/// All that is still to go wrong, oldest first.
#[derive(Default)]
pub(super) struct Misbehaviours(Vec<(Misbehaviour, u64)>);

impl Misbehaviour {
    /// The channel, if it is for one only.
    pub(super) fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        let known = |name: &str| super::METHODS.iter().any(|method| method.name == name);
        if self.method != "*" && !known(&self.method) {
            return Err(format!("there is no method {}", self.method));
        }
        let failures = [
            self.rate_limited.is_some(),
            self.error.is_some(),
            self.status.is_some(),
        ];
        let failures = failures.into_iter().filter(|said| *said).count();
        let stall = self.stall_seconds.is_some();
        if failures > 1 {
            return Err("a call fails in one way: rate_limited, error or status".to_owned());
        }
        if failures == 0 && !stall && !self.end_streams {
            return Err("nothing is to go wrong".to_owned());
        }
        if let Some(stall) = self.stall_seconds {
            Duration::try_from_secs_f64(stall).map_err(|error| error.to_string())?;
        }
        if let Some(status) = self.status {
            StatusCode::from_u16(status).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn fits(&self, method: &str, arguments: &Arguments) -> bool {
        let one_of = |wanted: &Option<String>, names: &[&str]| {
            wanted.as_deref().is_none_or(|wanted| {
                let said = names.iter().filter_map(|name| arguments.text(name));
                said.into_iter().any(|said| said == wanted)
            })
        };
        (self.method == "*" || self.method == method)
            && one_of(&self.channel, &["channel", "channel_id"])
            && one_of(&self.user, &["user", "recipient_user_id"])
    }

    fn verdict(&self) -> Verdict {
        let failure = if let Some(error) = &self.error {
            Some(Failure::Named(error.clone()))
        } else if self.rate_limited.is_some() {
            let retry_after = self.retry_after.unwrap_or(1);
            Some(Failure::RateLimited { retry_after })
        } else {
            let status = self.status.and_then(|s| StatusCode::from_u16(s).ok());
            status.map(Failure::Status)
        };
        let stall = self.stall_seconds;
        Verdict {
            stall: stall.and_then(|stall| Duration::try_from_secs_f64(stall).ok()),
            failure,
            applied: self.applied,
        }
    }
}

impl Misbehaviours {
    pub(super) fn add(&mut self, misbehaviour: Misbehaviour) -> Result<(), String> {
        misbehaviour.check()?;
        let times = misbehaviour.rate_limited.or(misbehaviour.times);
        if misbehaviour.verdict().failure.is_some() || misbehaviour.stall_seconds.is_some() {
            self.0.push((misbehaviour, times.unwrap_or(1)));
        }
        Ok(())
    }

    /// What becomes of a call; the oldest that fits it is used up by it.
    pub(super) fn judge(&mut self, method: &str, arguments: &Arguments) -> Verdict {
        self.0.retain(|(_, times)| *times > 0);
        let fitting = self
            .0
            .iter_mut()
            .find(|(misbehaviour, _)| misbehaviour.fits(method, arguments));
        let Some((misbehaviour, times)) = fitting else {
            return Verdict::default();
        };
        *times -= 1;
        misbehaviour.verdict()
    }
}

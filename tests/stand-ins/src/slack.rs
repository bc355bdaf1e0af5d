//! Stand-in for Slack: one workspace in memory, the methods of the Web API that are used here, and a
//! page on which a person can watch its threads grow.
//!
//! It is stricter than Slack where Slack forgives: an argument that no method has, one that is null,
//! or a text that Slack would cut off, is refused, so that a slip of ours does not pass. The names of
//! the errors are those of each method's page, `https://docs.slack.dev/reference/methods/<method>`,
//! and of <https://docs.slack.dev/apis/web-api>; what no page says, and was seen at the real one, is
//! said where it is done. The arguments are held against Slack's own SDK for Python, in
//! `tests/slack_contract.rs`.
//!
//! What no Slack has lies below `/_stand-in/`: members, channels and what members write come in
//! there, threads are read there, and it is told there to misbehave.

mod api;
mod arguments;
mod control;
mod misbehaviour;
mod workspace;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};

pub use arguments::{Argument, METHODS, Method};
pub use workspace::{BOT_USER, TEAM};

use misbehaviour::Misbehaviours;
use workspace::Workspace;

/// Slack itself ends a stream so long after its start, whatever is appended meanwhile. No page says
/// so; it was seen again and again (github.com/slackapi/python-slack-sdk/issues/1859).
pub const STREAM_LIFE: Duration = Duration::from_secs(300);

/// What a workspace is started with.
#[derive(Clone)]
pub struct Settings {
    /// The one token there is: the bot's.
    pub bot_token: String,
    /// How long a stream may be open.
    pub stream_life: Duration,
}

/// A workspace and who may call it.
#[derive(Clone)]
pub struct Slack {
    settings: Settings,
    state: Arc<Mutex<State>>,
}

struct State {
    workspace: Workspace,
    misbehaviours: Misbehaviours,
}

/// Why a stand-in can't be started.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidBotToken;

impl std::fmt::Display for InvalidBotToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bot's token must begin with xoxb-")
    }
}

impl std::error::Error for InvalidBotToken {}

impl Slack {
    /// A workspace with nobody in it but the bot.
    pub fn new(settings: Settings) -> Result<Self, InvalidBotToken> {
        if !settings.bot_token.starts_with("xoxb-") {
            return Err(InvalidBotToken);
        }
        let state = State {
            workspace: Workspace::new(settings.stream_life),
            misbehaviours: Misbehaviours::default(),
        };
        Ok(Self {
            settings,
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/api/{method}", post(api::call).get(api::call))
            .nest("/_stand-in", control::router())
            .with_state(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn page() -> impl IntoResponse {
    // What members and the agent write is put into the page as text, never as markup; if that should
    // fail one day, nothing may be loaded from elsewhere.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'";
    let headers = [
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(include_str!("slack/page.html")))
}

/// The type of a body, without its parameters.
fn content_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

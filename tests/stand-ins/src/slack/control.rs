//! What no Slack has: how a test, or a person, brings people and messages in and looks at threads.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Slack;
use super::api::Failure;
use super::misbehaviour::Misbehaviour;
use super::workspace::TEAM;

/// A mistake of whoever asks, in words.
struct Mistake(String);

impl IntoResponse for Mistake {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": self.0 }))).into_response()
    }
}

impl From<Failure> for Mistake {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Named(error) => Self(error),
            failure => Self(format!("{failure:?}")),
        }
    }
}

impl From<String> for Mistake {
    fn from(mistake: String) -> Self {
        Self(mistake)
    }
}

type Answer = Result<Json<Value>, Mistake>;

pub(super) fn router() -> Router<Slack> {
    Router::new()
        .route("/health", get(async || "ok"))
        .route("/members", post(add_member))
        .route("/channels", post(add_channel))
        .route("/messages", post(add_message))
        .route("/threads/{channel}/{ts}", get(thread))
        .route("/calls/{method}", get(calls))
        .route("/misbehave", post(misbehave))
        .route("/workspace", get(workspace))
}

async fn add_member(
    State(slack): State<Slack>,
    Json(described): Json<Map<String, Value>>,
) -> Answer {
    Ok(Json(slack.state().workspace.add_member(&described)?))
}

/// Either the name of a channel, or the member to whom a direct conversation belongs.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
struct NewChannel {
    name: Option<String>,
    direct: Option<String>,
    /// Nobody has invited the bot.
    #[serde(default)]
    without_bot: bool,
}

async fn add_channel(State(slack): State<Slack>, Json(new): Json<NewChannel>) -> Answer {
    let workspace = &mut slack.state().workspace;
    let id = match (new.name, new.direct) {
        (Some(name), None) => workspace.add_channel(&name, !new.without_bot),
        (None, Some(user)) if !new.without_bot => workspace.direct_channel(&user)?,
        _ => return Err(Mistake("either a name or direct".to_owned())),
    };
    Ok(Json(json!({ "id": id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMessage {
    user: String,
    channel: String,
    thread_ts: Option<String>,
    text: String,
}

async fn add_message(State(slack): State<Slack>, Json(new): Json<NewMessage>) -> Answer {
    let workspace = &mut slack.state().workspace;
    let message = workspace.add_members_message(
        &new.user,
        &new.channel,
        new.thread_ts.as_deref(),
        &new.text,
        Timestamp::now(),
    )?;
    let direct = workspace.partner(&new.channel).is_some();
    Ok(Json(
        json!({ "ts": message.ts, "team_id": TEAM, "direct": direct }),
    ))
}

async fn thread(State(slack): State<Slack>, Path((channel, ts)): Path<(String, String)>) -> Answer {
    let now = Timestamp::now();
    let workspace = &mut slack.state().workspace;
    workspace.end_old_streams(now);
    Ok(Json(workspace.described_thread(&channel, &ts, now)?))
}

async fn calls(State(slack): State<Slack>, Path(method): Path<String>) -> Json<Value> {
    Json(json!({ "calls": slack.state().workspace.calls(&method) }))
}

async fn misbehave(State(slack): State<Slack>, Json(how): Json<Misbehaviour>) -> Answer {
    let state = &mut *slack.state();
    if how.end_streams {
        state.workspace.end_streams_in(how.channel());
    }
    state.misbehaviours.add(how)?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Since {
    revision: Option<u64>,
}

/// Everything; nothing, if nothing has changed since.
async fn workspace(State(slack): State<Slack>, Query(since): Query<Since>) -> Response {
    let now = Timestamp::now();
    let workspace = &mut slack.state().workspace;
    workspace.end_old_streams(now);
    if since.revision == Some(workspace.revision()) {
        return StatusCode::NO_CONTENT.into_response();
    }
    Json(workspace.described(now)).into_response()
}

//! The Web API: what each method does, and what it refuses.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, Method as Verb, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Slack;
use super::arguments::{Arguments, METHODS, Method, Request};
use super::workspace::{BOT_ID, BOT_USER, MessageRef, Recipient, TEAM, Workspace};

/// `markdown_text`: <https://docs.slack.dev/reference/methods/chat.appendStream>. The limit is for
/// one call there; what one streamed message holds in all was seen to be about the same
/// (github.com/CopilotKit/CopilotKit/pull/6064).
const MARKDOWN_CHARACTERS: usize = 12_000;
/// Slack cuts longer texts off: <https://docs.slack.dev/reference/methods/chat.postMessage>.
const TEXT_CHARACTERS: usize = 40_000;
/// `msg_too_long`: <https://docs.slack.dev/reference/methods/chat.update>.
const UPDATED_TEXT_CHARACTERS: usize = 4_000;

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An error of the method or of all methods.
    Named(String),
    /// `invalid_arguments`, and which.
    Arguments(Vec<String>),
    /// HTTP 429.
    RateLimited { retry_after: u64 },
    /// Something in front of Slack answers.
    Status(StatusCode),
}

impl Failure {
    pub(super) fn named(error: &str) -> Self {
        Self::Named(error.to_owned())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Named(error) => Json(json!({ "ok": false, "error": error })).into_response(),
            Self::Arguments(messages) => Json(json!({
                "ok": false,
                "error": "invalid_arguments",
                "response_metadata": { "messages": messages },
            }))
            .into_response(),
            // https://docs.slack.dev/apis/web-api/rate-limits
            Self::RateLimited { retry_after } => (
                StatusCode::TOO_MANY_REQUESTS,
                [(RETRY_AFTER, retry_after.to_string())],
                Json(json!({ "ok": false, "error": "ratelimited" })),
            )
                .into_response(),
            Self::Status(status) => (status, "no server is available").into_response(),
        }
    }
}

/// One call of a method.
pub(super) async fn call(
    State(slack): State<Slack>,
    Path(name): Path<String>,
    verb: Verb,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Failure> {
    let Some(method) = METHODS.iter().find(|method| method.name == name) else {
        return Err(Failure::named("unknown_method"));
    };
    let request = Request::read(method, &verb, &uri, &headers, &body)?;
    match request.token {
        None => return Err(Failure::named("not_authed")),
        Some(token) if token != slack.settings.bot_token => {
            return Err(Failure::named("invalid_auth"));
        }
        Some(_) => {}
    }
    let arguments = request.arguments;
    let verdict = {
        let mut state = slack.state();
        state.workspace.count(method.name);
        state.misbehaviours.judge(method.name, &arguments)
    };
    if let Some(stall) = verdict.stall {
        tokio::time::sleep(stall).await;
    }
    if let Some(failure) = &verdict.failure
        && !verdict.applied
    {
        return Err(failure.clone());
    }
    let answer = arguments.check(method).and_then(|()| {
        let workspace = &mut slack.state().workspace;
        perform(method, &arguments, workspace, Timestamp::now())
    });
    if let Err(refused) = &answer {
        // Whoever looks for why a reply is missing finds it in the pod's log.
        eprintln!("slack: {name}: refused: {refused:?}");
    }
    match verdict.failure {
        Some(failure) => Err(failure),
        None => answer.map(Json),
    }
}

fn perform(
    method: &Method,
    arguments: &Arguments,
    workspace: &mut Workspace,
    now: Timestamp,
) -> Result<Value, Failure> {
    workspace.end_old_streams(now);
    match method.name {
        "auth.test" => Ok(json!({
            "ok": true, "url": "https://carapace.slack.example/", "team": "Carapace",
            "user": "claw", "team_id": TEAM, "user_id": BOT_USER, "bot_id": BOT_ID,
            "is_enterprise_install": false,
        })),
        "users.info" => {
            let user = workspace.member(arguments.required("user"))?;
            Ok(json!({ "ok": true, "user": user }))
        }
        "chat.postMessage" => post_message(arguments, workspace, now),
        "chat.update" => update(arguments, workspace),
        "chat.startStream" => start_stream(arguments, workspace, now),
        "chat.appendStream" => append_stream(arguments, workspace),
        "chat.stopStream" => stop_stream(arguments, workspace),
        "assistant.threads.setStatus" => set_status(arguments, workspace, now),
        _ => Err(Failure::named("unknown_method")),
    }
}

fn post_message(
    arguments: &Arguments,
    workspace: &mut Workspace,
    now: Timestamp,
) -> Result<Value, Failure> {
    let text = content(arguments, TEXT_CHARACTERS)?;
    let channel = workspace.channel(arguments.required("channel"))?;
    let thread = arguments
        .text("thread_ts")
        .map(|ts| workspace.thread(&channel, ts, "thread_not_found"))
        .transpose()?;
    let message = workspace.add_reply(&channel, thread.as_deref(), &text, false, now);
    let shown = workspace.shown(&message)?;
    Ok(json!({ "ok": true, "channel": channel, "ts": message.ts, "message": shown }))
}

fn update(arguments: &Arguments, workspace: &mut Workspace) -> Result<Value, Failure> {
    let text = content(arguments, UPDATED_TEXT_CHARACTERS)?;
    let message = located(arguments, workspace)?;
    let changed = workspace.owned(&message, "cant_update_message")?;
    if changed.is_streaming() {
        return Err(Failure::named("streaming_state_conflict"));
    }
    changed.replace(&text);
    workspace.touch();
    let shown = workspace.shown(&message)?;
    Ok(json!({
        "ok": true, "channel": message.channel, "ts": message.ts, "text": text, "message": shown,
    }))
}

fn start_stream(
    arguments: &Arguments,
    workspace: &mut Workspace,
    now: Timestamp,
) -> Result<Value, Failure> {
    let text = optional_markdown(arguments)?;
    let channel = workspace.channel(arguments.required("channel"))?;
    // The page of the method lists no error for a thread that is not there; this is the one that
    // Slack has for it elsewhere.
    let thread = workspace.thread(
        &channel,
        arguments.required("thread_ts"),
        "thread_not_found",
    )?;
    workspace.check_recipient(
        &channel,
        &Recipient {
            team: arguments.text("recipient_team_id"),
            user: arguments.text("recipient_user_id"),
        },
    )?;
    let text = text.unwrap_or_default();
    let message = workspace.add_reply(&channel, Some(&thread), text, true, now);
    Ok(json!({ "ok": true, "channel": channel, "ts": message.ts }))
}

fn append_stream(arguments: &Arguments, workspace: &mut Workspace) -> Result<Value, Failure> {
    let Some(text) = optional_markdown(arguments)? else {
        return Err(Failure::named("markdown_text_or_chunks_required"));
    };
    let message = located(arguments, workspace)?;
    streaming(workspace, &message, Some(text))?;
    workspace.touch();
    Ok(json!({ "ok": true, "channel": message.channel, "ts": message.ts }))
}

fn stop_stream(arguments: &Arguments, workspace: &mut Workspace) -> Result<Value, Failure> {
    let text = optional_markdown(arguments)?;
    let message = located(arguments, workspace)?;
    streaming(workspace, &message, text)?;
    workspace
        .owned(&message, "message_not_owned_by_app")?
        .end_stream();
    workspace.touch();
    let shown = workspace.shown(&message)?;
    Ok(json!({ "ok": true, "channel": message.channel, "ts": message.ts, "message": shown }))
}

fn set_status(
    arguments: &Arguments,
    workspace: &mut Workspace,
    now: Timestamp,
) -> Result<Value, Failure> {
    let channel = workspace.channel(arguments.required("channel_id"))?;
    let ts = arguments.required("thread_ts");
    let thread = workspace.thread(&channel, ts, "invalid_thread_ts")?;
    workspace.set_status(&channel, &thread, arguments.required("status"), now);
    Ok(json!({ "ok": true }))
}

/// The message that `channel` and `ts` name.
fn located(arguments: &Arguments, workspace: &Workspace) -> Result<MessageRef, Failure> {
    let channel = workspace.channel(arguments.required("channel"))?;
    let ts = arguments.required("ts");
    workspace.message(&channel, ts)
}

/// Adds to a message that streams.
fn streaming(
    workspace: &mut Workspace,
    message: &MessageRef,
    more: Option<&str>,
) -> Result<(), Failure> {
    let message = workspace.owned(message, "message_not_owned_by_app")?;
    if !message.is_streaming() {
        return Err(Failure::named("message_not_in_streaming_state"));
    }
    let more = more.unwrap_or_default();
    if message.text.chars().count() + more.chars().count() > MARKDOWN_CHARACTERS {
        return Err(Failure::named("msg_too_long"));
    }
    message.text.push_str(more);
    Ok(())
}

/// `text` or `markdown_text` of a message that must have one of them.
fn content(arguments: &Arguments, longest_text: usize) -> Result<String, Failure> {
    let (text, longest) = match (arguments.text("text"), arguments.text("markdown_text")) {
        (Some(_), Some(_)) => return Err(Failure::named("markdown_text_conflict")),
        (Some(text), None) => (text, longest_text),
        (None, Some(text)) => (text, MARKDOWN_CHARACTERS),
        (None, None) => return Err(Failure::named("no_text")),
    };
    checked(text, longest).map(str::to_owned)
}

fn optional_markdown(arguments: &Arguments) -> Result<Option<&str>, Failure> {
    arguments
        .text("markdown_text")
        .map(|text| checked(text, MARKDOWN_CHARACTERS))
        .transpose()
}

fn checked(text: &str, longest: usize) -> Result<&str, Failure> {
    match text.chars().count() {
        0 => Err(Failure::named("no_text")),
        characters if characters > longest => Err(Failure::named("msg_too_long")),
        _ => Ok(text),
    }
}

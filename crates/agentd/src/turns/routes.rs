//! The routes of turns.
//!
//! Nothing of a caller's request goes on to OpenClaw but the text: no header, and no name that isn't
//! an id of ours.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use carapace_core::TurnId;
use carapace_core::agentd::{
    CancelResponse, ErrorName, TURN_TEXT_MAX_BYTES, TURNS_PATH, TurnEvent, TurnRequest,
};
use futures::{StreamExt, stream};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::book::{Admission, Ending};
use super::drive::drive;
use crate::control::{Refusal, authenticate_turn};
use crate::{Shared, body};

/// JSON may need six bytes for one of a text.
const MAX_BODY_BYTES: usize = 6 * TURN_TEXT_MAX_BYTES + 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the idle timeout of whatever is in between.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route(TURNS_PATH, post(begin))
        .route(&format!("{TURNS_PATH}/{{id}}"), get(attach).delete(cancel))
}

async fn begin(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    authenticate_turn(&shared, &head.headers).await?;
    let body = body::read(body, MAX_BODY_BYTES, BODY_TIMEOUT).await?;
    let turn: TurnRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal::new(ErrorName::MalformedRequest, error.to_string()))?;
    if turn.text.len() > TURN_TEXT_MAX_BYTES {
        return Err(ErrorName::BodyTooLarge.into());
    }
    if turn.text.trim().is_empty() {
        let message = "the text is blank";
        return Err(Refusal::new(ErrorName::MalformedRequest, message));
    }
    let TurnRequest {
        id,
        conversation,
        text,
    } = turn;
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    let admitted = shared
        .turns
        .change(|book| book.admit(&id, &conversation, fingerprint))?;
    if admitted == Admission::New {
        // A task of its own: the caller may leave.
        tokio::spawn(drive(Arc::clone(&shared), id.clone(), conversation, text));
    }
    Ok(events(shared, id, 0))
}

#[derive(Deserialize)]
struct From {
    #[serde(default)]
    from: u64,
}

async fn attach(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    from: Result<Query<From>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    authenticate_turn(&shared, &headers).await?;
    let id = known(&shared, id)?;
    let Ok(Query(From { from })) = from else {
        let message = "from must be the number of an event";
        return Err(Refusal::new(ErrorName::MalformedRequest, message));
    };
    Ok(events(shared, id, from))
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<CancelResponse>, Refusal> {
    authenticate_turn(&shared, &headers).await?;
    let id = known(&shared, id)?;
    let ending = Ending(ErrorName::TurnCancelled);
    let cancelling = shared.turns.change(|book| book.stop(&id, ending));
    Ok(Json(CancelResponse {
        cancelling: cancelling.unwrap_or(false),
    }))
}

fn known(shared: &Shared, id: String) -> Result<TurnId, Refusal> {
    let id = TurnId::parse(id).map_err(|_| ErrorName::TurnNotFound)?;
    let is_known = shared.turns.book().after(&id, 0).is_some();
    Ok(is_known.then_some(id).ok_or(ErrorName::TurnNotFound)?)
}

/// All events behind event `from`: those there are, then each as it comes.
fn events(shared: Arc<Shared>, id: TurnId, from: u64) -> Response {
    let batches = stream::unfold(Some(from), move |from| {
        let (shared, id) = (Arc::clone(&shared), id.clone());
        async move {
            let from = from?;
            let replay = shared
                .turns
                .until(|book| {
                    let replay = book.after(&id, from);
                    let news =
                        |replay: &super::book::Replay| replay.ended || !replay.events.is_empty();
                    // A turn that was forgotten has nothing more to tell.
                    replay.as_ref().is_none_or(news).then_some(replay)
                })
                .await?;
            let last = replay.events.last().map_or(from, |(number, _)| *number);
            let next = (!replay.ended).then_some(last);
            Some((stream::iter(replay.events), next))
        }
    });
    let events = batches
        .flatten()
        .map(|(number, event)| Ok::<_, Infallible>(event_of(number, &event)));
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

fn event_of(number: u64, event: &TurnEvent) -> Event {
    let mut json = serde_json::to_value(event).unwrap_or_default();
    // JSON has no line breaks of its own, so that this is one line.
    Event::default()
        .id(number.to_string())
        .event(event.name())
        .data(json["data"].take().to_string())
}

//! What every line of a step's log says: which step, for whom, in which conversation, on behalf of
//! which message. What is said in a conversation is nobody's business but its user's, and is never
//! logged.

use carapace_core::{ConversationId, EventId, UserKey};
use tracing::{
    Span,
    field::{Empty, display},
    info_span,
};

/// The span of one invocation. Its fields are filled in as they become known, so that an error
/// that is raised before still belongs to a step.
pub(crate) fn step(step: &'static str) -> Span {
    info_span!(
        "step",
        step,
        user_key = Empty,
        conversation = Empty,
        event_id = Empty
    )
}

/// Fills in whose conversation the invocation is about.
pub(crate) fn about(user: &UserKey, conversation: &ConversationId) {
    let span = Span::current();
    span.record("user_key", display(user));
    span.record("conversation", display(conversation));
}

/// Fills in which message it is about.
pub(crate) fn message(event: &EventId) {
    Span::current().record("event_id", display(event));
}

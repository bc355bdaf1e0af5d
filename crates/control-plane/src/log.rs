//! What every line of a step's log says: which step, for whom, on behalf of which event. What the
//! user pool knows of a person, their account's name among it, is never logged.

use carapace_core::{ClaimName, CorrelationId, EventId, SandboxName, UserKey};
use tracing::{
    Span,
    field::{Empty, display},
    info_span,
};

/// The span of one invocation. Its fields are filled in as they become known, so that an error
/// that is raised before still belongs to a step.
pub fn step(step: &'static str) -> Span {
    info_span!(
        "step",
        step,
        user_key = Empty,
        event_id = Empty,
        correlation_id = Empty,
        claim = Empty,
        sandbox = Empty
    )
}

/// Fills in whom the invocation is about.
pub fn about(user: &UserKey, event: &EventId, correlation_id: Option<&CorrelationId>) {
    let span = Span::current();
    span.record("user_key", display(user));
    span.record("event_id", display(event));
    if let Some(id) = correlation_id {
        span.record("correlation_id", display(id));
    }
}

/// Fills in which sandbox it is about.
pub fn sandbox(claim: &ClaimName, sandbox: &SandboxName) {
    let span = Span::current();
    span.record("claim", display(claim));
    span.record("sandbox", display(sandbox));
}

//! What the steps hand to each other through the state machine.

pub use carapace_control_plane::lambda::INPUT_REJECTED;
pub(crate) use carapace_control_plane::lambda::{read_payload as read, write_answer as write};
use carapace_core::{
    ConversationId, EventId, Holder, UserKey,
    slack::{Place, profile::NotLinked},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `conversation-accept` takes.
#[derive(Debug, Deserialize)]
pub struct AcceptPayload {
    /// The event, as EventBridge delivered it: a message, or the end of an execution that may have
    /// left messages behind.
    pub event: Value,
    /// The execution's name.
    pub execution: Holder,
}

/// The answer of `conversation-accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Accepted {
    /// This execution has the conversation and serves its messages.
    Run {
        /// Whose agent it is.
        user_key: UserKey,
        /// The conversation.
        conversation: ConversationId,
        /// Whether the agent has to be woken first.
        wake: bool,
        /// Where the reply to the first message goes.
        place: Place,
        /// The first message.
        event_id: EventId,
        /// The number of the newest message that has come to its end.
        done: u64,
    },
    /// The message waits for the execution that has the conversation.
    Queued,
    /// It had been accepted before.
    Duplicate,
    /// There is nothing to do.
    Ignored,
    /// Nobody who may have an agent.
    NotLinked {
        /// Why.
        reason: NotLinked,
        /// The message.
        event_id: EventId,
        /// Where to tell them.
        place: Place,
    },
}

/// What `conversation-turn` takes.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum TurnPayload {
    /// Serve the inbox.
    Run {
        /// Which.
        #[serde(flatten)]
        held: Held,
    },
    /// Give up the message in hand.
    Abandon {
        /// Of which inbox.
        #[serde(flatten)]
        held: Held,
        /// The number of the newest message that the machine knows to have come to its end.
        #[serde(default)]
        done: Option<u64>,
        /// The name of the error that it failed with.
        reason: String,
        /// The error's `Cause`.
        message: String,
    },
}

/// A conversation, and the execution that should have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Held {
    /// Whose agent it is.
    pub user_key: UserKey,
    /// The conversation.
    pub conversation: ConversationId,
    /// The execution's name.
    pub execution: Holder,
}

/// The answer of `conversation-turn`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Turned {
    /// Every message has its end, and the conversation is given back.
    Idle,
    /// Time is up; call again.
    More {
        /// Where the reply goes.
        place: Place,
        /// The message in hand.
        event_id: EventId,
    },
    /// The agent has to be woken before the message in hand can be served.
    Asleep {
        /// Where the reply goes.
        place: Place,
        /// The message in hand.
        event_id: EventId,
    },
    /// The message in hand was given up.
    Abandoned {
        /// It, as an event that can be put back on the bus.
        event: Value,
        /// Its number.
        done: u64,
    },
}

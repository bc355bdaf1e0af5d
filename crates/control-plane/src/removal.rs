//! That somebody is a user no more, as the steps of `user-offboard` hand it to each other.

use carapace_core::{CorrelationId, EventId, Reason, UserKey};
use serde::{Deserialize, Serialize};

/// Whose agent is to be retired: `user-offboard` finds it out, the steps behind it act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalOrder {
    /// The event that said so.
    pub event_id: EventId,
    /// The user.
    pub user_key: UserKey,
    /// Why: `UserDeleted` or `UserDisabled`.
    pub reason: Reason,
    /// Passed on from the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written_with_and_without_a_correlation_id() {
        let wire = json!({
            "event_id": "clawctl.01", "user_key": UserKey::derive("pool", "sub"),
            "reason": "UserDeleted", "correlation_id": "story-1"
        });
        let order: RemovalOrder = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&order).unwrap(), wire);
        let mut short = wire;
        short.as_object_mut().unwrap().remove("correlation_id");
        let order: RemovalOrder = serde_json::from_value(short.clone()).unwrap();
        assert_eq!(serde_json::to_value(&order).unwrap(), short);
    }
}

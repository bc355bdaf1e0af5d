//! Where a test can kill these functions; how is said in [`carapace_control_plane::fault`]. The key
//! of a point is the Slack user's id.

use carapace_core::SlackUserId;

pub use carapace_control_plane::fault::Moment;
#[cfg(test)]
pub(crate) use carapace_control_plane::fault::planned;

/// The points of `conversation-accept`, in the order of a user's first message.
pub const CONVERSATION_ACCEPT: &[&str] = &[ACCEPT_LINK, ACCEPT_RECORD];
/// The points of `conversation-turn`, in the order of a message that is answered in some seconds.
pub const CONVERSATION_TURN: &[&str] = &[
    TURN_TAKE,
    TURN_STATUS,
    TURN_BEGIN,
    TURN_NOTE,
    TURN_OPEN,
    TURN_APPEND,
    TURN_CLOSE,
    TURN_FINISH,
    TURN_RELEASE,
];
/// The points of `conversation-turn` that only some messages come by: a turn that takes long, a
/// place where nothing can be streamed, a call of which nobody knows whether it happened, and a
/// message that is given up.
pub const CONVERSATION_TURN_SELDOM: &[&str] = &[TURN_RENEW, TURN_POST, TURN_UPDATE, ABANDON_FINISH];

pub(crate) const ACCEPT_LINK: &str = "accept.link";
pub(crate) const ACCEPT_RECORD: &str = "accept.record";
pub(crate) const TURN_TAKE: &str = "turn.take";
pub(crate) const TURN_STATUS: &str = "turn.status";
pub(crate) const TURN_BEGIN: &str = "turn.begin";
pub(crate) const TURN_NOTE: &str = "turn.note";
pub(crate) const TURN_OPEN: &str = "turn.open";
pub(crate) const TURN_POST: &str = "turn.post";
pub(crate) const TURN_APPEND: &str = "turn.append";
pub(crate) const TURN_UPDATE: &str = "turn.update";
pub(crate) const TURN_CLOSE: &str = "turn.close";
pub(crate) const TURN_RENEW: &str = "turn.renew";
pub(crate) const TURN_FINISH: &str = "turn.finish";
pub(crate) const TURN_RELEASE: &str = "turn.release";
pub(crate) const ABANDON_FINISH: &str = "abandon.finish";

pub(crate) fn point(user: &SlackUserId, point: &'static str, moment: Moment) {
    #[cfg(not(test))]
    carapace_control_plane::fault::point(user.as_str(), point, moment);
    #[cfg(test)]
    planned::point(user.as_str(), point, moment);
}

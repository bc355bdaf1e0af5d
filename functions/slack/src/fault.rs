//! Where a test can kill these functions; how is said in [`carapace_control_plane::fault`]. The key
//! of a point is the Slack user's id.

use carapace_core::SlackUserId;

pub use carapace_control_plane::fault::Moment;
#[cfg(test)]
pub(crate) use carapace_control_plane::fault::planned;

/// The points of `slack-reply` in a run that tells somebody that they have no agent. Some are passed
/// several times.
pub const SLACK_REPLY: &[&str] = &[REPLY_RECORD, REPLY_OPEN, REPLY_SAY];

pub(crate) const REPLY_RECORD: &str = "reply.record";
pub(crate) const REPLY_OPEN: &str = "reply.open";
pub(crate) const REPLY_SAY: &str = "reply.say";

pub(crate) fn point(user: &SlackUserId, point: &'static str, moment: Moment) {
    #[cfg(not(test))]
    carapace_control_plane::fault::point(user.as_str(), point, moment);
    #[cfg(test)]
    planned::point(user.as_str(), point, moment);
}

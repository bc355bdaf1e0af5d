//! Where a test can kill these functions; how is said in [`carapace_control_plane::fault`]. The key
//! of a point is the user's.

use carapace_core::UserKey;

pub use carapace_control_plane::fault::Moment;

/// The points of `user-onboard`.
pub const USER_ONBOARD: &[&str] = &[ONBOARD_REGISTER, ONBOARD_RECORD];
/// The points of `user-offboard`.
pub const USER_OFFBOARD: &[&str] = &[OFFBOARD_RECORD, OFFBOARD_PURGE, OFFBOARD_FORGET];

pub(crate) const ONBOARD_REGISTER: &str = "onboard.register";
pub(crate) const ONBOARD_RECORD: &str = "onboard.record";
pub(crate) const OFFBOARD_RECORD: &str = "offboard.record";
pub(crate) const OFFBOARD_PURGE: &str = "offboard.purge";
pub(crate) const OFFBOARD_FORGET: &str = "offboard.forget";

pub(crate) fn point(user: &UserKey, point: &'static str, moment: Moment) {
    #[cfg(not(feature = "planned-deaths"))]
    carapace_control_plane::fault::point(user.as_str(), point, moment);
    #[cfg(feature = "planned-deaths")]
    carapace_control_plane::fault::planned::point(user.as_str(), point, moment);
}

/// The point on both sides of a write of the agent's record.
pub(crate) fn at(user: &UserKey, name: &'static str) -> impl Fn(Moment) {
    move |moment| point(user, name, moment)
}

//! Where a test can kill these functions; how is said in [`carapace_control_plane::fault`]. The key
//! of a point is the user's.

use carapace_core::UserKey;

pub use carapace_control_plane::fault::Moment;
#[cfg(test)]
pub(crate) use carapace_control_plane::fault::planned;

/// The points of `sandbox-claim`, in the order of a run that creates and then releases a claim.
pub const SANDBOX_CLAIM: &[&str] = &[
    CLAIM_RECORD,
    CLAIM_APPLY,
    CLAIM_BOUND_RECORD,
    RELEASE_RECORD,
    RELEASE_DELETE,
];
/// The points of `sandbox-bind`.
pub const SANDBOX_BIND: &[&str] = &[BIND_KEY, BIND_AGENTD];
/// The point of `sandbox-bind` that only a binding comes by whose user was removed meanwhile.
pub const SANDBOX_BIND_SELDOM: &[&str] = &[BIND_REVOKE];
/// The points of `sandbox-announce`.
pub const SANDBOX_ANNOUNCE: &[&str] = &[ANNOUNCE_RECORD, ANNOUNCE_PUT, ANNOUNCE_CLEAR];
/// The points of `sandbox-retire`.
pub const SANDBOX_RETIRE: &[&str] = &[RETIRE_DELETE, RETIRE_KEYS];

pub(crate) const CLAIM_RECORD: &str = "claim.record";
pub(crate) const CLAIM_APPLY: &str = "claim.apply";
pub(crate) const CLAIM_BOUND_RECORD: &str = "claim.bound-record";
pub(crate) const RELEASE_RECORD: &str = "release.record";
pub(crate) const RELEASE_DELETE: &str = "release.delete";
pub(crate) const BIND_KEY: &str = "bind.key";
pub(crate) const BIND_AGENTD: &str = "bind.agentd";
pub(crate) const BIND_REVOKE: &str = "bind.revoke";
pub(crate) const ANNOUNCE_RECORD: &str = "announce.record";
pub(crate) const ANNOUNCE_PUT: &str = "announce.put";
pub(crate) const ANNOUNCE_CLEAR: &str = "announce.clear";
pub(crate) const RETIRE_DELETE: &str = "retire.delete";
pub(crate) const RETIRE_KEYS: &str = "retire.keys";

pub(crate) fn point(user: &UserKey, point: &'static str, moment: Moment) {
    #[cfg(not(test))]
    carapace_control_plane::fault::point(user.as_str(), point, moment);
    #[cfg(test)]
    planned::point(user.as_str(), point, moment);
}

/// The point on both sides of a write of the agent's record.
pub(crate) fn at(user: &UserKey, name: &'static str) -> impl Fn(Moment) {
    move |moment| point(user, name, moment)
}

//! What the functions need of the world, one capability per trait, and only the operations that
//! are used. The adapters in `carapace-control-plane` implement them; tests have stateful fakes.

use std::{future::Future, net::IpAddr, time::Duration};

use jiff::Timestamp;

use crate::{
    ChannelId, ClaimName, ClaimUid, ConversationId, EventId, Holder, MessageTs, SandboxName,
    SlackUserId, Sub, TeamId, TurnId, UserKey,
    agent::{Announcement, Change, Known, Version},
    agentd::{BindRequest, ErrorBody, ModelKey, TurnEvent, TurnRequest},
    allowance::Allowance,
    claim::{ClaimView, WantedClaim},
    conversation::{ConversationKey, Lease, LeaseChange, Queued, QueuedChange},
    identity::{IdentityKey, Username},
    reply::Reply,
    slack::{
        Place,
        profile::{Account, SlackProfile},
    },
};

/// Why a service that we depend on did not do its part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It could not be reached, was overloaded or failed: the same may work in a moment.
    #[error("{service} is unavailable: {why}")]
    Unavailable {
        /// Which service.
        service: &'static str,
        /// What it said.
        why: String,
    },
    /// It does not let us, or has no such thing: the same will fail until somebody changes
    /// permissions or configuration.
    #[error("{service} refused: {why}")]
    Refused {
        /// Which service.
        service: &'static str,
        /// What it said.
        why: String,
    },
}

/// What is known about agents and events.
pub trait Ledger {
    /// Reads an agent's record and the outcome of one event.
    fn load(&self, user: &UserKey, event: &EventId)
    -> impl Future<Output = Result<Known, Trouble>>;

    /// Saves a change as a whole or not at all.
    fn save(&self, change: &Change) -> impl Future<Output = Result<Saved, Trouble>>;
}

/// What came of saving a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Saved {
    /// It is durable.
    Yes,
    /// Somebody else saved something since it was read; nothing was written.
    Overtaken,
}

/// The `SandboxClaim`s of the cluster.
pub trait Claims {
    /// Makes sure of a claim, whether or not it is there already.
    fn apply(&self, claim: &WantedClaim) -> impl Future<Output = Result<ClaimView, ClaimTrouble>>;

    /// Reads a claim.
    fn find(&self, name: &ClaimName) -> impl Future<Output = Result<Option<ClaimView>, Trouble>>;

    /// Waits until the claim is other than `seen`, but not longer than `patience`.
    fn next(
        &self,
        seen: &ClaimView,
        patience: Duration,
    ) -> impl Future<Output = Result<ClaimChange, Trouble>>;

    /// Deletes the claim if it is still exactly `seen`.
    fn delete(&self, seen: &ClaimView) -> impl Future<Output = Result<Deleted, Trouble>>;
}

/// Why a claim was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimTrouble {
    /// The API server takes the claim for invalid.
    #[error("the API server rejected the claim: {0}")]
    Rejected(String),
    /// As with every other service.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// What has become of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChange {
    /// It was written.
    Changed(Box<ClaimView>),
    /// It was deleted.
    Gone,
    /// Nothing, in the time given.
    Same,
}

/// What came of deleting a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Deleted {
    /// It is gone, or on its way out.
    Yes,
    /// It was written since it was seen, or is another one by now: look again.
    Changed,
}

/// The bus.
pub trait Bus {
    /// Puts an announcement on it; when this returns, it is accepted.
    fn publish(&self, announcement: &Announcement) -> impl Future<Output = Result<(), Trouble>>;
}

/// The model gateway's keys.
pub trait ModelKeys {
    /// The key of the sandbox that this claim of this user holds, known to the gateway when this
    /// returns. The same again gives the same key. The user may spend no more than `allowance`, all
    /// keys taken together.
    fn issue(
        &self,
        user: &UserKey,
        claim: &ClaimUid,
        allowance: &Allowance,
    ) -> impl Future<Output = Result<ModelKey, ModelKeyTrouble>>;
}

/// The model gateway's users.
pub trait ModelUsers {
    /// Removes a user with all their keys. One that it does not know is no trouble.
    fn remove(&self, user: &UserKey) -> impl Future<Output = Result<(), ModelKeyTrouble>>;
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelKeyTrouble {
    /// The gateway could not be reached or failed.
    #[error("the model gateway is unavailable: {0}")]
    Unavailable(String),
    /// The gateway does not register the key.
    #[error("the model gateway refused the key: {0}")]
    Refused(String),
    /// The master key could not be read.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// The daemon in a sandbox.
pub trait Agentd {
    /// Hands the sandbox to its user, for good. The same again changes nothing; another key takes
    /// the place of the one it had.
    fn bind(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        request: &BindRequest,
    ) -> impl Future<Output = Result<(), BindTrouble>>;
}

/// Why a sandbox was not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindTrouble {
    /// Nothing answers there, or not in time, or it asks to be called again.
    #[error("agentd is unreachable: {0}")]
    Unreachable(String),
    /// It answered, and does not do it.
    #[error("agentd refused: {0}")]
    Refused(String),
    /// It has another user, and keeps that one.
    #[error("the sandbox is bound to another: {0}")]
    BoundToAnother(String),
    /// The call could not be signed.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// Turns of the agent in a sandbox.
pub trait Turns {
    /// How a turn is followed.
    type Stream: TurnStream;

    /// Begins a turn and follows it. The same again follows it from its beginning.
    fn begin(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        user: &UserKey,
        request: &TurnRequest,
    ) -> impl Future<Output = Result<Self::Stream, TurnTrouble>>;

    /// Follows a turn that was begun, behind its event `from`; 0 is the beginning.
    fn attach(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        user: &UserKey,
        turn: &TurnId,
        from: u64,
    ) -> impl Future<Output = Result<Self::Stream, TurnTrouble>>;
}

/// What comes of a turn, as it comes.
pub trait TurnStream {
    /// The next event and its number. `None`: the stream broke off or was ended; unless the event
    /// before was the turn's last, there is more to come for who attaches again.
    fn next(&mut self) -> impl Future<Output = Result<Option<(u64, TurnEvent)>, TurnTrouble>>;
}

/// Why a turn can't be begun or followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnTrouble {
    /// Nothing answers there, or not in time, or it stopped in the middle.
    #[error("agentd is unreachable: {0}")]
    Unreachable(String),
    /// It answered, and does not do it.
    #[error("agentd refused: {:?}, {}", .0.error, .0.message)]
    Refused(ErrorBody),
    /// The call could not be signed.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// Slack, as the app's bot.
pub trait Slack {
    /// Opens a message in the thread that text can be appended to. It is empty.
    fn start_stream(&self, place: &Place) -> impl Future<Output = Result<MessageTs, SlackTrouble>>;

    /// Appends to a message that is open.
    fn append_stream(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> impl Future<Output = Result<(), SlackTrouble>>;

    /// Closes a message that is open, with a last piece of text or without.
    fn stop_stream(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: Option<&str>,
    ) -> impl Future<Output = Result<(), SlackTrouble>>;

    /// Posts a whole message into the thread.
    fn post_message(
        &self,
        place: &Place,
        text: &str,
    ) -> impl Future<Output = Result<MessageTs, SlackTrouble>>;

    /// Replaces all of a message's text.
    fn update(
        &self,
        channel: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> impl Future<Output = Result<(), SlackTrouble>>;

    /// Says in the thread what the agent is doing. The next message takes it away, and so does an
    /// empty text.
    fn set_status(
        &self,
        place: &Place,
        status: &str,
    ) -> impl Future<Output = Result<(), SlackTrouble>>;

    /// What Slack knows about a user.
    fn user(&self, user: &SlackUserId) -> impl Future<Output = Result<SlackProfile, SlackTrouble>>;

    /// The workspace that the app is installed in. It is asked for once.
    fn team(&self) -> impl Future<Output = Result<TeamId, SlackTrouble>>;
}

/// Why Slack did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlackTrouble {
    /// It did nothing, and wants to be left alone for so long.
    #[error("Slack limits the rate of our calls, for the next {} s", .0.as_secs())]
    RateLimited(Duration),
    /// The message is not, or no longer, open for text. It did nothing.
    #[error("the message is not streaming")]
    NotStreaming,
    /// No message can be streamed there; posting one may work.
    #[error("nothing can be streamed there")]
    NotStreamable,
    /// The channel, the thread or the message is gone, or the bot isn't let in.
    #[error("it can't be delivered: {0}")]
    Undeliverable(String),
    /// The bot's token is wrong, revoked, or lacks a scope.
    #[error("Slack does not accept the bot's token: {0}")]
    TokenRejected(String),
    /// It could not be reached or failed. Whether it did what it was asked is not known.
    #[error("Slack is unavailable: {0}")]
    Unavailable(String),
    /// It does not do this, and won't do it the next time.
    #[error("Slack refused: {0}")]
    Refused(String),
    /// The bot's token could not be read.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// The inboxes of conversations, and who serves them.
pub trait Inbox {
    /// Reads a lease; one that isn't there is [`Lease::absent`].
    fn lease(&self, key: &ConversationKey) -> impl Future<Output = Result<Lease, Trouble>>;

    /// Where the message of an event was put, if it was.
    fn seen(&self, event: &EventId) -> impl Future<Output = Result<Option<Seen>, Trouble>>;

    /// Reads a message of an inbox.
    fn queued(
        &self,
        key: &ConversationKey,
        seq: u64,
    ) -> impl Future<Output = Result<Option<Queued>, Trouble>>;

    /// The conversation that an execution took, whether or not it still holds it.
    fn held_by(
        &self,
        holder: &Holder,
    ) -> impl Future<Output = Result<Option<ConversationKey>, Trouble>>;

    /// Saves a change of a lease, and one of a message with it, as a whole or not at all.
    fn save(
        &self,
        change: &LeaseChange,
        queued: Option<&QueuedChange>,
    ) -> impl Future<Output = Result<Saved, Trouble>>;

    /// Saves a change of a message alone.
    fn save_queued(&self, change: &QueuedChange) -> impl Future<Output = Result<Saved, Trouble>>;
}

/// Where the message of an event was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose conversation it was.
    pub user: UserKey,
    /// Which.
    pub conversation: ConversationId,
    /// Its number in the inbox.
    pub seq: u64,
}

/// Who is who: users of Slack and users of the platform.
pub trait Links {
    /// The user that a user of Slack was last found to be.
    fn link(
        &self,
        team: &TeamId,
        user: &SlackUserId,
    ) -> impl Future<Output = Result<Option<Link>, Trouble>>;

    /// Keeps a link until it expires.
    fn save_link(
        &self,
        team: &TeamId,
        user: &SlackUserId,
        link: &Link,
    ) -> impl Future<Output = Result<(), Trouble>>;
}

/// What is kept of a user beside the agent's record: links, inboxes, what was written.
pub trait Possessions {
    /// Deletes up to `most` of it. What was written a moment ago may not be seen yet.
    fn purge(&self, user: &UserKey, most: usize) -> impl Future<Output = Result<Purged, Trouble>>;
}

/// What came of deleting what is kept of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// How many items were deleted.
    pub deleted: usize,
    /// Whether there is more.
    pub more: bool,
}

/// Which account of the user pool a user has, by the name that only Cognito and we know: when the
/// account is gone, there is nobody left to ask.
pub trait Registrations {
    /// The account that a user was onboarded with.
    fn registration(
        &self,
        user: &UserKey,
    ) -> impl Future<Output = Result<Option<Registration>, Trouble>>;

    /// Keeps it.
    fn save_registration(
        &self,
        user: &UserKey,
        registration: &Registration,
    ) -> impl Future<Output = Result<(), Trouble>>;

    /// Deletes it, and the entry of its mailbox if that still names this account.
    fn forget(
        &self,
        user: &UserKey,
        registration: &Registration,
    ) -> impl Future<Output = Result<(), Trouble>>;
}

/// The account that a user was onboarded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name in the user pool.
    pub username: Username,
    /// Its mailbox, if it has one that the policy takes for somebody's.
    pub identity: Option<IdentityKey>,
}

/// That a user of Slack is a user of the platform, for the time being: people leave, and addresses
/// change hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The user of the platform.
    pub user: UserKey,
    /// Until when it may be believed.
    pub expires: Timestamp,
}

/// Replies to messages that are in no inbox.
pub trait Replies {
    /// What has been posted in reply to an event; nothing, in version 0, if none was begun.
    fn reply(&self, event: &EventId) -> impl Future<Output = Result<StoredReply, Trouble>>;

    /// Saves it, if it is still at the version before the one given.
    fn save_reply(
        &self,
        event: &EventId,
        stored: &StoredReply,
    ) -> impl Future<Output = Result<Saved, Trouble>>;
}

/// What has been posted in reply to an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredReply {
    /// The version that was read, or, to be saved, that version and one.
    pub version: Version,
    /// The reply.
    pub reply: Reply,
    /// Whether all of it is said.
    pub done: bool,
}

/// The people who have signed up.
pub trait Directory {
    /// The account of this name, confirmed or not.
    fn account(
        &self,
        username: &Username,
    ) -> impl Future<Output = Result<Option<Account>, Trouble>>;
}

/// The people who have signed up, by what Cognito calls them for ever.
pub trait Roster {
    /// The account with this `sub`, and its name.
    fn by_sub(
        &self,
        sub: &Sub,
    ) -> impl Future<Output = Result<Option<(Username, Account)>, Trouble>>;
}

/// Time, which passes.
pub trait Clock {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// Lets some time pass.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

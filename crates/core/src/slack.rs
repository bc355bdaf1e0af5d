//! Slack, as it reaches us: who really sent it, what it says, and who is behind it.
//!
//! Three questions, in this order. [`signature`]: did Slack send this, and just now? Until that is
//! answered nothing is read. [`webhook`]: is it something that somebody said to the agent? Most of
//! what Slack sends isn't. [`profile`]: is that somebody one of our users? Slack knows an address,
//! the platform knows who has signed up with it; whoever can't be told for certain is nobody.

pub mod profile;
pub mod signature;
pub mod webhook;

use serde::{Deserialize, Serialize};

use crate::{ChannelId, MessageTs, SlackUserId, TeamId};

/// Where a reply goes, and to whom: a thread, and whoever is told there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The workspace.
    pub team_id: TeamId,
    /// The channel or direct message.
    pub channel_id: ChannelId,
    /// The thread: the `ts` of its first message.
    pub thread_ts: MessageTs,
    /// Who said what is replied to.
    pub user_id: SlackUserId,
}

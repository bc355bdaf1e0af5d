//! A Slack workspace that remembers what stands in its threads, and in which order.

use std::{collections::BTreeMap, time::Duration};

use carapace_core::{
    ChannelId, MessageTs, SlackUserId, TeamId,
    ports::{Slack, SlackTrouble},
    slack::{Place, profile::SlackProfile},
};
use jiff::Timestamp;

use super::world::World;

/// A message of the bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) ts: MessageTs,
    pub(super) thread: MessageTs,
    pub(super) text: String,
    pub(super) streaming: bool,
    pub(super) edits: u32,
}

/// What a call meets instead of success.
#[derive(Debug, Clone)]
pub(super) enum Mishap {
    /// Nothing happens, and Slack says this.
    Refused(SlackTrouble),
    /// It happens, and the answer gets lost.
    Unheard,
}

#[derive(Default)]
pub(super) struct Workspace {
    pub(super) posts: Vec<Post>,
    pub(super) members: BTreeMap<SlackUserId, SlackProfile>,
    /// Per method, what its next calls meet.
    pub(super) mishaps: BTreeMap<&'static str, Vec<Mishap>>,
    /// When each call to a method took effect.
    pub(super) calls: Vec<(&'static str, Timestamp)>,
    /// Whether streams can be opened.
    pub(super) streamable: bool,
    pub(super) statuses: Vec<String>,
    /// How long a call is under way, before and after it takes effect.
    pub(super) latency: Duration,
    posted: u32,
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self {
            streamable: true,
            ..Self::default()
        }
    }

    fn post(&mut self, place: &Place, text: &str, streaming: bool) -> MessageTs {
        self.posted += 1;
        let ts = MessageTs::parse(format!("1764000000.{:06}", self.posted)).unwrap();
        self.posts.push(Post {
            ts: ts.clone(),
            thread: place.thread_ts.clone(),
            text: text.to_owned(),
            streaming,
            edits: 0,
        });
        ts
    }

    fn find(&mut self, ts: &MessageTs) -> Result<&mut Post, SlackTrouble> {
        let found = self.posts.iter_mut().find(|post| post.ts == *ts);
        found.ok_or_else(|| SlackTrouble::Refused("message_not_found".into()))
    }

    fn streaming(&mut self, ts: &MessageTs) -> Result<&mut Post, SlackTrouble> {
        let post = self.find(ts)?;
        if post.streaming {
            Ok(post)
        } else {
            Err(SlackTrouble::NotStreaming)
        }
    }
}

impl World {
    /// A call to Slack.
    async fn slack<T>(
        &self,
        method: &'static str,
        effect: impl FnOnce(&mut Workspace) -> Result<T, SlackTrouble>,
    ) -> Result<T, SlackTrouble> {
        let latency = self.look(|state| state.slack.latency);
        self.travel(latency).await;
        let result = self.look_at(|state, now| {
            let slack = &mut state.slack;
            let planned = slack
                .mishaps
                .get_mut(method)
                .filter(|list| !list.is_empty());
            let mishap = planned.map(|list| list.remove(0));
            if let Some(Mishap::Refused(trouble)) = mishap {
                return Err(trouble);
            }
            slack.calls.push((method, now));
            let result = effect(slack);
            match mishap {
                Some(_) => Err(SlackTrouble::Unavailable("no answer".into())),
                None => result,
            }
        });
        self.travel(latency).await;
        result
    }
}

impl Slack for World {
    async fn start_stream(&self, place: &Place) -> Result<MessageTs, SlackTrouble> {
        self.slack("chat.startStream", |slack| {
            if slack.streamable {
                Ok(slack.post(place, "", true))
            } else {
                Err(SlackTrouble::NotStreamable)
            }
        })
        .await
    }

    async fn append_stream(
        &self,
        _: &ChannelId,
        ts: &MessageTs,
        text: &str,
    ) -> Result<(), SlackTrouble> {
        self.slack("chat.appendStream", |slack| {
            slack.streaming(ts)?.text.push_str(text);
            Ok(())
        })
        .await
    }

    async fn stop_stream(
        &self,
        _: &ChannelId,
        ts: &MessageTs,
        text: Option<&str>,
    ) -> Result<(), SlackTrouble> {
        self.slack("chat.stopStream", |slack| {
            let post = slack.streaming(ts)?;
            post.text.push_str(text.unwrap_or_default());
            post.streaming = false;
            Ok(())
        })
        .await
    }

    async fn post_message(&self, place: &Place, text: &str) -> Result<MessageTs, SlackTrouble> {
        self.slack("chat.postMessage", |slack| {
            Ok(slack.post(place, text, false))
        })
        .await
    }

    async fn update(&self, _: &ChannelId, ts: &MessageTs, text: &str) -> Result<(), SlackTrouble> {
        self.slack("chat.update", |slack| {
            let post = slack.find(ts)?;
            if post.streaming {
                return Err(SlackTrouble::Refused("streaming_state_conflict".into()));
            }
            text.clone_into(&mut post.text);
            post.edits += 1;
            Ok(())
        })
        .await
    }

    async fn set_status(&self, _: &Place, status: &str) -> Result<(), SlackTrouble> {
        self.slack("assistant.threads.setStatus", |slack| {
            slack.statuses.push(status.to_owned());
            Ok(())
        })
        .await
    }

    async fn user(&self, user: &SlackUserId) -> Result<SlackProfile, SlackTrouble> {
        self.slack("users.info", |slack| {
            let member = slack.members.get(user).cloned();
            member.ok_or_else(|| SlackTrouble::Refused("user_not_found".into()))
        })
        .await
    }

    async fn team(&self) -> Result<TeamId, SlackTrouble> {
        self.slack("auth.test", |_| Ok(TeamId::parse("T0CARAPACE").unwrap()))
            .await
    }
}

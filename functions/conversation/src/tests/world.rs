//! A table, a cluster, a workspace, a directory and daemons, all in memory and all remembering.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use carapace_core::{
    ClaimName, ClaimUid, ConversationId, EventId, Holder, PoolName, Reason, SandboxName,
    SlackUserId, TeamId, UserKey,
    agent::{AgentRecord, AgentState, Assigned, Change, Held, Known, Retirement, Version},
    claim::{ClaimView, Condition, WantedClaim},
    conversation::{ConversationKey, Lease, LeaseChange, Queued, QueuedChange, TurnOutcome},
    email::EmailAddress,
    identity::{Entries, Entry, IdentityKey, Policies, Username},
    policy::Policy,
    ports::{
        ClaimChange, ClaimTrouble, Claims, Clock, Deleted, Directory, Inbox, Ledger, Link, Links,
        Replies, Saved, Seen, StoredReply, Trouble,
    },
    slack::profile::{Account, SlackProfile},
};
use carapace_test_support::Time;
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use super::{daemon::Daemon, workspace::Workspace};
use crate::{accept::AcceptMessage, turn::ServeInbox};

/// The world, shared by everybody in it.
#[derive(Clone)]
pub(super) struct World {
    state: Rc<RefCell<State>>,
    pub(super) time: Time,
}

type Conversation = (UserKey, ConversationId);

pub(super) struct State {
    leases: BTreeMap<Conversation, Lease>,
    messages: BTreeMap<(Conversation, u64), Queued>,
    once: BTreeMap<EventId, Seen>,
    holders: BTreeMap<Holder, ConversationKey>,
    pub(super) links: BTreeMap<(TeamId, SlackUserId), Link>,
    /// What those were told who have no agent.
    pub(super) told: BTreeMap<EventId, StoredReply>,
    pub(super) agents: BTreeMap<UserKey, AgentRecord>,
    pub(super) claims: BTreeMap<ClaimName, ClaimView>,
    /// Whose each sandbox is. It never forgets.
    pub(super) sandboxes: BTreeMap<SandboxName, UserKey>,
    pub(super) policy: Result<Arc<Policy>, Trouble>,
    /// For which account each mailbox was entered.
    entries: BTreeMap<String, Entry>,
    /// By their usernames.
    pub(super) accounts: BTreeMap<String, Account>,
    /// How often the directory was asked.
    pub(super) asked: u32,
    pub(super) slack: Workspace,
    pub(super) daemon: Daemon,
    /// How often an agent was woken.
    pub(super) wakes: u32,
    pub(super) cannot_wake: bool,
    /// How long an invocation of conversation-turn serves.
    pub(super) slice: Duration,
    /// How many writes of messages and leases will be refused yet, because others are at it.
    pub(super) conflicts: u32,
}

pub(super) const MEMBER: &str = "U0ADA";

const POOL: &str = "eu-central-1_Pool";

/// The user that the member is.
pub(super) fn user() -> UserKey {
    UserKey::derive(POOL, "sub-ada")
}

impl World {
    /// A world with one member, who has an account and an agent that is awake.
    pub(super) fn new() -> Self {
        Self::seeded(1)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        let world = Self {
            state: Rc::new(RefCell::new(State {
                leases: BTreeMap::new(),
                messages: BTreeMap::new(),
                once: BTreeMap::new(),
                holders: BTreeMap::new(),
                links: BTreeMap::new(),
                told: BTreeMap::new(),
                agents: BTreeMap::new(),
                claims: BTreeMap::new(),
                sandboxes: BTreeMap::new(),
                policy: Ok(policy("same_identity")),
                entries: BTreeMap::new(),
                accounts: BTreeMap::new(),
                asked: 0,
                slack: Workspace::new(),
                daemon: Daemon::default(),
                wakes: 0,
                cannot_wake: false,
                slice: Duration::from_secs(60),
                conflicts: 0,
            })),
            time: Time::seeded(seed),
        };
        world.look(|state| {
            let member = SlackUserId::parse(MEMBER).unwrap();
            state.slack.members.insert(member, profile());
        });
        world.sign_up(
            "ada@example.com",
            "ada",
            account("sub-ada", "ada@example.com"),
        );
        world.make_agent();
        world
    }

    /// A mailbox is entered for an account.
    pub(super) fn sign_up(&self, mailbox: &str, username: &str, account: Account) {
        self.look_at(|state, at| {
            let mailbox = EmailAddress::parse(mailbox).unwrap();
            let policy = state.policy.as_ref().unwrap();
            let key = IdentityKey::derive(POOL, &policy.identity(&mailbox).unwrap());
            let entry = Entry {
                username: Username::parse(username).unwrap(),
                at,
            };
            state.entries.insert(key.as_str().to_owned(), entry);
            state.accounts.insert(username.to_owned(), account);
        });
    }

    /// A world in which the agent is asleep.
    pub(super) fn asleep() -> Self {
        let world = Self::new();
        world.lose_agent();
        world
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&mut State) -> T) -> T {
        at(&mut self.state.borrow_mut())
    }

    pub(super) fn look_at<T>(&self, at: impl FnOnce(&mut State, Timestamp) -> T) -> T {
        let now = self.time.now();
        at(&mut self.state.borrow_mut(), now)
    }

    pub(super) async fn others(&self) {
        self.time.others().await;
    }

    pub(super) async fn until(&self, until: Timestamp) {
        self.time.until(until).await;
    }

    /// Something is on its way for so long.
    pub(super) async fn travel(&self, latency: Duration) {
        self.others().await;
        if !latency.is_zero() {
            self.time.sleep(latency).await;
        }
    }

    /// Lets others run, then does something, then lets others run before its result is seen.
    async fn call<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        self.time.amid_others(|| self.look(effect)).await
    }

    pub(super) fn accept(&self) -> AcceptMessage<World, World, World, World, World, Time> {
        AcceptMessage {
            table: self.clone(),
            slack: self.clone(),
            policies: self.clone(),
            identities: self.clone(),
            directory: self.clone(),
            clock: self.time.clone(),
            pool: POOL.parse().unwrap(),
        }
    }

    pub(super) fn turn(&self) -> ServeInbox<World, World, World, World, Time> {
        ServeInbox {
            table: self.clone(),
            claims: self.clone(),
            slack: self.clone(),
            turns: self.clone(),
            clock: self.time.clone(),
            slice: self.look(|state| state.slice),
        }
    }

    /// What `sandbox-create` does, as far as it matters here.
    pub(super) async fn wake(&self, accepted: &Value) -> Result<Value, Diagnostic> {
        self.time.sleep(Duration::from_secs(3)).await;
        assert_eq!(accepted["user_key"], user().as_str());
        let cannot = self.look(|state| {
            state.wakes += 1;
            state.cannot_wake
        });
        if cannot {
            return Err(Diagnostic {
                error_type: "States.TaskFailed".into(),
                error_message: "PoolNotFound".into(),
            });
        }
        self.make_agent();
        Ok(json!({}))
    }

    /// The agent is ready, in its sandbox or else in a new one.
    pub(super) fn make_agent(&self) {
        self.look_at(|state, now| {
            let name = ClaimName::of(&user());
            if state.claims.contains_key(&name) {
                return;
            }
            let number = state.sandboxes.len() + 1;
            let sandbox = SandboxName::parse(format!("agents-{number}")).unwrap();
            let uid = ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-{number:012x}")).unwrap();
            state.sandboxes.insert(sandbox.clone(), user());
            state.daemon.forget();
            let ready = Condition {
                is_true: true,
                reason: "DependenciesReady".into(),
                message: String::new(),
                observed_generation: Some(1),
            };
            let claim = ClaimView {
                name: name.clone(),
                uid: uid.clone(),
                resource_version: "1".into(),
                generation: 1,
                created_at: now,
                terminating: false,
                event: None,
                ready: Some(ready),
                sandbox: Some(sandbox.clone()),
                pod_ips: vec!["10.244.0.7".parse().unwrap()],
            };
            state.claims.insert(name, claim);
            let held = Held {
                event: EventId::parse("wake").unwrap(),
                pool: PoolName::parse("agents").unwrap(),
                assigned: Assigned { uid, sandbox },
            };
            let record = AgentRecord {
                version: Version(1),
                state: AgentState::Ready(held),
                ..AgentRecord::absent(user())
            };
            state.agents.insert(user(), record);
        });
    }

    /// The user is one no more, for all that the record says.
    pub(super) fn retire(&self) {
        self.lose_claim();
        self.look(|state| {
            let retirement = Retirement {
                event: EventId::parse("removal").unwrap(),
                reason: Reason::of_error("UserDisabled"),
            };
            let record = AgentRecord {
                version: Version(2),
                state: AgentState::Retiring(retirement),
                ..AgentRecord::absent(user())
            };
            state.agents.insert(user(), record);
        });
    }

    /// The agent, its claim and its sandbox are gone, and its record says so.
    pub(super) fn lose_agent(&self) {
        self.lose_claim();
        self.look(|state| state.agents.clear());
    }

    /// Its claim and its sandbox are gone, behind everybody's back.
    pub(super) fn lose_claim(&self) {
        self.look(|state| {
            state.claims.clear();
            state.daemon.forget();
        });
    }

    /// What the bot's messages in a thread say, those that say something.
    pub(super) fn replies(&self, thread: &str) -> Vec<String> {
        self.look(|state| {
            let posts = state.slack.posts.iter();
            let posts = posts.filter(|post| post.thread.as_str() == thread);
            let said = posts.filter(|post| !post.text.is_empty());
            said.map(|post| post.text.clone()).collect()
        })
    }

    /// What came of the messages of the user's only conversation, in order.
    pub(super) fn outcomes(&self) -> Vec<Option<TurnOutcome>> {
        self.look(|state| {
            let messages = state.messages.values();
            messages.map(|queued| queued.outcome.clone()).collect()
        })
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        self.look(|state| {
            let mut held = state.leases.values().filter_map(|lease| lease.held.clone());
            held.next().map(|hold| hold.holder)
        })
    }

    /// What has to hold when everything has come to rest.
    pub(super) fn check(&self) {
        self.look(|state| {
            for (key, lease) in &state.leases {
                assert_eq!(lease.held, None, "{key:?} is still held");
                assert_eq!(lease.next(), None, "{key:?} has messages that wait");
            }
            for queued in state.messages.values() {
                assert!(queued.outcome.is_some(), "{queued:?}");
            }
            for post in &state.slack.posts {
                let empty = post.text.is_empty();
                assert!(empty || !post.streaming, "{post:?} still grows");
            }
        });
    }
}

pub(super) fn policy(tags: &str) -> Arc<Policy> {
    let policy = json!({
        "version": 1, "allowed_domains": ["example.com"], "plus_tags": tags,
        "blocked_addresses": ["eve@example.com"], "sign_ups_per_domain_per_hour": 1
    });
    Arc::new(Policy::parse(&policy.to_string()).unwrap())
}

pub(super) fn account(sub: &str, email: &str) -> Account {
    Account {
        sub: sub.into(),
        address: Some(EmailAddress::parse(email).unwrap()),
        confirmed: true,
        email_verified: true,
        enabled: true,
    }
}

fn profile() -> SlackProfile {
    SlackProfile {
        id: SlackUserId::parse(MEMBER).unwrap(),
        team_id: TeamId::parse("T0CARAPACE").unwrap(),
        deleted: false,
        is_bot: false,
        is_app_user: false,
        is_restricted: false,
        is_ultra_restricted: false,
        is_stranger: false,
        is_email_confirmed: true,
        email: Some("ada@example.com".into()),
    }
}

fn conversation(key: &ConversationKey) -> Conversation {
    (key.user.clone(), key.id.clone())
}

impl State {
    fn put_queued(&mut self, queued: &Queued, read: Version) -> bool {
        let key = (conversation(&queued.key), queued.seq);
        let before = self.messages.get(&key).map(|queued| queued.version);
        if before.unwrap_or_default() != read {
            return false;
        }
        self.messages.insert(key, queued.clone());
        true
    }

    fn is_over(&self, user: &UserKey) -> bool {
        let agent = self.agents.get(user);
        agent.is_some_and(|agent| agent.state.is_over())
    }

    fn conflict(&mut self) -> bool {
        let conflict = self.conflicts > 0;
        self.conflicts = self.conflicts.saturating_sub(1);
        conflict
    }

    fn save(&mut self, change: &LeaseChange, queued: Option<&QueuedChange>) -> Saved {
        let key = conversation(&change.lease.key);
        let version = self.leases.get(&key).map(|lease| lease.version);
        if self.conflict() || version.unwrap_or_default() != change.read {
            return Saved::Overtaken;
        }
        if change.append.is_some() && self.is_over(&change.lease.key.user) {
            return Saved::Overtaken;
        }
        if let Some(event) = &change.once
            && self.once.get(event).map(|seen| seen.seq) != change.once_read
        {
            return Saved::Overtaken;
        }
        if let Some(queued) = queued
            && !self.put_queued(&queued.queued, queued.read)
        {
            return Saved::Overtaken;
        }
        if let Some(append) = &change.append {
            assert!(
                self.put_queued(append, Version(0)),
                "{append:?} takes the place of another"
            );
            let seen = Seen {
                user: append.key.user.clone(),
                conversation: append.key.id.clone(),
                seq: append.seq,
            };
            self.once.insert(append.message.id.clone(), seen);
        }
        if let Some(holder) = &change.holder {
            self.holders
                .insert(holder.clone(), change.lease.key.clone());
        }
        self.leases.insert(key, change.lease.clone());
        Saved::Yes
    }
}

impl Inbox for World {
    async fn lease(&self, key: &ConversationKey) -> Result<Lease, Trouble> {
        let lease = self.call(|state| state.leases.get(&conversation(key)).cloned());
        Ok(lease.await.unwrap_or_else(|| Lease::absent(key.clone())))
    }

    async fn seen(&self, event: &EventId) -> Result<Option<Seen>, Trouble> {
        Ok(self.call(|state| state.once.get(event).cloned()).await)
    }

    async fn queued(&self, key: &ConversationKey, seq: u64) -> Result<Option<Queued>, Trouble> {
        let key = (conversation(key), seq);
        Ok(self.call(|state| state.messages.get(&key).cloned()).await)
    }

    async fn held_by(&self, holder: &Holder) -> Result<Option<ConversationKey>, Trouble> {
        Ok(self.call(|state| state.holders.get(holder).cloned()).await)
    }

    async fn save(
        &self,
        change: &LeaseChange,
        queued: Option<&QueuedChange>,
    ) -> Result<Saved, Trouble> {
        Ok(self.call(|state| state.save(change, queued)).await)
    }

    async fn save_queued(&self, change: &QueuedChange) -> Result<Saved, Trouble> {
        let save = |state: &mut State| {
            if !state.conflict() && state.put_queued(&change.queued, change.read) {
                Saved::Yes
            } else {
                Saved::Overtaken
            }
        };
        Ok(self.call(save).await)
    }
}

impl Replies for World {
    async fn reply(&self, event: &EventId) -> Result<StoredReply, Trouble> {
        let told = self.call(|state| state.told.get(event).cloned()).await;
        Ok(told.unwrap_or_default())
    }

    async fn save_reply(&self, _: &EventId, _: &StoredReply) -> Result<Saved, Trouble> {
        panic!("a conversation tells nobody that they have no agent")
    }
}

impl Links for World {
    async fn link(&self, team: &TeamId, user: &SlackUserId) -> Result<Option<Link>, Trouble> {
        let key = (team.clone(), user.clone());
        Ok(self.call(|state| state.links.get(&key).cloned()).await)
    }

    async fn save_link(
        &self,
        team: &TeamId,
        user: &SlackUserId,
        link: &Link,
    ) -> Result<(), Trouble> {
        let key = (team.clone(), user.clone());
        let save = |state: &mut State| {
            state.links.insert(key, link.clone());
        };
        self.call(save).await;
        Ok(())
    }
}

impl Ledger for World {
    async fn load(&self, user: &UserKey, _: &EventId) -> Result<Known, Trouble> {
        let agent = self.call(|state| state.agents.get(user).cloned()).await;
        let agent = agent.unwrap_or_else(|| AgentRecord::absent(user.clone()));
        Ok(Known {
            agent,
            outcome: None,
        })
    }

    async fn save(&self, _: &Change) -> Result<Saved, Trouble> {
        panic!("a conversation changes no agent")
    }
}

impl Claims for World {
    async fn find(&self, name: &ClaimName) -> Result<Option<ClaimView>, Trouble> {
        Ok(self.call(|state| state.claims.get(name).cloned()).await)
    }

    async fn apply(&self, _: &WantedClaim) -> Result<ClaimView, ClaimTrouble> {
        panic!("a conversation makes no claim")
    }

    async fn next(&self, _: &ClaimView, _: Duration) -> Result<ClaimChange, Trouble> {
        panic!("a conversation watches no claim")
    }

    async fn delete(&self, _: &ClaimView) -> Result<Deleted, Trouble> {
        panic!("a conversation deletes no claim")
    }
}

impl Policies for World {
    async fn policy(&self) -> Result<Arc<Policy>, Trouble> {
        self.call(|state| state.policy.clone()).await
    }
}

impl Entries for World {
    async fn entry(&self, key: &IdentityKey) -> Result<Option<Entry>, Trouble> {
        let entry = self.call(|state| state.entries.get(key.as_str()).cloned());
        Ok(entry.await)
    }
}

impl Directory for World {
    async fn account(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        let account = |state: &mut State| {
            state.asked += 1;
            state.accounts.get(username.as_str()).cloned()
        };
        Ok(self.call(account).await)
    }
}

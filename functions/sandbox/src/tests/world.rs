//! A table, a cluster, a bus, a model gateway and daemons, all in memory and all remembering.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use carapace_core::{
    ClaimName, ClaimUid, EventId, PoolName, SandboxName, Sub, UserKey,
    agent::{AgentRecord, AgentState, Announcement, Change, Known, Outcome},
    agentd::{BindRequest, ModelKey},
    allowance::Allowance,
    claim::{ClaimView, Condition, WantedClaim},
    email::EmailAddress,
    history::{self, Entry},
    identity::{IdentityKey, Policies, Username},
    model_key::MasterKey,
    policy::Policy,
    ports::{
        Agentd, BindTrouble, Bus, ClaimChange, ClaimTrouble, Claims, Clock, Deleted, Directory,
        Ledger, ModelKeyTrouble, ModelKeys, ModelUsers, Possessions, Purged, Registration,
        Registrations, Roster, Saved, Trouble,
    },
    slack::profile::Account,
};
use carapace_test_support::Time;
use jiff::{SignedDuration, Timestamp};

/// The user pool.
pub(super) const POOL: &str = "eu-central-1_Pool";

fn policy() -> Policy {
    let policy = r#"{
        "version": 1, "allowed_domains": ["example.com"], "plus_tags": "same_identity",
        "blocked_addresses": [], "sign_ups_per_domain_per_hour": 1
    }"#;
    Policy::parse(policy).unwrap()
}

/// The world, shared by everybody in it.
#[derive(Clone)]
pub(super) struct World {
    state: Rc<RefCell<State>>,
    pub(super) time: Time,
}

pub(super) struct State {
    agents: BTreeMap<UserKey, AgentRecord>,
    pub(super) outcomes: BTreeMap<EventId, Outcome>,
    pub(super) history: BTreeMap<UserKey, Vec<Entry>>,
    pub(super) cluster: Cluster,
    /// What was put on the bus, in order, copies and all.
    pub(super) bus: Vec<(&'static str, EventId)>,
    /// How many calls to the bus will fail yet.
    pub(super) bus_failures: u32,
    pub(super) master_key: &'static str,
    pub(super) keys: BTreeMap<String, UserKey>,
    /// What each user whom the gateway knows may spend.
    pub(super) spenders: BTreeMap<UserKey, Allowance>,
    /// How long the next call to make a key is on its way.
    pub(super) key_delay: Duration,
    /// How many calls to remove a user from the gateway will fail yet.
    pub(super) gateway_failures: u32,
    /// By their usernames.
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) registrations: BTreeMap<UserKey, Registration>,
    /// For whose username each mailbox is entered.
    pub(super) identities: BTreeMap<String, Username>,
    /// How many links, leases and messages there are of each user.
    pub(super) possessions: BTreeMap<UserKey, usize>,
    /// Whose each sandbox is, and with which key. It never forgets.
    pub(super) bound: BTreeMap<SandboxName, (UserKey, ModelKey)>,
    /// How many calls to a daemon will find nobody.
    pub(super) agentd_failures: u32,
    /// How long whoever writes the table next is frozen after that, as a function may be.
    pub(super) freeze: Option<SignedDuration>,
}

/// A cluster with a controller that is as quick as the tests want.
pub(super) struct Cluster {
    claims: BTreeMap<ClaimName, ClaimView>,
    pools: BTreeMap<PoolName, Pool>,
    written: u64,
    pub(super) created: u32,
    /// Claims that stay for a while after they were deleted.
    pub(super) finalizer: SignedDuration,
    gone_at: BTreeMap<ClaimUid, Timestamp>,
}

#[derive(Default)]
struct Pool {
    /// When each warm sandbox becomes available.
    warm: Vec<(Timestamp, SandboxName)>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::seeded(1)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        let state = State {
            agents: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            history: BTreeMap::new(),
            cluster: Cluster {
                claims: BTreeMap::new(),
                pools: BTreeMap::from([(PoolName::parse("agents").unwrap(), Pool::default())]),
                written: 0,
                created: 0,
                finalizer: SignedDuration::ZERO,
                gone_at: BTreeMap::new(),
            },
            bus: Vec::new(),
            bus_failures: 0,
            master_key: "sk-master-key",
            keys: BTreeMap::new(),
            spenders: BTreeMap::new(),
            key_delay: Duration::ZERO,
            gateway_failures: 0,
            accounts: BTreeMap::new(),
            registrations: BTreeMap::new(),
            identities: BTreeMap::new(),
            possessions: BTreeMap::new(),
            bound: BTreeMap::new(),
            agentd_failures: 0,
            freeze: None,
        };
        let world = Self {
            state: Rc::new(RefCell::new(state)),
            time: Time::seeded(seed),
        };
        world.stock("agents-1", 0);
        world.stock("agents-2", 0);
        world
    }

    /// A world whose pool is empty.
    pub(super) fn without_stock() -> Self {
        let world = Self::new();
        world.look(|state| {
            state
                .cluster
                .pools
                .values_mut()
                .for_each(|pool| pool.warm.clear());
        });
        world
    }

    /// A warm sandbox that is there after so many seconds.
    pub(super) fn stock(&self, sandbox: &str, seconds: i64) {
        self.look(|state| {
            let at = self.time.now() + SignedDuration::from_secs(seconds);
            let sandbox = SandboxName::parse(sandbox).unwrap();
            state
                .cluster
                .pools
                .values_mut()
                .for_each(|pool| pool.warm.push((at, sandbox.clone())));
        });
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&mut State) -> T) -> T {
        at(&mut self.state.borrow_mut())
    }

    pub(super) fn agent(&self, user: &UserKey) -> AgentState {
        self.look(|state| {
            state
                .agents
                .get(user)
                .map_or(AgentState::Absent, |a| a.state.clone())
        })
    }

    pub(super) fn record(&self, user: &UserKey) -> Option<AgentRecord> {
        self.look(|state| state.agents.get(user).cloned())
    }

    /// Somebody has signed up; this is the name of their account.
    pub(super) fn sign_up(&self, username: &str, sub: &str, email: &str) {
        let address = EmailAddress::parse(email).unwrap();
        let mailbox = policy().identity(&address).unwrap();
        let identity = IdentityKey::derive(POOL, &mailbox);
        let account = Account {
            sub: sub.to_owned(),
            address: Some(address),
            confirmed: true,
            email_verified: true,
            enabled: true,
        };
        self.look(|state| {
            let username = Username::parse(username).unwrap();
            state.accounts.insert(username.as_str().to_owned(), account);
            state
                .identities
                .insert(identity.as_str().to_owned(), username);
        });
    }

    pub(super) fn disable(&self, username: &str) {
        self.look(|state| state.accounts.get_mut(username).unwrap().enabled = false);
    }

    pub(super) fn enable(&self, username: &str) {
        self.look(|state| state.accounts.get_mut(username).unwrap().enabled = true);
    }

    pub(super) fn delete_account(&self, username: &str) {
        self.look(|state| state.accounts.remove(username)).unwrap();
    }

    pub(super) fn claim(&self, user: &UserKey) -> Option<ClaimView> {
        self.look(|state| state.cluster.claims.get(&ClaimName::of(user)).cloned())
    }

    /// Somebody deletes a claim behind everybody's back.
    pub(super) fn lose_claim(&self, user: &UserKey) {
        self.look(|state| state.cluster.claims.remove(&ClaimName::of(user)))
            .unwrap();
    }

    /// The pod of the user's sandbox ends for good.
    pub(super) fn fail_pod(&self, user: &UserKey) {
        self.write_claim(user, |claim| {
            claim.ready = Some(not_ready("PodFailed"));
            claim.pod_ips.clear();
        });
    }

    /// The controller gives the user's claim another sandbox than the one it had.
    pub(super) fn replace_sandbox(&self, user: &UserKey, sandbox: &str) {
        self.write_claim(user, |claim| {
            claim.sandbox = Some(SandboxName::parse(sandbox).unwrap());
        });
    }

    /// The controller does not find the pool of the user's claim.
    pub(super) fn miss_pool(&self, user: &UserKey) {
        self.write_claim(user, |claim| {
            claim.ready = Some(not_ready("WarmPoolNotFound"));
        });
    }

    /// The pool in the spec of the user's claim.
    pub(super) fn pool_in_spec(&self, user: &UserKey) -> PoolName {
        pool_of(&self.claim(user).unwrap()).unwrap()
    }

    fn write_claim(&self, user: &UserKey, change: impl FnOnce(&mut ClaimView)) {
        self.look(|state| {
            let cluster = &mut state.cluster;
            let claim = cluster.claims.get_mut(&ClaimName::of(user)).unwrap();
            change(claim);
            cluster.written += 1;
            claim.resource_version = cluster.written.to_string();
        });
    }

    /// The sandbox gets a user who is none of ours.
    pub(super) fn bind_to_somebody_else(&self, sandbox: &str) {
        let key = ModelKey::parse("sk-another").unwrap();
        let user = UserKey::derive("another", "pool");
        self.look(|state| {
            state
                .bound
                .insert(SandboxName::parse(sandbox).unwrap(), (user, key));
        });
    }

    /// The events of this kind on the bus, copies and all.
    pub(super) fn announced(&self, detail_type: &str) -> Vec<String> {
        self.look(|state| {
            let of_kind = state.bus.iter().filter(|(kind, _)| *kind == detail_type);
            of_kind.map(|(_, id)| id.to_string()).collect()
        })
    }

    /// What has to hold whatever happened.
    pub(super) fn check(&self) {
        self.look(|state| {
            for (user, agent) in &state.agents {
                let entries = &state.history[user];
                history::verify(user, entries, agent.head).unwrap();
            }
            // I1: of one event there is one outcome, and copies of it are the same event.
            let ids: BTreeSet<_> = state.bus.iter().map(|(_, id)| id).collect();
            assert!(ids.len() <= state.outcomes.len(), "{:?}", state.bus);
            // I2: the claims' names make it at most one per user; no sandbox may serve two claims.
            let claims = state.cluster.claims.values();
            let sandboxes: Vec<_> = claims.filter_map(|claim| claim.sandbox.clone()).collect();
            let different: BTreeSet<_> = sandboxes.iter().collect();
            assert_eq!(different.len(), sandboxes.len(), "{sandboxes:?}");
        });
    }

    /// Lets others run, then does something, then lets others run before its result is seen.
    async fn call<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        self.time.amid_others(|| self.look(effect)).await
    }
}

impl State {
    fn save(&mut self, change: &Change) -> Saved {
        if let Some(agent) = &change.agent {
            let user = &agent.record.user;
            let version = self
                .agents
                .get(user)
                .map(|agent| agent.version)
                .unwrap_or_default();
            if version != agent.read {
                return Saved::Overtaken;
            }
        }
        if let Some(change) = &change.outcome {
            let before = self
                .outcomes
                .get(&change.outcome.event)
                .map(|outcome| outcome.publication);
            if before != change.read {
                return Saved::Overtaken;
            }
        }
        if let Some(agent) = &change.agent {
            let user = &agent.record.user;
            self.agents.insert(user.clone(), agent.record.clone());
            self.history
                .entry(user.clone())
                .or_default()
                .push(agent.entry.clone());
        }
        if let Some(change) = &change.outcome {
            self.outcomes
                .insert(change.outcome.event.clone(), change.outcome.clone());
        }
        Saved::Yes
    }
}

impl Cluster {
    /// What the controller does, given the time.
    fn reconcile(&mut self, now: Timestamp) {
        let gone_at = &self.gone_at;
        self.claims
            .retain(|_, claim| gone_at.get(&claim.uid).is_none_or(|at| now < *at));
        let pools = &mut self.pools;
        for (claim, pool) in self.claims.values_mut().map(|claim| (claim, "agents")) {
            if claim.terminating || claim.sandbox.is_some() {
                continue;
            }
            let pool = pool_of(claim).unwrap_or_else(|| PoolName::parse(pool).unwrap());
            let condition = match pools.get_mut(&pool) {
                None => not_ready("WarmPoolNotFound"),
                Some(pool) => match pool.warm.iter().position(|(at, _)| *at <= now) {
                    None => not_ready("SandboxNotReady"),
                    Some(at) => {
                        claim.sandbox = Some(pool.warm.remove(at).1);
                        claim.pod_ips = vec!["10.244.0.7".parse().unwrap()];
                        Condition {
                            is_true: true,
                            reason: "DependenciesReady".into(),
                            message: String::new(),
                            observed_generation: Some(1),
                        }
                    }
                },
            };
            if claim.ready.as_ref() != Some(&condition) {
                claim.ready = Some(condition);
                self.written += 1;
                claim.resource_version = self.written.to_string();
            }
        }
    }

    fn apply(&mut self, wanted: &WantedClaim, now: Timestamp) -> ClaimView {
        self.reconcile(now);
        self.written += 1;
        let written = self.written.to_string();
        let created = &mut self.created;
        let claim = self.claims.entry(wanted.name.clone()).or_insert_with(|| {
            *created += 1;
            ClaimView {
                name: wanted.name.clone(),
                uid: ClaimUid::parse(format!("4f5e1a1c-0c8b-4e3a-9c6d-{created:012x}")).unwrap(),
                resource_version: written.clone(),
                generation: 1,
                created_at: now,
                terminating: false,
                event: None,
                ready: None,
                sandbox: None,
                pod_ips: Vec::new(),
            }
        });
        if claim.event.as_ref() != Some(&wanted.event) {
            claim.event = Some(wanted.event.clone());
            claim.resource_version = written;
        }
        POOLS.with_borrow_mut(|pools| pools.insert(claim.uid.clone(), wanted.pool.clone()));
        claim.clone()
    }
}

thread_local! {
    /// The pool in each claim's spec, which a [`ClaimView`] does not show.
    static POOLS: RefCell<BTreeMap<ClaimUid, PoolName>> = const { RefCell::new(BTreeMap::new()) };
}

fn pool_of(claim: &ClaimView) -> Option<PoolName> {
    POOLS.with_borrow(|pools| pools.get(&claim.uid).cloned())
}

fn not_ready(reason: &str) -> Condition {
    Condition {
        is_true: false,
        reason: reason.into(),
        message: String::new(),
        observed_generation: Some(1),
    }
}

impl Ledger for World {
    async fn load(&self, user: &UserKey, event: &EventId) -> Result<Known, Trouble> {
        // Two reads that aren't one snapshot, as with the real table.
        let outcome = self.call(|state| state.outcomes.get(event).cloned()).await;
        let agent = self.call(|state| state.agents.get(user).cloned()).await;
        let agent = agent.unwrap_or_else(|| AgentRecord::absent(user.clone()));
        Ok(Known { agent, outcome })
    }

    async fn save(&self, change: &Change) -> Result<Saved, Trouble> {
        let saved = self.call(|state| state.save(change)).await;
        let frozen = self.look(|state| state.freeze.take());
        if let Some(time) = frozen {
            self.time.sleep(time.unsigned_abs()).await;
        }
        Ok(saved)
    }
}

impl Claims for World {
    async fn apply(&self, wanted: &WantedClaim) -> Result<ClaimView, ClaimTrouble> {
        let apply = |state: &mut State| state.cluster.apply(wanted, self.time.now());
        Ok(self.call(apply).await)
    }

    async fn find(&self, name: &ClaimName) -> Result<Option<ClaimView>, Trouble> {
        let find = |state: &mut State| {
            state.cluster.reconcile(self.time.now());
            state.cluster.claims.get(name).cloned()
        };
        Ok(self.call(find).await)
    }

    async fn next(&self, seen: &ClaimView, patience: Duration) -> Result<ClaimChange, Trouble> {
        const STEP: Duration = Duration::from_millis(250);
        let mut left = patience;
        loop {
            match self.find(&seen.name).await? {
                None => return Ok(ClaimChange::Gone),
                Some(now) if now.resource_version != seen.resource_version => {
                    return Ok(ClaimChange::Changed(Box::new(now)));
                }
                Some(_) if left.is_zero() => return Ok(ClaimChange::Same),
                Some(_) => {}
            }
            let step = STEP.min(left);
            self.time.sleep(step).await;
            left -= step;
        }
    }

    async fn delete(&self, seen: &ClaimView) -> Result<Deleted, Trouble> {
        let delete = |state: &mut State| {
            let now = self.time.now();
            state.cluster.reconcile(now);
            let cluster = &mut state.cluster;
            let Some(claim) = cluster.claims.get_mut(&seen.name) else {
                return Deleted::Yes;
            };
            if claim.uid != seen.uid || claim.resource_version != seen.resource_version {
                return Deleted::Changed;
            }
            cluster.written += 1;
            claim.resource_version = cluster.written.to_string();
            claim.terminating = true;
            cluster
                .gone_at
                .insert(claim.uid.clone(), now + cluster.finalizer);
            cluster.reconcile(now);
            Deleted::Yes
        };
        Ok(self.call(delete).await)
    }
}

impl Bus for World {
    async fn publish(&self, announcement: &Announcement) -> Result<(), Trouble> {
        let publish = |state: &mut State| {
            if let Some(left) = state.bus_failures.checked_sub(1) {
                state.bus_failures = left;
                return Err(Trouble::Unavailable {
                    service: "EventBridge",
                    why: "busy".into(),
                });
            }
            state
                .bus
                .push((announcement.detail_type(), announcement.id().clone()));
            Ok(())
        };
        self.call(publish).await
    }
}

impl ModelKeys for World {
    async fn issue(
        &self,
        user: &UserKey,
        claim: &ClaimUid,
        allowance: &Allowance,
    ) -> Result<ModelKey, ModelKeyTrouble> {
        let delay = self.look(|state| std::mem::take(&mut state.key_delay));
        self.time.sleep(delay).await;
        let issue = |state: &mut State| {
            let master = MasterKey::parse(state.master_key).unwrap();
            let key = master.derive(user, claim).unwrap();
            state.keys.insert(key.expose().to_owned(), user.clone());
            state.spenders.insert(user.clone(), *allowance);
            key
        };
        Ok(self.call(issue).await)
    }
}

impl ModelUsers for World {
    async fn remove(&self, user: &UserKey) -> Result<(), ModelKeyTrouble> {
        let remove = |state: &mut State| {
            if let Some(left) = state.gateway_failures.checked_sub(1) {
                state.gateway_failures = left;
                return Err(ModelKeyTrouble::Unavailable("busy".into()));
            }
            state.spenders.remove(user);
            state.keys.retain(|_, owner| owner != user);
            Ok(())
        };
        self.call(remove).await
    }
}

impl Possessions for World {
    async fn purge(&self, user: &UserKey, most: usize) -> Result<Purged, Trouble> {
        let purge = |state: &mut State| {
            let left = state.possessions.remove(user).unwrap_or_default();
            let deleted = left.min(most);
            if left > deleted {
                state.possessions.insert(user.clone(), left - deleted);
            }
            Purged {
                deleted,
                more: left > deleted,
            }
        };
        let purged = self.call(purge).await;
        // As long as it takes to delete so much.
        let took = u64::try_from(purged.deleted).unwrap() * 10;
        self.time.sleep(Duration::from_millis(took)).await;
        Ok(purged)
    }
}

impl Registrations for World {
    async fn registration(&self, user: &UserKey) -> Result<Option<Registration>, Trouble> {
        let registration = |state: &mut State| state.registrations.get(user).cloned();
        Ok(self.call(registration).await)
    }

    async fn save_registration(
        &self,
        user: &UserKey,
        registration: &Registration,
    ) -> Result<(), Trouble> {
        self.call(|state| {
            state
                .registrations
                .insert(user.clone(), registration.clone());
        })
        .await;
        Ok(())
    }

    async fn forget(&self, user: &UserKey, registration: &Registration) -> Result<(), Trouble> {
        self.call(|state| {
            let identity = registration.identity.as_ref();
            if let Some(key) = identity.map(IdentityKey::as_str)
                && state.identities.get(key) == Some(&registration.username)
            {
                state.identities.remove(key);
            }
            state.registrations.remove(user);
        })
        .await;
        Ok(())
    }
}

impl Directory for World {
    async fn account(&self, username: &Username) -> Result<Option<Account>, Trouble> {
        let account = |state: &mut State| state.accounts.get(username.as_str()).cloned();
        Ok(self.call(account).await)
    }
}

impl Roster for World {
    async fn by_sub(&self, sub: &Sub) -> Result<Option<(Username, Account)>, Trouble> {
        let found = |state: &mut State| {
            let mut accounts = state.accounts.iter();
            let found = accounts.find(|(_, account)| account.sub == sub.as_str());
            found.map(|(name, account)| (Username::parse(name).unwrap(), account.clone()))
        };
        Ok(self.call(found).await)
    }
}

impl Policies for World {
    async fn policy(&self) -> Result<Arc<Policy>, Trouble> {
        Ok(Arc::new(policy()))
    }
}

impl Agentd for World {
    async fn bind(
        &self,
        sandbox: &SandboxName,
        _address: IpAddr,
        request: &BindRequest,
    ) -> Result<(), BindTrouble> {
        let bind = |state: &mut State| {
            if let Some(left) = state.agentd_failures.checked_sub(1) {
                state.agentd_failures = left;
                return Err(BindTrouble::Unreachable("nobody answers".into()));
            }
            let wanted = (request.user_key.clone(), request.model_key.clone());
            let bound = state
                .bound
                .entry(sandbox.clone())
                .or_insert_with(|| wanted.clone());
            // I3, the daemon's own part in it.
            if bound.0 != wanted.0 {
                return Err(BindTrouble::BoundToAnother("no".into()));
            }
            bound.1 = wanted.1;
            Ok(())
        };
        self.call(bind).await
    }
}

//! What scenarios share: the platform, and pools made to measure.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use carapace_core::UserKey;
use carapace_e2e::cluster::AGENTS;
use carapace_e2e::identity::User;
use carapace_e2e::platform::SandboxRequest;
use carapace_e2e::slack::Member;
use carapace_e2e::{Platform, eventually};
use serde_json::{Value, json};

/// Long enough for a sandbox on a busy machine; what takes longer is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The warm pool of the chart, from which an agent comes if nothing else is said.
const SHARED_POOL: &str = "agents";

/// The platform that all scenarios run on.
#[derive(Clone, Debug)]
pub(crate) struct World {
    platform: Arc<Platform>,
    faults: PathBuf,
    acquaintances: Arc<Mutex<Vec<Acquaintance>>>,
}

/// Somebody whose agent is awake and has nothing to do, for another scenario to talk to.
#[derive(Debug)]
pub(crate) struct Acquaintance {
    pub(crate) user: User,
    pub(crate) member: Member,
    pub(crate) channel: String,
}

impl Deref for World {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl World {
    /// Opens the platform on the stack that `CARAPACE_STATE` names.
    pub(crate) fn open() -> Result<Self> {
        let state_dir = std::env::var_os("CARAPACE_STATE")
            .context("CARAPACE_STATE is not set: run `cargo xtask test --only scenarios`")?;
        let faults = std::env::var_os("CARAPACE_FAULT_DIR")
            .context("CARAPACE_FAULT_DIR is not set: run `cargo xtask test --only scenarios`")?;
        Ok(Self {
            platform: Arc::new(Platform::open(Path::new(&state_dir))?),
            faults: faults.into(),
            acquaintances: Arc::default(),
        })
    }

    /// Where functions look for the faults to die of.
    pub(crate) fn faults(&self) -> &Path {
        &self.faults
    }

    /// A new person who may have an agent. Their claim goes when the person is dropped.
    pub(crate) fn person(&self, name: &str) -> Result<Person<'_>> {
        Ok(self.person_of(self.platform.new_user(name)?))
    }

    pub(crate) fn person_of(&self, user: User) -> Person<'_> {
        Person { world: self, user }
    }

    /// Those that no scenario talks to at this moment.
    pub(crate) fn acquaintances(&self) -> MutexGuard<'_, Vec<Acquaintance>> {
        self.acquaintances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool like the default one, but for its name, its size, and what `change` does to the
    /// pod's spec.
    pub(crate) fn pool(
        &self,
        name: &str,
        replicas: u32,
        change: impl FnOnce(&mut Value),
    ) -> Result<Pool<'_>> {
        let mut template = self
            .cluster
            .get("sandboxtemplate", AGENTS, "agents")?
            .ok_or_else(|| anyhow!("the chart's SandboxTemplate `agents` is missing"))?;
        template["metadata"] = json!({ "name": name, "namespace": AGENTS });
        if let Some(object) = template.as_object_mut() {
            object.remove("status");
        }
        change(&mut template["spec"]["podTemplate"]["spec"]);
        let pool = json!({
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1",
            "kind": "SandboxWarmPool",
            "metadata": { "name": name, "namespace": AGENTS },
            "spec": { "replicas": replicas, "sandboxTemplateRef": { "name": name } },
        });
        let pool_guard = Pool {
            world: self,
            name: name.to_owned(),
        };
        self.cluster.apply(
            &json!({ "apiVersion": "v1", "kind": "List", "items": [template, pool] }).to_string(),
        )?;
        eventually(
            &format!("{replicas} warm sandboxes in pool {name}"),
            SOON,
            || self.cluster.get("sandboxwarmpool", AGENTS, name),
            |pool| {
                let ready = pool
                    .as_ref()
                    .and_then(|p| p["status"]["readyReplicas"].as_u64());
                let seen = pool
                    .as_ref()
                    .is_some_and(|p| p["status"]["observedGeneration"].is_u64());
                seen && ready.unwrap_or(0) == u64::from(replicas)
            },
        )?;
        Ok(pool_guard)
    }

    /// The sandboxes of a pool that nobody has claimed.
    fn unclaimed(&self, pool: &str) -> Result<Vec<Value>> {
        let mut sandboxes = self.cluster.list("sandboxes", AGENTS)?;
        sandboxes.retain(|sandbox| {
            let owners = sandbox["metadata"]["ownerReferences"].as_array();
            owners
                .into_iter()
                .flatten()
                .any(|owner| owner["kind"] == "SandboxWarmPool" && owner["name"] == pool)
        });
        Ok(sandboxes)
    }

    /// Takes every warm sandbox out of the pool that all share, until what is returned is dropped.
    pub(crate) fn drained(&self) -> Result<Drained<'_>> {
        let pool = self
            .cluster
            .get("sandboxwarmpool", AGENTS, SHARED_POOL)?
            .ok_or_else(|| anyhow!("the chart's SandboxWarmPool {SHARED_POOL} is missing"))?;
        let replicas = pool["spec"]["replicas"]
            .as_u64()
            .context("the pool has a size")?;
        let drained = Drained {
            world: self,
            replicas,
        };
        drained.resize(0)?;
        eventually(
            "an empty pool",
            SOON,
            || self.unclaimed(SHARED_POOL),
            Vec::is_empty,
        )?;
        Ok(drained)
    }

    /// Keeps the API server from taking a claim for this user, until what is returned is dropped.
    pub(crate) fn forbid_claim(&self, user: &UserKey) -> Result<Wall<'_>> {
        let name = format!("no-claim-{user}");
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": name },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": ["extensions.agents.x-k8s.io"], "apiVersions": ["*"],
                    "operations": ["CREATE"], "resources": ["sandboxclaims"],
                }] },
                "validations": [{
                    "expression": format!("object.metadata.name != 'agent-{user}'"),
                    "message": "not for this user",
                }],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name },
            "spec": { "policyName": name, "validationActions": ["Deny"] },
        });
        let claim = json!({
            "apiVersion": "extensions.agents.x-k8s.io/v1beta1", "kind": "SandboxClaim",
            "metadata": { "name": format!("agent-{user}"), "namespace": AGENTS },
            "spec": { "warmPoolRef": { "name": "agents" } },
        });
        let wall = Wall {
            world: self,
            name,
            claim: claim.to_string(),
        };
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [policy, binding] });
        self.cluster.apply(&list.to_string())?;
        wall.stands(true)?;
        Ok(wall)
    }

    /// Asserts that the user's request ended as a failure that was released and announced: no
    /// claim is left, the record says so, and the reason is on the bus.
    pub(crate) fn assert_released(&self, user: &UserKey, reason: &str) -> Result<()> {
        let claim = eventually(
            "the claim is gone",
            SOON,
            || self.cluster.claim(user),
            |claim| {
                claim
                    .as_ref()
                    .is_none_or(|c| !c["metadata"]["deletionTimestamp"].is_null())
            },
        )?;
        ensure!(claim.is_none_or(|c| !c["metadata"]["deletionTimestamp"].is_null()));
        let record = self.item(&format!("USER#{user}"), "AGENT")?;
        let record = record.ok_or_else(|| anyhow!("user {user} has no agent record"))?;
        ensure!(
            record["state"]["S"] == "Failed",
            "the record says {record:#}"
        );
        ensure!(
            record["reason"]["S"] == reason,
            "the record says {record:#}"
        );
        Ok(())
    }
}

/// A person in a scenario.
#[derive(Debug)]
pub(crate) struct Person<'a> {
    world: &'a World,
    user: User,
}

impl Deref for Person<'_> {
    type Target = User;

    fn deref(&self) -> &User {
        &self.user
    }
}

impl Person<'_> {
    /// Asks for their agent and waits for `Sandbox Ready`; returns the event.
    pub(crate) fn gets_an_agent(&self, request: &SandboxRequest) -> Result<Value> {
        let tap = self.world.tap(&self.user.key)?;
        self.world.request_sandbox(request)?;
        tap.expect("Sandbox Ready", SOON)
    }

    /// Keeps their claim.
    pub(crate) fn stays(self) -> User {
        let user = self.user.clone();
        std::mem::forget(self);
        user
    }
}

impl Drop for Person<'_> {
    /// A sandbox that nobody needs any more would only take memory from the next scenario.
    fn drop(&mut self) {
        let claim = format!("agent-{}", self.user.key);
        let _ = self.world.cluster.kubectl(&[
            "-n",
            AGENTS,
            "delete",
            "sandboxclaim",
            &claim,
            "--ignore-not-found",
            "--wait=false",
        ]);
    }
}

/// A pool of one scenario; it goes when dropped.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    world: &'a World,
    name: String,
}

impl Pool<'_> {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The warm sandboxes in it: name and pod address.
    pub(crate) fn warm(&self) -> Result<Vec<(String, String)>> {
        let sandboxes = self.world.unclaimed(&self.name)?;
        Ok(sandboxes
            .iter()
            .filter_map(|s| {
                let name = s["metadata"]["name"].as_str()?;
                let address = s["status"]["podIPs"][0].as_str()?;
                Some((name.to_owned(), address.to_owned()))
            })
            .collect())
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        for kind in ["sandboxwarmpool", "sandboxtemplate"] {
            let _ = self.world.cluster.kubectl(&[
                "-n",
                AGENTS,
                "delete",
                kind,
                &self.name,
                "--ignore-not-found",
                "--wait=false",
            ]);
        }
    }
}

/// The pool that all share, empty; it gets its sandboxes back when dropped.
#[derive(Debug)]
pub(crate) struct Drained<'a> {
    world: &'a World,
    replicas: u64,
}

impl Drained<'_> {
    /// Fills it, and waits until it is full.
    pub(crate) fn fill(self) -> Result<()> {
        self.resize(self.replicas)?;
        eventually(
            "a full pool",
            SOON * 2,
            || {
                self.world
                    .cluster
                    .get("sandboxwarmpool", AGENTS, SHARED_POOL)
            },
            |pool| {
                let ready = pool.as_ref().map(|pool| &pool["status"]["readyReplicas"]);
                ready.and_then(Value::as_u64) == Some(self.replicas)
            },
        )?;
        Ok(())
    }

    fn resize(&self, replicas: u64) -> Result<()> {
        let patch = json!({ "spec": { "replicas": replicas } }).to_string();
        let kind = "sandboxwarmpool";
        let args = [
            "-n",
            AGENTS,
            "patch",
            kind,
            SHARED_POOL,
            "--type=merge",
            "-p",
            &patch,
        ];
        self.world.cluster.kubectl(&args)?;
        Ok(())
    }
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        let _ = self.resize(self.replicas);
    }
}

/// A user for whom no claim is taken; it comes down when dropped.
#[derive(Debug)]
pub(crate) struct Wall<'a> {
    world: &'a World,
    name: String,
    claim: String,
}

impl Wall<'_> {
    /// Takes it down.
    pub(crate) fn fall(self) -> Result<()> {
        self.remove()?;
        self.stands(false)
    }

    /// The API server takes a moment to act on it.
    fn stands(&self, yes: bool) -> Result<()> {
        eventually(
            "whether the claim is refused",
            SOON,
            || Ok(self.world.cluster.dry_run(&self.claim).is_err()),
            |refused| *refused == yes,
        )?;
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        for kind in [
            "validatingadmissionpolicybinding",
            "validatingadmissionpolicy",
        ] {
            let cluster = &self.world.cluster;
            cluster.kubectl(&["delete", kind, &self.name, "--ignore-not-found"])?;
        }
        Ok(())
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// The container of this name in a pod's spec.
pub(crate) fn container<'a>(pod: &'a mut Value, name: &str) -> Result<&'a mut Value> {
    pod["containers"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|c| c["name"] == name)
        .ok_or_else(|| anyhow!("the template has no container {name}"))
}

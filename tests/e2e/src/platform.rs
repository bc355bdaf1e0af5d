//! The platform as deployed on one stack.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use carapace_core::UserKey;
use carapace_local::{Stack, StackInfo};
use serde_json::{Value, json};

use crate::aws::{self, Aws};
use crate::cluster::Cluster;
use crate::tap::Tap;

/// What `cdk deploy` wrote beside the stack's own description.
pub const OUTPUTS_FILE: &str = "outputs.json";

/// A deployed platform: its AWS account, its cluster, and the names CloudFormation gave to things.
#[derive(Debug)]
pub struct Platform {
    /// The stack it runs on.
    pub info: StackInfo,
    /// Its AWS account.
    pub aws: Aws,
    /// Its Kubernetes cluster, as the administrator sees it.
    pub cluster: Cluster,
    outputs: Value,
    /// The event that started each execution that was looked at.
    pub(crate) events: Mutex<HashMap<String, String>>,
    /// What Slack signs its webhooks with, once it was needed.
    pub(crate) slack_signing_secret: OnceLock<String>,
}

impl Platform {
    /// Opens the platform that was deployed to the stack with this state directory.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let stack = Stack::attach(state_dir)?;
        let info = stack.info().clone();
        let endpoint = info
            .aws_endpoint
            .as_deref()
            .context("this stack was started without AWS")?;
        let path = state_dir.join(OUTPUTS_FILE);
        let outputs = std::fs::read_to_string(&path).with_context(|| {
            format!("no platform is deployed on this stack ({} is missing): run `cargo xtask demo --keep`", path.display())
        })?;
        Ok(Self {
            aws: Aws::new(
                endpoint,
                &info.region,
                &info.access_key_id,
                &info.secret_access_key,
            ),
            cluster: Cluster::new(stack),
            outputs: serde_json::from_str(&outputs)
                .with_context(|| format!("reading {}", path.display()))?,
            events: Mutex::default(),
            slack_signing_secret: OnceLock::new(),
            info,
        })
    }

    /// An output of one of the CDK app's stacks.
    pub fn output(&self, stack: &str, name: &str) -> Result<&str> {
        self.outputs[stack][name].as_str().ok_or_else(|| {
            anyhow!(
                "stack {stack} has no output {name}; it has {:#}",
                self.outputs[stack]
            )
        })
    }

    /// An output of the control plane's stack.
    pub fn control_plane(&self, name: &str) -> Result<&str> {
        self.output("CarapaceControlPlane", name)
    }

    /// Puts one event on the bus and returns the id that EventBridge gave it.
    pub fn put_event(&self, source: &str, detail_type: &str, detail: &str) -> Result<String> {
        let entry = json!({
            "EventBusName": self.control_plane("BusName")?,
            "Source": source,
            "DetailType": detail_type,
            "Detail": detail,
        });
        let answer = self
            .aws
            .call(aws::EVENTS, "PutEvents", &json!({ "Entries": [entry] }))?;
        if answer["FailedEntryCount"] != 0 {
            bail!("EventBridge did not take the event: {answer:#}");
        }
        aws::string(&answer, "/Entries/0/EventId")
    }

    /// Asks for a sandbox, as an operator or another system does: one event on the bus.
    pub fn request_sandbox(&self, request: &SandboxRequest) -> Result<()> {
        self.put_event(
            "test.operator",
            "Sandbox Requested",
            &request.detail().to_string(),
        )?;
        Ok(())
    }

    /// Watches the bus for events about one user, from now on.
    pub fn tap(&self, user: &UserKey) -> Result<Tap<'_>> {
        self.tap_on(&json!({ "detail": { "user_key": [user.to_string()] } }))
    }

    /// Watches the bus for events of this pattern, from now on.
    pub fn tap_on(&self, pattern: &Value) -> Result<Tap<'_>> {
        Tap::open(self, pattern)
    }

    /// One item of the table, as DynamoDB spells it; `None` when there is none.
    pub fn item(&self, pk: &str, sk: &str) -> Result<Option<Value>> {
        let key = json!({ "pk": { "S": pk }, "sk": { "S": sk } });
        let input = json!({ "TableName": self.control_plane("TableName")?, "Key": key, "ConsistentRead": true });
        let mut answer = self.aws.call(aws::DYNAMODB, "GetItem", &input)?;
        Ok(match answer["Item"].take() {
            Value::Null => None,
            item => Some(item),
        })
    }

    /// All items of one partition whose sort key begins with `prefix`, in order.
    pub fn items(&self, pk: &str, prefix: &str) -> Result<Vec<Value>> {
        let input = json!({
            "TableName": self.control_plane("TableName")?,
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :sk)",
            "ExpressionAttributeValues": { ":pk": { "S": pk }, ":sk": { "S": prefix } },
            "ConsistentRead": true,
        });
        let answer = self.aws.call(aws::DYNAMODB, "Query", &input)?;
        Ok(answer["Items"].as_array().cloned().unwrap_or_default())
    }

    /// The state in the user's agent record: `Claiming`, `Ready`, …; `None` without a record.
    pub fn agent_state(&self, user: &UserKey) -> Result<Option<String>> {
        let item = self.item(&format!("USER#{user}"), "AGENT")?;
        item.map(|item| aws::string(&item, "/state/S")).transpose()
    }

    /// The messages on a queue whose body mentions `needle`, looked at without receiving them:
    /// scenarios that share a queue must not take each other's messages.
    pub fn queued(&self, queue_url: &str, needle: &str) -> Result<Vec<String>> {
        let path = format!(
            "/_ministack/sqs/messages?QueueUrl={}",
            aws::percent(queue_url)
        );
        let mut bodies = Vec::new();
        collect_bodies(&self.aws.local(&path)?, &mut bodies);
        bodies.retain(|body| body.contains(needle));
        Ok(bodies)
    }
}

/// Every message body in the local AWS's listing, which groups them by account and queue.
fn collect_bodies(value: &Value, bodies: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(body) if name.eq_ignore_ascii_case("body") => bodies.push(body.to_owned()),
                    _ => collect_bodies(field, bodies),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_bodies(item, bodies)),
        _ => {}
    }
}

/// A `Sandbox Requested` event.
#[derive(Clone, Debug)]
pub struct SandboxRequest {
    /// The event's own id: the same id again is the same event.
    pub id: String,
    /// Whose sandbox.
    pub user: UserKey,
    /// Another warm pool than the configured one.
    pub pool: Option<String>,
    /// Another deadline than ten minutes.
    pub ready_within: Option<Duration>,
}

impl SandboxRequest {
    /// A request with a new id for `user`, from the default pool.
    pub fn new(user: &UserKey) -> Self {
        Self {
            id: format!("req-{}", ulid::Ulid::generate()),
            user: user.clone(),
            pool: None,
            ready_within: None,
        }
    }

    /// From this pool.
    #[must_use]
    pub fn from_pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Ready within this time, or it fails.
    #[must_use]
    pub fn ready_within(mut self, deadline: Duration) -> Self {
        self.ready_within = Some(deadline);
        self
    }

    /// The event's `detail`.
    pub fn detail(&self) -> Value {
        let mut detail = json!({
            "version": 1,
            "id": self.id,
            "at": jiff::Timestamp::now().to_string(),
            "user_key": self.user.to_string(),
        });
        if let Some(pool) = &self.pool {
            detail["pool"] = json!(pool);
        }
        if let Some(deadline) = self.ready_within {
            detail["ready_within_seconds"] = json!(deadline.as_secs());
        }
        detail
    }
}

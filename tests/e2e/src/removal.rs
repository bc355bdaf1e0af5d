//! Users who come and go: the machines that see to it, an operator, and what is left of somebody.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use carapace_core::UserKey;
use carapace_core::history::{self, Digest, Entry, Head};
use serde_json::{Value, json};

use crate::aws;
use crate::execution::Execution;
use crate::identity::User;
use crate::{Platform, eventually};

/// The output of the control plane that names the state machine `user-onboard`.
pub const USER_ONBOARD: &str = "UserOnboardArn";
/// The one that names `user-offboard`.
pub const USER_OFFBOARD: &str = "UserOffboardArn";

/// What `clawctl` said, and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// What it said.
    pub out: String,
    /// What went wrong.
    pub err: String,
}

/// Somebody who may do what `clawctl user remove --help` says it takes, and nothing else.
#[derive(Debug)]
pub struct Operator<'a> {
    platform: &'a Platform,
    name: String,
    access_key_id: String,
    secret_access_key: String,
}

impl Operator<'_> {
    /// Runs `clawctl`, which `CARAPACE_CLAWCTL` names, with nobody at a terminal.
    pub fn clawctl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        let program = std::env::var_os("CARAPACE_CLAWCTL").map(PathBuf::from);
        let program = program
            .context("CARAPACE_CLAWCTL is not set: run `cargo xtask test --only scenarios`")?;
        let info = &self.platform.info;
        let endpoint = info.aws_endpoint.as_deref();
        let run = Command::new(&program)
            .args(arguments)
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", &self.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_access_key)
            .env("AWS_REGION", &info.region)
            .env("AWS_ENDPOINT_URL", endpoint.unwrap_or_default())
            .stdin(std::process::Stdio::null())
            .output()
            .with_context(|| format!("running {}", program.display()))?;
        Ok(Ran {
            status: run.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&run.stdout).into_owned(),
            err: String::from_utf8_lossy(&run.stderr).into_owned(),
        })
    }
}

impl Drop for Operator<'_> {
    /// Best effort: what is left goes with the stack.
    fn drop(&mut self) {
        let Self {
            platform,
            name,
            access_key_id,
            ..
        } = self;
        let user = ("UserName", name.as_str());
        let _ = platform.iam(&[
            ("Action", "DeleteAccessKey"),
            ("AccessKeyId", access_key_id),
            user,
        ]);
        let _ = platform.iam(&[
            ("Action", "DeleteUserPolicy"),
            ("PolicyName", "users"),
            user,
        ]);
        let _ = platform.iam(&[("Action", "DeleteUser"), user]);
    }
}

impl Platform {
    /// A new operator.
    pub fn operator(&self) -> Result<Operator<'_>> {
        let name = format!("operator-{}", ulid::Ulid::generate());
        let user = ("UserName", name.as_str());
        let policy = self.operators_policy()?.to_string();
        self.iam(&[("Action", "CreateUser"), user])?;
        self.iam(&[
            ("Action", "PutUserPolicy"),
            ("PolicyName", "users"),
            ("PolicyDocument", &policy),
            user,
        ])?;
        let key = self.iam(&[("Action", "CreateAccessKey"), user])?;
        let field = |tag: &str| {
            let (_, rest) = key.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once('<')?.0.to_owned())
        };
        let found = field("AccessKeyId").zip(field("SecretAccessKey"));
        let (access_key_id, secret_access_key) =
            found.ok_or_else(|| anyhow!("IAM made no access key: {key}"))?;
        Ok(Operator {
            platform: self,
            name,
            access_key_id,
            secret_access_key,
        })
    }

    fn operators_policy(&self) -> Result<Value> {
        let arn = |service: &str, resource: &str| {
            let (region, account) = (&self.info.region, &self.info.account);
            format!("arn:aws:{service}:{region}:{account}:{resource}")
        };
        let allow = |actions: &[&str], resource: String| json!({ "Effect": "Allow", "Action": actions, "Resource": resource });
        let pool = self.output("CarapaceIdentity", "UserPoolId")?;
        let table = self.control_plane("TableName")?;
        let bus = self.control_plane("BusName")?;
        let mut put = allow(
            &["events:PutEvents"],
            arn("events", &format!("event-bus/{bus}")),
        );
        put["Condition"] = json!({
            "ForAllValues:StringEquals": {
                "events:source": "carapace.signup", "events:detail-type": "User Deleted",
            },
        });
        let accounts = [
            "ListUsers",
            "AdminGetUser",
            "AdminDisableUser",
            "AdminDeleteUser",
        ]
        .map(|call| format!("cognito-idp:{call}"));
        let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
        Ok(json!({
            "Version": "2012-10-17",
            "Statement": [
                allow(&["ssm:GetParameter"], arn("ssm", "parameter/carapace/clawctl")),
                allow(&accounts, arn("cognito-idp", &format!("userpool/{pool}"))),
                allow(&["dynamodb:GetItem"], arn("dynamodb", &format!("table/{table}"))),
                put,
            ],
        }))
    }

    fn iam(&self, form: &[(&str, &str)]) -> Result<String> {
        let form = [&[("Version", "2010-05-08")], form].concat();
        self.aws.query("iam", &form)
    }

    /// Has somebody delete their own account, which takes nothing but their own token.
    pub fn delete_own_account(&self, user: &User) -> Result<()> {
        let tokens = self.refresh(user)?;
        let token = aws::string(&tokens, "/AuthenticationResult/AccessToken")?;
        let input = json!({ "AccessToken": token });
        self.aws.call_unsigned(aws::COGNITO, "DeleteUser", &input)?;
        Ok(())
    }

    /// Waits until exactly `count` executions of the machine that `output` names are about somebody,
    /// by their key or their `sub`, and all of them have ended.
    pub fn ended_about(
        &self,
        output: &str,
        user: &User,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Execution>> {
        eventually(
            &format!("{count} ended execution(s) of {output} about {}", user.key),
            within,
            || self.executions_about(output, user),
            |all| all.len() == count && all.iter().all(Execution::has_ended),
        )
    }

    /// The executions of the machine that `output` names that are about somebody, oldest first.
    pub fn executions_about(&self, output: &str, user: &User) -> Result<Vec<Execution>> {
        let input = json!({ "stateMachineArn": self.control_plane(output)?, "maxResults": 1000 });
        let list = self.aws.call(aws::STATES, "ListExecutions", &input)?;
        let mut found = Vec::new();
        for item in list["executions"].as_array().into_iter().flatten().rev() {
            let execution = self.execution(&aws::string(item, "/executionArn")?)?;
            let input = execution.input.to_string();
            if input.contains(user.key.as_str()) || input.contains(&user.sub) {
                found.push(execution);
            }
        }
        Ok(found)
    }

    /// Every item of the table.
    pub fn everything(&self) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut input =
            json!({ "TableName": self.control_plane("TableName")?, "ConsistentRead": true });
        loop {
            let mut answer = self.aws.call(aws::DYNAMODB, "Scan", &input)?;
            if let Some(page) = answer["Items"].as_array_mut() {
                items.append(page);
            }
            match answer["LastEvaluatedKey"].take() {
                Value::Null => return Ok(items),
                next => input["ExclusiveStartKey"] = next,
            }
        }
    }

    /// The facts of a user's history, oldest first, once the chain is shown to be unbroken.
    pub fn facts(&self, user: &UserKey) -> Result<Vec<Value>> {
        let partition = format!("USER#{user}");
        let items = self.items(&partition, "EVENT#")?;
        let entries = items.iter().map(entry).collect::<Result<Vec<_>>>()?;
        let record = self.item(&partition, "AGENT")?;
        let record = record.ok_or_else(|| anyhow!("user {user} has no agent record"))?;
        let head = Head {
            id: aws::string(&record, "/history_id/S")?.parse()?,
            digest: digest(&record, "history_hash")?,
        };
        history::verify(user, &entries, Some(head))?;
        let facts = entries
            .iter()
            .map(|entry| serde_json::from_str(&entry.fact));
        facts.collect::<Result<_, _>>().context("reading a fact")
    }

    /// Whether the model gateway takes a key.
    pub fn gateway_takes(&self, key: &str) -> Result<bool> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        let url = format!("{}/key/info", self.info.model_gateway_url);
        let request = agent
            .get(&url)
            .header("authorization", format!("Bearer {key}"));
        let status = request.call().with_context(|| url.clone())?.status();
        match status.as_u16() {
            200 => Ok(true),
            401 => Ok(false),
            _ => Err(anyhow!("{url} answered {status}")),
        }
    }
}

/// An entry of a history, as the table has it.
fn entry(item: &Value) -> Result<Entry> {
    let key = aws::string(item, "/sk/S")?;
    let id = key.strip_prefix("EVENT#").context("another item")?;
    Ok(Entry {
        id: id.parse()?,
        at: aws::string(item, "/at/S")?.parse()?,
        fact: aws::string(item, "/fact/S")?,
        previous: digest(item, "prev_hash")?,
        digest: digest(item, "hash")?,
    })
}

fn digest(item: &Value, name: &str) -> Result<Digest> {
    let text = aws::string(item, &format!("/{name}/S"))?;
    Digest::parse(&text).ok_or_else(|| anyhow!("{name} is no digest in {item:#}"))
}

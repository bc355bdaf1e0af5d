//! The state machine `sandbox-create`, run from its own file: states, retries and catches are those
//! that are deployed. Only its expressions are written again, one payload per state.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use carapace_core::{PoolName, ports::Clock};
use futures::FutureExt;
use jiff::Timestamp;
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde_json::{Value, json};

use super::world::World;
use crate::{
    announce::AnnounceOutcome, bind::BindSandbox, claim::ClaimSandbox, fault::planned::Death,
};

/// The machine as it is deployed.
pub(super) const DEFINITION: &str =
    include_str!("../../../../statemachines/sandbox-create.asl.json");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Machine {
    pub(super) comment: String,
    pub(super) start_at: String,
    pub(super) timeout_seconds: u64,
    pub(super) states: BTreeMap<String, State>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) r#type: String,
    pub(super) comment: String,
    pub(super) next: Option<String>,
    #[serde(default)]
    pub(super) end: bool,
    pub(super) timeout_seconds: Option<u64>,
    #[serde(default)]
    pub(super) arguments: Value,
    #[serde(default)]
    pub(super) retry: Vec<Retrier>,
    #[serde(default)]
    pub(super) catch: Vec<Catcher>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Retrier {
    pub(super) error_equals: Vec<String>,
    pub(super) interval_seconds: u32,
    pub(super) backoff_rate: u32,
    pub(super) max_attempts: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Catcher {
    pub(super) error_equals: Vec<String>,
    pub(super) next: String,
    pub(super) assign: Option<Value>,
}

pub(super) fn machine() -> Machine {
    serde_json::from_str(DEFINITION).unwrap()
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// The state it ended in.
    pub(super) state: String,
    /// The error, if it failed.
    pub(super) error: Option<String>,
    /// The states it went through.
    pub(super) path: Vec<String>,
    /// What was sent to the dead-letter queue.
    pub(super) dead_letter: Option<Value>,
}

/// Runs one execution to its end.
pub(super) async fn execute(world: &World, event: Value) -> End {
    let machine = machine();
    let started_at = world.now();
    let mut end = End {
        state: machine.start_at.clone(),
        error: None,
        path: Vec::new(),
        dead_letter: None,
    };
    let mut input = event.clone();
    let mut failure: Option<Diagnostic> = None;
    loop {
        let state = &machine.states[&end.state];
        end.path.push(end.state.clone());
        match state.r#type.as_str() {
            "Succeed" => return end,
            "Fail" => {
                end.error = failure.map(|failure| failure.error_type);
                return end;
            }
            _ => {}
        }
        if end.state == "DeadLetterEvent" {
            end.dead_letter = Some(event.clone());
            end.state = state.next.clone().unwrap();
            continue;
        }
        let payload = payload(&end.state, &event, started_at, &input, failure.as_ref());
        match task(world, state, &end.state, payload).await {
            Ok(output) => {
                input = output;
                match &state.next {
                    Some(next) => end.state.clone_from(next),
                    None => return end,
                }
            }
            Err(error) => {
                let caught = state
                    .catch
                    .iter()
                    .find(|c| matches(&c.error_equals, &error));
                let caught = caught.unwrap_or_else(|| panic!("{} lets {error:?} out", end.state));
                if caught.assign.is_some() {
                    failure = Some(error);
                }
                end.state.clone_from(&caught.next);
            }
        }
    }
}

/// Runs one state's task with its retries.
async fn task(
    world: &World,
    state: &State,
    name: &str,
    payload: Value,
) -> Result<Value, Diagnostic> {
    let mut attempts = vec![0; state.retry.len()];
    loop {
        let error = match invoke(world, name, payload.clone()).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let retrier = state
            .retry
            .iter()
            .position(|r| matches(&r.error_equals, &error));
        let Some(retrier) = retrier else {
            return Err(error);
        };
        let (rule, attempts) = (&state.retry[retrier], &mut attempts[retrier]);
        if *attempts >= rule.max_attempts {
            return Err(error);
        }
        let wait = rule.interval_seconds * rule.backoff_rate.pow(*attempts);
        *attempts += 1;
        world.sleep(Duration::from_secs(u64::from(wait))).await;
    }
}

fn matches(names: &[String], error: &Diagnostic) -> bool {
    names
        .iter()
        .any(|name| name == "States.ALL" || *name == error.error_type)
}

fn payload(
    state: &str,
    event: &Value,
    started_at: Timestamp,
    input: &Value,
    failure: Option<&Diagnostic>,
) -> Value {
    match state {
        "ClaimSandbox" => json!({"action": "claim", "event": event, "started_at": started_at}),
        "ReleaseClaim" => json!({"action": "release", "event": event}),
        "BindSandbox" => input.clone(),
        "AnnounceReady" => {
            let mut payload = input.clone();
            payload["announcement"] = json!("ready");
            payload
        }
        "AnnounceRecorded" => json!({"announcement": "recorded", "event": event}),
        "AnnounceFailed" => {
            let failure = failure.unwrap();
            let cause =
                json!({"errorMessage": failure.error_message, "errorType": failure.error_type});
            json!({
                "announcement": "failed", "event": event,
                "reason": failure.error_type, "message": cause.to_string()
            })
        }
        other => panic!("no payload is written for {other}"),
    }
}

/// One invocation of the function that a state calls. Its death looks as it does on Lambda.
async fn invoke(world: &World, state: &str, payload: Value) -> Result<Value, Diagnostic> {
    let call = async {
        match state {
            "ClaimSandbox" | "ReleaseClaim" => sandbox_claim(world).handle(payload).await,
            "BindSandbox" => sandbox_bind(world).handle(payload).await,
            _ => sandbox_announce(world).handle(payload).await,
        }
    };
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(answer) => answer,
        Err(death) if death.is::<Death>() => Err(Diagnostic {
            error_type: "Runtime.ExitError".into(),
            error_message: "the process exited".into(),
        }),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

pub(super) fn sandbox_claim(world: &World) -> ClaimSandbox<World, World, World> {
    ClaimSandbox {
        ledger: world.clone(),
        claims: world.clone(),
        clock: world.clone(),
        default_pool: PoolName::parse("agents").unwrap(),
    }
}

fn sandbox_bind(world: &World) -> BindSandbox<World, World, World, World, World> {
    BindSandbox {
        ledger: world.clone(),
        claims: world.clone(),
        model_keys: world.clone(),
        agentd: world.clone(),
        clock: world.clone(),
    }
}

fn sandbox_announce(world: &World) -> AnnounceOutcome<World, World, World> {
    AnnounceOutcome {
        ledger: world.clone(),
        bus: world.clone(),
        clock: world.clone(),
    }
}

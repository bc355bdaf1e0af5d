//! The state machine `sandbox-create`, run from its own file, on a world in memory.

use carapace_core::{PoolName, allowance::Allowance};
use carapace_test_support::{Diagnostic, End, Execution, Machine, Steps, Time};
use serde_json::{Value, json};

use super::world::World;
use crate::{
    announce::AnnounceOutcome, bind::BindSandbox, claim::ClaimSandbox, retire::RetireSandbox,
};

/// The machine as it is deployed.
pub(super) fn machine() -> Machine {
    Machine::parse(include_str!(
        "../../../../statemachines/sandbox-create.asl.json"
    ))
}

/// Runs one execution to its end.
pub(super) async fn execute(world: &World, event: Value) -> End {
    machine().execute(&world.time, event, world).await
}

impl Steps for &World {
    fn payload(&mut self, state: &str, execution: &Execution) -> Value {
        let event = &execution.event;
        match state {
            "ClaimSandbox" => {
                json!({"action": "claim", "event": event, "started_at": execution.started_at})
            }
            "ReleaseClaim" => json!({"action": "release", "event": event}),
            "BindSandbox" => execution.input.clone(),
            "AnnounceReady" => {
                let mut payload = execution.input.clone();
                payload["announcement"] = json!("ready");
                payload
            }
            "AnnounceRecorded" => json!({"announcement": "recorded", "event": event}),
            "AnnounceFailed" => {
                let failure = execution.failure.as_ref().unwrap();
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

    async fn call(&mut self, callee: &str, payload: Value) -> Result<Value, Diagnostic> {
        match callee {
            "SandboxClaimArn" => sandbox_claim(self).handle(payload).await,
            "SandboxBindArn" => sandbox_bind(self).handle(payload).await,
            "SandboxAnnounceArn" => sandbox_announce(self).handle(payload).await,
            other => panic!("{other} is nobody's name"),
        }
    }
}

pub(super) fn sandbox_claim(world: &World) -> ClaimSandbox<World, World, Time> {
    ClaimSandbox {
        ledger: world.clone(),
        claims: world.clone(),
        clock: world.time.clone(),
        default_pool: PoolName::parse("agents").unwrap(),
    }
}

fn sandbox_bind(world: &World) -> BindSandbox<World, World, World, World, Time> {
    BindSandbox {
        ledger: world.clone(),
        claims: world.clone(),
        model_keys: world.clone(),
        agentd: world.clone(),
        clock: world.time.clone(),
        default_allowance: default_allowance(),
    }
}

/// What a user may spend for whom nothing is settled.
pub(super) fn default_allowance() -> Allowance {
    Allowance {
        budget_usd: 1,
        budget_days: 1,
        requests_per_minute: 1,
        tokens_per_minute: 1,
    }
}

pub(super) fn sandbox_retire(world: &World) -> RetireSandbox<World, World, World, Time> {
    RetireSandbox {
        ledger: world.clone(),
        claims: world.clone(),
        model_users: world.clone(),
        clock: world.time.clone(),
    }
}

pub(super) fn sandbox_announce(world: &World) -> AnnounceOutcome<World, World, Time> {
    AnnounceOutcome {
        ledger: world.clone(),
        bus: world.clone(),
        clock: world.time.clone(),
    }
}

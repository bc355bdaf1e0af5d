//! The functions' configuration, and the functions made from it.

use std::sync::Arc;

use carapace_control_plane::{
    agentd::AgentdClient,
    aws::Aws,
    bus::EventBus,
    claims::ClaimApi,
    config::{Misconfigured, from_process},
    gateway::{GatewayUrl, ModelGateway},
    jwt::{SigningKeyId, TokenSigner},
    kubernetes::claims,
    secrets::MasterKeySecret,
    table::AgentTable,
    time::SystemClock,
};
use carapace_core::{PoolName, allowance::Allowance};

use crate::{
    announce::AnnounceOutcome, bind::BindSandbox, claim::ClaimSandbox, retire::RetireSandbox,
};

/// `sandbox-claim`, as it is deployed.
pub type SandboxClaim = ClaimSandbox<AgentTable, ClaimApi, SystemClock>;
/// `sandbox-bind`, as it is deployed.
pub type SandboxBind = BindSandbox<AgentTable, ClaimApi, ModelGateway, AgentdClient, SystemClock>;
/// `sandbox-announce`, as it is deployed.
pub type SandboxAnnounce = AnnounceOutcome<AgentTable, EventBus, SystemClock>;
/// `sandbox-retire`, as it is deployed.
pub type SandboxRetire = RetireSandbox<AgentTable, ClaimApi, ModelGateway, SystemClock>;

/// `sandbox-claim` from `TABLE_NAME`, `WARM_POOL` and the cluster's variables.
pub fn sandbox_claim() -> Result<SandboxClaim, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let default_pool = environment.required::<PoolName>("WARM_POOL");
        let claims = claims(environment, &aws);
        Some(ClaimSandbox {
            ledger: AgentTable::new(Arc::clone(&aws), table?),
            claims: claims?,
            clock: SystemClock,
            default_pool: default_pool?,
        })
    })
}

/// `sandbox-bind` from `TABLE_NAME`, `SIGNING_KEY_ID`, `MODEL_GATEWAY_URL`,
/// `MODEL_GATEWAY_SECRET_ARN`, `ALLOWANCE` and the cluster's variables.
pub fn sandbox_bind() -> Result<SandboxBind, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let claims = claims(environment, &aws);
        let key = environment.required::<SigningKeyId>("SIGNING_KEY_ID");
        let gateway = environment.required::<GatewayUrl>("MODEL_GATEWAY_URL");
        let secret = environment.required("MODEL_GATEWAY_SECRET_ARN");
        let allowance = environment.required::<Allowance>("ALLOWANCE");
        let secret = MasterKeySecret::new(Arc::clone(&aws), secret?);
        Some(BindSandbox {
            ledger: AgentTable::new(Arc::clone(&aws), table?),
            claims: claims?,
            model_keys: ModelGateway::new(gateway?, secret),
            agentd: AgentdClient::new(TokenSigner::new(Arc::clone(&aws), key?)),
            clock: SystemClock,
            default_allowance: allowance?,
        })
    })
}

/// `sandbox-announce` from `TABLE_NAME` and `BUS_NAME`.
pub fn sandbox_announce() -> Result<SandboxAnnounce, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let bus = environment.required("BUS_NAME");
        Some(AnnounceOutcome {
            ledger: AgentTable::new(Arc::clone(&aws), table?),
            bus: EventBus::new(Arc::clone(&aws), bus?),
            clock: SystemClock,
        })
    })
}

/// `sandbox-retire` from `TABLE_NAME`, `MODEL_GATEWAY_URL`, `MODEL_GATEWAY_SECRET_ARN` and the
/// cluster's variables.
pub fn sandbox_retire() -> Result<SandboxRetire, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let claims = claims(environment, &aws);
        let gateway = environment.required::<GatewayUrl>("MODEL_GATEWAY_URL");
        let secret = environment.required("MODEL_GATEWAY_SECRET_ARN");
        let secret = MasterKeySecret::new(Arc::clone(&aws), secret?);
        Some(RetireSandbox {
            ledger: AgentTable::new(Arc::clone(&aws), table?),
            claims: claims?,
            model_users: ModelGateway::new(gateway?, secret),
            clock: SystemClock,
        })
    })
}

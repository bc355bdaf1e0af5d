//! The triggers, built from their environment.

use std::sync::Arc;

use carapace_control_plane::{
    accounts::UserPools,
    aws::Aws,
    bus::EventBus,
    config::{Misconfigured, from_process},
    identities::IdentityTable,
    parameters::PolicyParameter,
    time::SystemClock,
};

use serde_json::Value;

use crate::{
    pre_sign_up::{self, PreSignUp},
    pre_token::{self, PreToken},
};

/// `pre-sign-up` as it is deployed.
pub type DeployedPreSignUp = PreSignUp<PolicyParameter, IdentityTable, UserPools, SystemClock>;

/// `pre-token` as it is deployed.
pub type DeployedPreToken = PreToken<EventBus, SystemClock, fn(&Value)>;

/// `pre-sign-up`, from `SIGN_UP_POLICY_PARAMETER` and `TABLE_NAME`.
pub fn pre_sign_up() -> Result<DeployedPreSignUp, Misconfigured> {
    from_process(|environment| {
        let parameter = environment.required("SIGN_UP_POLICY_PARAMETER");
        let table = environment.required("TABLE_NAME");
        let aws = Arc::<Aws>::default();
        Some(PreSignUp {
            policies: PolicyParameter::new(Arc::clone(&aws), parameter?),
            identities: IdentityTable::new(Arc::clone(&aws), table?),
            accounts: UserPools::new(aws),
            clock: SystemClock,
            within: pre_sign_up::WITHIN,
        })
    })
}

/// `pre-token`, from `BUS_NAME`.
pub fn pre_token() -> Result<DeployedPreToken, Misconfigured> {
    from_process(|environment| {
        let bus = environment.required("BUS_NAME");
        Some(PreToken {
            sign_ins: EventBus::new(Arc::default(), bus?),
            clock: SystemClock,
            metric: print as fn(&Value),
            within: pre_token::WITHIN,
        })
    })
}

/// CloudWatch makes a metric of such a line in a function's log.
fn print(metric: &Value) {
    println!("{metric}");
}

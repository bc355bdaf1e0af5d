//! The functions' configuration, and the functions made from it.

use std::sync::Arc;

use carapace_control_plane::{
    aws::Aws,
    config::{Misconfigured, from_process},
    directory::{UserPool, UserPoolId},
    parameters::PolicyParameter,
    table::AgentTable,
    time::SystemClock,
};
use carapace_core::allowance::Allowance;

use crate::{offboard::OffboardUser, onboard::OnboardUser};

/// `user-onboard`, as it is deployed.
pub type UserOnboard = OnboardUser<AgentTable, UserPool, PolicyParameter, SystemClock>;
/// `user-offboard`, as it is deployed.
pub type UserOffboard = OffboardUser<AgentTable, UserPool, SystemClock>;

/// `user-onboard` from `TABLE_NAME`, `USER_POOL_ID`, `SIGN_UP_POLICY_PARAMETER` and `ALLOWANCE`.
pub fn user_onboard() -> Result<UserOnboard, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let pool = environment.required::<UserPoolId>("USER_POOL_ID");
        let parameter = environment.required("SIGN_UP_POLICY_PARAMETER");
        let allowance = environment.required::<Allowance>("ALLOWANCE");
        let pool = pool?;
        Some(OnboardUser {
            table: AgentTable::new(Arc::clone(&aws), table?),
            roster: UserPool::new(Arc::clone(&aws), pool.clone()),
            policies: PolicyParameter::new(Arc::clone(&aws), parameter?),
            clock: SystemClock,
            pool,
            allowance: allowance?,
        })
    })
}

/// `user-offboard` from `TABLE_NAME` and `USER_POOL_ID`.
pub fn user_offboard() -> Result<UserOffboard, Misconfigured> {
    let aws = Arc::new(Aws::default());
    from_process(|environment| {
        let table = environment.required("TABLE_NAME");
        let pool = environment.required::<UserPoolId>("USER_POOL_ID");
        let pool = pool?;
        Some(OffboardUser {
            table: AgentTable::new(Arc::clone(&aws), table?),
            directory: UserPool::new(Arc::clone(&aws), pool.clone()),
            clock: SystemClock,
            pool,
        })
    })
}

//! The Lambda function `pre-sign-up`.

use carapace_control_plane::lambda::start_logging;
use carapace_signup::config;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    let step = config::pre_sign_up()?;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        step.handle(event.payload).await
    }))
    .await
}

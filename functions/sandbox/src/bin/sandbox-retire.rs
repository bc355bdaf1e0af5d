//! The Lambda function `sandbox-retire`.

use carapace_control_plane::lambda::start_logging;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    let step = carapace_sandbox::config::sandbox_retire()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| {
        step.handle(event.payload)
    }))
    .await
}

//! The Lambda function `pre-token`.

use carapace_control_plane::lambda::start_logging;
use carapace_signup::config;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    let step = config::pre_token()?;
    // Here it costs nobody's time; at the first sign-in there would be none left for the bus.
    step.sign_ins.warm().await;
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        let answer = step.handle(event.payload, &event.context.request_id).await;
        Ok::<_, Error>(answer)
    }))
    .await
}

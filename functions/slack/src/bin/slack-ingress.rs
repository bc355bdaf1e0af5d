//! The Lambda function `slack-ingress`.

use carapace_control_plane::lambda::start_logging;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    let ingress = carapace_slack::config::slack_ingress()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| {
        ingress.handle(event.payload)
    }))
    .await
}

//! I8: no secret in a log. A target of its own, since what one test says of its threads' tracing is
//! felt by all others in the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "the harness serves other tests too"
)]

#[path = "daemon/harness.rs"]
mod harness;

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use harness::{ALICE, ALICES_KEY, BOB, Pod, say};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_logged_even_at_the_finest_level() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .finish();
    // The test's runtime has one thread, so that everything the daemon says is captured.
    let _capturing = tracing::subscriber::set_default(subscriber);

    let mut pod = Pod::of_alice().await;
    let bobs = "sk-bobs-rejected-key";
    let (good, foreign) = (pod.signer.token(ALICE), pod.signer.token(BOB));
    let forged = format!("{good}x");
    assert_eq!(pod.bind_with(&good, ALICE, ALICES_KEY).await.0, 200);
    assert_eq!(pod.bind_with(&foreign, BOB, bobs).await.0, 409);
    assert_eq!(pod.bind_with(&forged, ALICE, ALICES_KEY).await.0, 401);
    assert_eq!(pod.complete(&say("a private question")).await.0, 200);
    pod.restart().await;
    pod.until_ready().await;
    std::fs::write(
        pod.path("private/binding.json"),
        format!("{{\"model_key\":\"{ALICES_KEY}\""),
    )
    .unwrap();
    pod.restart().await;
    assert_eq!(pod.complete(&say("a private question")).await.0, 503);

    let config: Value = serde_json::from_slice(&pod.openclaw_config()).unwrap();
    let gateway_token = config["gateway"]["auth"]["token"].as_str().unwrap();
    let signature = good.rsplit('.').next().unwrap();
    let logs = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    for line in [
        "bound",
        "a call was refused",
        "model call",
        "the binding is unreadable",
    ] {
        assert!(logs.contains(line), "the capture missed {line:?}:\n{logs}");
    }
    for secret in [
        ALICES_KEY,
        bobs,
        gateway_token,
        &good,
        signature,
        "a private question",
    ] {
        assert!(!logs.contains(secret), "{secret} was logged:\n{logs}");
    }
}

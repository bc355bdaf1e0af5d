//! What all AWS clients share.

use std::{future::Future, pin::Pin, time::Duration};

use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use carapace_core::ports::Trouble;
use tokio::sync::OnceCell;

/// A call that takes longer than this is tried again; all tries together may take four times as
/// long. Every call that we make answers within milliseconds when all is well.
const ATTEMPT: Duration = Duration::from_secs(3);

/// The configuration of the AWS clients: region, credentials and, in tests, the endpoint, all from
/// the environment that Lambda provides.
///
/// Made on first use and shared, so that all clients have the same connections and the same
/// credentials.
#[derive(Debug, Default)]
pub struct Aws(OnceCell<SdkConfig>);

impl Aws {
    /// The configuration of whoever has more to say about it than the environment does: `adjust` may
    /// set a region or a profile.
    pub async fn with(adjust: impl FnOnce(ConfigLoader) -> ConfigLoader + Send) -> Self {
        Self(OnceCell::new_with(Some(boxed(load(adjust)).await)))
    }

    /// The configuration.
    pub async fn config(&self) -> &SdkConfig {
        self.0.get_or_init(|| boxed(load(|loader| loader))).await
    }
}

async fn load(adjust: impl FnOnce(ConfigLoader) -> ConfigLoader + Send) -> SdkConfig {
    let https = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(ATTEMPT * 4)
        .build();
    // A pinned version: what retries and timeouts mean must not change with an update.
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(https)
        .timeout_config(timeouts);
    adjust(loader).load().await
}

/// The future of an SDK's call, on the heap. Inside another future it would take tens of kilobytes,
/// and its type is nested so deeply that the compiler gives up on a few of them in one another.
pub(crate) fn boxed<'a, T>(
    call: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(call)
}

/// The codes with which AWS says that trying again is of no use.
const REFUSALS: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "DisabledException",
    "InvalidClientTokenId",
    "InvalidKeyUsageException",
    "KMSInvalidStateException",
    "NotAuthorized",
    "NotFoundException",
    "ResourceNotFoundException",
    "UnrecognizedClientException",
    "ValidationException",
];

/// What the failure of a call means to the caller.
///
/// `code` is the service's error code, if the service answered.
pub fn trouble(
    service: &'static str,
    code: Option<&str>,
    error: &dyn std::error::Error,
) -> Trouble {
    sorted(service, code, chain(error))
}

/// Sorts a failure by its code. What is not known to be final is worth another try.
pub fn sorted(service: &'static str, code: Option<&str>, why: String) -> Trouble {
    match code {
        Some(code) if REFUSALS.contains(&code) => Trouble::Refused { service, why },
        _ => Trouble::Unavailable { service, why },
    }
}

/// An error and what it came from, in one line: the SDKs' own texts say little more than that a
/// service returned an error.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

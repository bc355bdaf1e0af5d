//! Calls to the services that are not AWS's: the model gateway and `agentd`.
//!
//! They go through the HTTP client that the AWS SDKs use, so a function has one HTTP stack and one
//! TLS library. It follows no redirect and takes no proxy from the environment: a secret goes to
//! the address that it is meant for, or nowhere.

use std::time::Duration;

use aws_smithy_http_client::{
    Connector,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorSettings},
        orchestrator::HttpResponse,
    },
    http::HttpError,
};
use aws_smithy_types::body::SdkBody;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Limited};
use serde::{Serialize, de::DeserializeOwned};

use crate::aws::{boxed, chain};

/// The largest answer that is read. All that are expected are far smaller.
const ANSWER_BYTES: usize = 64 * 1024;

/// A client for calls with JSON in and JSON out.
#[derive(Debug)]
pub(crate) struct JsonClient {
    connector: Connector,
    patience: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the call could not be made: {0}")]
    Malformed(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Broken(String),
}

impl JsonClient {
    /// A client that waits for at most `patience` for an answer.
    pub(crate) fn new(patience: Duration) -> Self {
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(Duration::from_secs(2))
            .read_timeout(patience)
            .build();
        let connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .connector_settings(settings)
            .enable_tcp_nodelay(true)
            .build();
        Self {
            connector,
            patience,
        }
    }

    /// Sends a request with a bearer token, and with a body if there is one.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        bearer: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, NoAnswer> {
        let request = request(method, url, bearer, body)?;
        let answer = async {
            let answer = boxed(self.connector.call(request)).await;
            read(answer.map_err(|error| NoAnswer::Broken(chain(&error)))?).await
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(NoAnswer::Timeout(self.patience)),
        }
    }
}

impl Answer {
    #[cfg(test)]
    pub(crate) fn new(status: u16, body: &str) -> Self {
        Self {
            status,
            body: body.into(),
        }
    }

    /// The body as a `T`, if it is one.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

fn request(
    method: Method,
    url: &str,
    bearer: &str,
    body: Option<&impl Serialize>,
) -> Result<aws_smithy_runtime_api::client::orchestrator::HttpRequest, NoAnswer> {
    let malformed = |why: String| NoAnswer::Malformed(why);
    // Marked as a secret, so that no layer below logs it.
    let mut bearer = HeaderValue::try_from(format!("Bearer {bearer}"))
        .map_err(|error| malformed(error.to_string()))?;
    bearer.set_sensitive(true);
    let body = match body {
        Some(body) => {
            SdkBody::from(serde_json::to_vec(body).map_err(|error| malformed(error.to_string()))?)
        }
        None => SdkBody::empty(),
    };
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| malformed(error.to_string()))?;
    request
        .try_into()
        .map_err(|error: HttpError| malformed(chain(&error)))
}

async fn read(answer: HttpResponse) -> Result<Answer, NoAnswer> {
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES)
        .collect()
        .await;
    let body = body.map_err(|error| NoAnswer::Broken(format!("its answer broke off: {error}")))?;
    Ok(Answer {
        status,
        body: body.to_bytes().to_vec(),
    })
}

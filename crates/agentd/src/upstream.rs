//! The HTTP client, towards the model gateway and towards OpenClaw.
//!
//! It follows no redirects, reads no proxy variables, and adds no headers of its own: what goes to
//! the gateway is what this crate says.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use carapace_core::agentd::ErrorName;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the idle timeout of common load balancers, so that a pooled connection isn't a dead one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for one server.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    base: Uri,
    client: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {base}")]
pub(crate) struct Unanswered {
    base: Uri,
    source: hyper_util::client::legacy::Error,
}

impl Unanswered {
    /// All causes on one line, for a log.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

impl Upstream {
    /// A client for the server at `base`. With `https` the system's authorities are read now, so
    /// that their absence shows at the start and not at a user's first call.
    pub(crate) fn new(base: Uri) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(hyper_util::rt::TokioTimer::new());
        let client = if base.scheme_str() == Some("https") {
            connector.enforce_http(false);
            let tls = hyper_rustls::HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            Kind::Tls(builder.build(tls))
        } else {
            Kind::Plain(builder.build(connector))
        };
        Ok(Self { base, client })
    }

    /// A request to a path below the base.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ErrorName> {
        let uri = format!("{}{path}", self.base.to_string().trim_end_matches('/'));
        Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(|_| ErrorName::MalformedRequest)
    }

    /// Sends a request and returns when the answer's head is there.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let sent = match &self.client {
            Kind::Plain(client) => client.request(request).await,
            Kind::Tls(client) => client.request(request).await,
        };
        sent.map_err(|source| Unanswered {
            base: self.base.clone(),
            source,
        })
    }
}

//! The frames of protocol 4.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A client's request.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    #[serde(rename = "type")]
    kind: String,
    pub(crate) id: String,
    pub(crate) method: String,
    #[serde(default)]
    params: Value,
}

impl Request {
    pub(crate) fn params<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let method = &self.method;
        serde_json::from_value(self.params.clone())
            .map_err(|error| Failure::invalid(format!("invalid {method} params: {error}")))
    }
}

/// Why a request isn't answered.
#[derive(Debug)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: "INVALID_REQUEST",
            message: message.into(),
        }
    }
}

pub(crate) fn success(id: &str, payload: &Value) -> Value {
    json!({"type": "res", "id": id, "ok": true, "payload": payload})
}

pub(crate) fn failure(id: &str, failure: &Failure) -> Value {
    let error = json!({"code": failure.code, "message": failure.message});
    json!({"type": "res", "id": id, "ok": false, "error": error})
}

/// How a client introduces itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Connect {
    min_protocol: u64,
    max_protocol: u64,
    client: Client,
    role: String,
    scopes: HashSet<String>,
    auth: Auth,
}

#[derive(Debug, Deserialize)]
struct Client {
    id: String,
    #[serde(rename = "version")]
    _version: String,
    #[serde(rename = "platform")]
    _platform: String,
    mode: String,
}

#[derive(Debug, Deserialize)]
struct Auth {
    token: String,
}

impl Connect {
    /// The scopes of a client that knows the token.
    pub(crate) fn check(
        call: &Request,
        token: &str,
        protocol: u64,
    ) -> Result<HashSet<String>, Failure> {
        if call.kind != "req" || call.method != "connect" {
            return Err(Failure::invalid(
                "invalid handshake: first request must be connect",
            ));
        }
        let connect: Self = call.params()?;
        if !(connect.min_protocol..=connect.max_protocol).contains(&protocol) {
            return Err(Failure::invalid("protocol mismatch"));
        }
        if connect.auth.token != token {
            return Err(Failure::invalid("unauthorized: gateway token mismatch"));
        }
        // Any other client would have to be paired first, which nobody here could confirm.
        let is_backend = connect.client.id == "gateway-client" && connect.client.mode == "backend";
        if !is_backend || connect.role != "operator" {
            return Err(Failure::invalid("pairing required"));
        }
        Ok(connect.scopes)
    }
}

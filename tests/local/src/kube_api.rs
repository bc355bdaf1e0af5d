//! A Kubernetes client for the few calls that starting a stack takes.
//!
//! It speaks HTTP/1.0, so that an answer ends where the connection does: a whole client library
//! would be the largest dependency of a tool that people compile before they can do anything.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};

use crate::certificates::{Authority, Certificate};

/// An API server that starts on a busy machine has been seen to take ten seconds for an answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{method} {path}: {source}")]
    Transport {
        method: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("{method} {path}: {status}: {message}")]
    Refused {
        method: &'static str,
        path: String,
        status: u16,
        message: String,
    },
    #[error("TLS: {0}")]
    Tls(String),
}

/// The API server of one stack, seen by a cluster administrator.
#[derive(Clone)]
pub(crate) struct KubeApi {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl KubeApi {
    pub(crate) fn new(
        port: u16,
        authority: &Authority,
        admin: &Certificate,
    ) -> Result<Self, ApiError> {
        let tls = |error: &dyn std::fmt::Display| ApiError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(authority.der()))
            .map_err(|error| tls(&error))?;
        let chain =
            CertificateDer::from_pem_file(&admin.certificate).map_err(|error| tls(&error))?;
        let key = PrivateKeyDer::from_pem_file(&admin.key).map_err(|error| tls(&error))?;
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .and_then(|builder| {
                    builder
                        .with_root_certificates(roots)
                        .with_client_auth_cert(vec![chain], key)
                })
                .map_err(|error| tls(&error))?;
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            tls: Arc::new(config),
        })
    }

    /// The same credentials for another server with a certificate of the same authority.
    pub(crate) fn at(&self, port: u16) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            tls: Arc::clone(&self.tls),
        }
    }

    /// What is at `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call("GET", path, "application/json", String::new())
            .await
    }

    /// Creates what `body` describes in the collection at `path`.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.call("POST", path, "application/json", body.to_string())
            .await
    }

    /// Creates or changes the object at `path` to what `yaml` says.
    pub(crate) async fn apply(&self, path: &str, yaml: String) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager=carapace-local&force=true");
        self.call("PATCH", &path, "application/apply-patch+yaml", yaml)
            .await
    }

    /// Changes the fields of the object at `path` that `patch` names.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, ApiError> {
        self.call(
            "PATCH",
            path,
            "application/merge-patch+json",
            patch.to_string(),
        )
        .await
    }

    /// Whether the object at `path` has the condition `kind` with status `True`.
    pub(crate) async fn has_condition(&self, path: &str, kind: &str) -> Result<bool, ApiError> {
        let object = self.get(path).await?;
        let met = json!({ "type": kind, "status": "True" });
        Ok(object["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition["type"] == met["type"] && condition["status"] == met["status"]
                })
            }))
    }

    async fn call(
        &self,
        method: &'static str,
        path: &str,
        content_type: &'static str,
        body: String,
    ) -> Result<Value, ApiError> {
        let this = self.clone();
        let target = path.to_owned();
        let answer = tokio::task::spawn_blocking(move || {
            this.exchange(method, &target, content_type, &body)
        })
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
        let (status, body) = answer.map_err(|source| ApiError::Transport {
            method,
            path: path.to_owned(),
            source,
        })?;
        // Health checks answer in plain words.
        let value = serde_json::from_str(&body).unwrap_or(Value::String(body));
        if (200..300).contains(&status) {
            return Ok(value);
        }
        Err(ApiError::Refused {
            method,
            path: path.to_owned(),
            status,
            message: match &value {
                Value::String(text) => text.trim().to_owned(),
                value => value["message"].as_str().unwrap_or_default().to_owned(),
            },
        })
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> io::Result<(u16, String)> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let server = ServerName::from(self.address.ip());
        let session = ClientConnection::new(self.tls.clone(), server).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len(),
        )?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // Go closes an HTTP/1.0 connection without TLS's farewell; the length says enough.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => {
                read?;
            }
        }
        parse(&answer)
    }
}

fn parse(answer: &[u8]) -> io::Result<(u16, String)> {
    let answer = String::from_utf8_lossy(answer);
    let cut_off = || {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the API server's answer was cut off",
        )
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_off)?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(cut_off)?;
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    if announced.is_some_and(|length| length != body.len()) {
        return Err(cut_off());
    }
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(parse(answer).unwrap(), (200, "ok".to_owned()));
    }

    #[test]
    fn an_answer_that_was_cut_off_is_not_taken_for_a_short_one() {
        assert!(parse(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok").is_err());
        assert!(parse(b"HTTP/1.0 200").is_err());
    }
}

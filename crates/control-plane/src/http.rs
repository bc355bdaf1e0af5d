//! Calls to the services that are not AWS's: the model gateway, `agentd` and Slack.
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

/// The largest answer that is read. All that are expected are smaller: the longest is a message that
/// Slack repeats when it was changed, its text and the same as blocks, escaped.
const ANSWER_BYTES: usize = 1024 * 1024;

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
    /// How long to wait before the next call, if it says so in seconds.
    pub(crate) retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// What a request whose answer may be a stream was answered with.
#[cfg(feature = "agentd")]
#[derive(Debug)]
pub(crate) enum Opened {
    Stream(Lines),
    Answer(Answer),
}

/// The lines of an answer, as they come.
#[cfg(feature = "agentd")]
pub(crate) struct Lines {
    body: SdkBody,
    buffer: Vec<u8>,
    /// How much of the buffer is known to have no end of a line.
    searched: usize,
    silence: Duration,
    /// When something last came.
    heard: tokio::time::Instant,
}

#[cfg(feature = "agentd")]
impl std::fmt::Debug for Lines {
    /// Without the buffer: what a user is told is nobody's but theirs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(feature = "agentd")]
impl Lines {
    /// The longest line that is read. `agentd` keeps at most half a mebibyte of what an agent says
    /// in one turn, and JSON may need six bytes for one of a text.
    const LONGEST: usize = 4 * 1024 * 1024;

    fn new(body: SdkBody, silence: Duration) -> Self {
        Self {
            body,
            buffer: Vec::new(),
            searched: 0,
            silence,
            heard: tokio::time::Instant::now(),
        }
    }

    /// The next line without its end; `None` when the answer is over. What comes without an end of
    /// its line is no line. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, NoAnswer> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|b| *b == b'\n');
            if let Some(end) = end.map(|end| self.searched + end) {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                line.truncate(line.trim_ascii_end().len());
                let line = String::from_utf8(line);
                return line
                    .map(Some)
                    .map_err(|_| NoAnswer::Broken("a line of it is no UTF-8".to_owned()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > Self::LONGEST {
                return Err(NoAnswer::Broken("a line of it is too long".to_owned()));
            }
            let frame = tokio::time::timeout_at(self.heard + self.silence, self.body.frame()).await;
            match frame.map_err(|_| NoAnswer::Timeout(self.silence))? {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(NoAnswer::Broken(format!("its answer broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    self.heard = tokio::time::Instant::now();
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
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

    /// Sends a request whose answer may come bit by bit, over minutes. What is not `200` with a
    /// `text/event-stream` is read as a whole. `patience` is for the answer to begin, `silence` for
    /// anything more to come of it.
    #[cfg(feature = "agentd")]
    pub(crate) async fn open(
        &self,
        method: Method,
        url: &str,
        bearer: &str,
        body: Option<&impl Serialize>,
        silence: Duration,
    ) -> Result<Opened, NoAnswer> {
        let request = request(method, url, bearer, body)?;
        let opened = async {
            let answer = boxed(self.connector.call(request)).await;
            let answer = answer.map_err(|error| NoAnswer::Broken(chain(&error)))?;
            let kind = answer.headers().get(header::CONTENT_TYPE.as_str());
            let streams = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
            if answer.status().as_u16() == 200 && streams {
                return Ok(Opened::Stream(Lines::new(answer.into_body(), silence)));
            }
            read(answer).await.map(Opened::Answer)
        };
        match tokio::time::timeout(self.patience, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(NoAnswer::Timeout(self.patience)),
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
            retry_after: None,
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
    let retry_after = answer.headers().get(header::RETRY_AFTER.as_str());
    let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok());
    let body = Limited::new(answer.into_body(), ANSWER_BYTES)
        .collect()
        .await;
    let body = body.map_err(|error| NoAnswer::Broken(format!("its answer broke off: {error}")))?;
    Ok(Answer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        body: body.to_bytes().to_vec(),
    })
}

#[cfg(test)]
#[cfg(feature = "agentd")]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    const SILENCE: Duration = Duration::from_millis(300);

    /// Answers one request with these pieces, a moment apart, and then with nothing more; `stays`
    /// keeps the line open.
    async fn serve(pieces: Vec<Vec<u8>>, stays: bool) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut line, _) = listener.accept().await.unwrap();
            let _ = line.read(&mut [0; 4096]).await.unwrap();
            for piece in pieces {
                // Whoever has heard enough leaves.
                if line.write_all(&piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if stays {
                std::future::pending::<()>().await;
            }
        });
        format!("http://{address}/")
    }

    async fn open(url: &str) -> Result<Opened, NoAnswer> {
        let client = JsonClient::new(Duration::from_secs(2));
        client
            .open(Method::POST, url, "token", Some(&"hello"), SILENCE)
            .await
    }

    async fn stream(pieces: &[&[u8]], stays: bool) -> Lines {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
        let pieces = pieces.iter().map(|piece| piece.to_vec());
        let url = serve([head].into_iter().chain(pieces).collect(), stays).await;
        match open(&url).await.unwrap() {
            Opened::Stream(lines) => lines,
            Opened::Answer(answer) => panic!("{answer:?}"),
        }
    }

    async fn rest(lines: &mut Lines) -> Result<Vec<String>, NoAnswer> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().await? {
            all.push(line);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn lines_are_read_as_they_come_however_they_are_cut() {
        let pieces: [&[u8]; 5] = [
            b"id: 1\r\nda",
            b"ta: \xe5",
            b"\xa4\xa9\n\n",
            b": \nx\n",
            b"no end",
        ];
        let mut lines = stream(&pieces, false).await;
        let all = rest(&mut lines).await.unwrap();
        assert_eq!(all, ["id: 1", "data: 天", "", ":", "x"]);
    }

    /// Whoever waits for something else as well drops the future and asks again.
    #[tokio::test]
    async fn nothing_is_lost_when_nobody_waits() {
        let mut lines = stream(&[b"a", b"b", b"c", b"\nd\n"], false).await;
        let mut all = Vec::new();
        loop {
            match timeout(Duration::from_millis(1), lines.next()).await {
                Err(_) => {}
                Ok(Ok(Some(line))) => all.push(line),
                Ok(end) => {
                    assert!(end.unwrap().is_none());
                    break;
                }
            }
        }
        assert_eq!(all, ["abc", "d"]);
    }

    #[tokio::test]
    async fn a_line_that_falls_silent_is_given_up() {
        let mut lines = stream(&[b"a\n", b"b"], true).await;
        assert_eq!(lines.next().await.unwrap().unwrap(), "a");
        assert!(matches!(lines.next().await, Err(NoAnswer::Timeout(_))));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_read_for_ever() {
        let piece = vec![b'a'; 1024 * 1024];
        let mut lines = stream(&[piece.as_slice(); 6], true).await;
        assert!(matches!(lines.next().await, Err(NoAnswer::Broken(_))));
    }

    #[tokio::test]
    async fn what_is_no_stream_is_read_as_a_whole() {
        for head in [
            "HTTP/1.1 409 Conflict\r\ncontent-type: text/event-stream",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json",
        ] {
            let answer = format!("{head}\r\ncontent-length: 2\r\n\r\n{{}}");
            let url = serve(vec![answer.into_bytes()], false).await;
            match open(&url).await.unwrap() {
                Opened::Answer(answer) => assert!(answer.json::<serde_json::Value>().is_some()),
                Opened::Stream(lines) => panic!("{lines:?}"),
            }
        }
    }
}

//! Requests to OpenClaw from anywhere in `agentd`, over the one line that [`gateway`](crate::gateway)
//! keeps.
//!
//! A request is for the line that is up when it is made. If that breaks, the request fails, and it is
//! never sent over the next line behind the back of somebody who has given up: a turn that nobody
//! waits for any more would run all the same.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

const QUEUE: usize = 32;
/// OpenClaw acknowledges at once, except at its first database access, which takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the line to OpenClaw is down")]
    LineDown,
    #[error("OpenClaw did not answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    #[error("OpenClaw refused: {reason}")]
    Refused {
        reason: String,
        /// It may be asked again after a while.
        is_temporary: bool,
    },
}

type Reply = oneshot::Sender<Result<Value, RequestError>>;

/// A request on its way to the line.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) params: Value,
    line: u64,
    reply: Reply,
}

/// Where requests are made.
#[derive(Debug)]
pub(crate) struct Switchboard {
    calls: mpsc::Sender<Call>,
    /// The number of the line that is up. Lines are never numbered twice.
    line: watch::Sender<Option<u64>>,
}

/// The other end, for the one who keeps the line.
pub(crate) struct Exchange {
    calls: mpsc::Receiver<Call>,
    pending: HashMap<String, Reply>,
    last_line: u64,
    line: watch::Sender<Option<u64>>,
}

/// Both ends.
pub(crate) fn switchboard() -> (Switchboard, Exchange) {
    let (sender, calls) = mpsc::channel(QUEUE);
    let line = watch::Sender::new(None);
    let exchange = Exchange {
        calls,
        pending: HashMap::new(),
        last_line: 0,
        line: line.clone(),
    };
    let switchboard = Switchboard {
        calls: sender,
        line,
    };
    (switchboard, exchange)
}

impl Switchboard {
    /// Waits for a line to be up and tells its number.
    pub(crate) async fn up(&self) -> u64 {
        let mut line = self.line.subscribe();
        loop {
            if let Some(number) = *line.borrow_and_update() {
                return number;
            }
            // The sender is `self`.
            let _ = line.changed().await;
        }
    }

    /// Waits until the line of this number is down.
    pub(crate) async fn down(&self, number: u64) {
        let mut line = self.line.subscribe();
        let _ = line.wait_for(|line| *line != Some(number)).await;
    }

    /// Asks over the line of this number, and no other.
    pub(crate) async fn request(
        &self,
        line: u64,
        method: &'static str,
        params: Value,
    ) -> Result<Value, RequestError> {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            method,
            params,
            line,
            reply,
        };
        let asked = async {
            let queued = self.calls.send(call).await;
            queued.map_err(|_| RequestError::LineDown)?;
            answer.await.map_err(|_| RequestError::LineDown)?
        };
        tokio::select! {
            answer = tokio::time::timeout(ANSWER_TIMEOUT, asked) => {
                answer.unwrap_or(Err(RequestError::Timeout))
            }
            () = self.down(line) => Err(RequestError::LineDown),
        }
    }
}

impl Exchange {
    /// A new line is up; what was asked for before is void.
    pub(crate) fn open(&mut self) {
        self.last_line += 1;
        self.line.send_replace(Some(self.last_line));
    }

    /// The line is down: nobody who asked gets an answer.
    pub(crate) fn close(&mut self) {
        self.line.send_replace(None);
        self.pending.clear();
    }

    /// The next request that is to go out.
    pub(crate) async fn next(&mut self) -> Call {
        loop {
            match self.calls.recv().await {
                Some(call) if call.line == self.last_line && !call.reply.is_closed() => {
                    return call;
                }
                Some(_) => {}
                // Nobody can ask any more.
                None => std::future::pending().await,
            }
        }
    }

    /// It went out under this id.
    pub(crate) fn sent(&mut self, id: String, call: Call) {
        // Whoever has given up leaves an entry behind.
        self.pending.retain(|_, reply| !reply.is_closed());
        self.pending.insert(id, call.reply);
    }

    /// Its answer has come.
    pub(crate) fn answered(&mut self, id: &str, answer: Result<Value, RequestError>) {
        if let Some(reply) = self.pending.remove(id) {
            // Whoever has given up doesn't listen.
            let _ = reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_request_is_answered_over_its_line() {
        let (switchboard, mut exchange) = switchboard();
        exchange.open();
        let line = switchboard.up().await;
        let keeper = async {
            let call = exchange.next().await;
            assert_eq!(call.method, "chat.history");
            exchange.sent("1".to_owned(), call);
            exchange.answered("1", Ok(json!("yes")));
        };
        let asked = switchboard.request(line, "chat.history", json!({}));
        assert_eq!(futures::join!(asked, keeper).0, Ok(json!("yes")));
    }

    #[tokio::test]
    async fn a_request_does_not_outlive_its_line() {
        let (switchboard, mut exchange) = switchboard();
        exchange.open();
        let line = switchboard.up().await;
        let breaking = async {
            let call = exchange.next().await;
            exchange.sent("1".to_owned(), call);
            exchange.close();
        };
        let asked = switchboard.request(line, "chat.send", json!({}));
        assert_eq!(
            futures::join!(asked, breaking).0,
            Err(RequestError::LineDown)
        );
        exchange.open();
        let late = switchboard.request(line, "chat.send", json!({})).await;
        assert_eq!(late, Err(RequestError::LineDown));
        let next = tokio::time::timeout(Duration::from_millis(50), exchange.next()).await;
        assert!(next.is_err(), "a stale request goes out over a new line");
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_is_not_sent() {
        let (switchboard, mut exchange) = switchboard();
        exchange.open();
        let line = switchboard.up().await;
        let asked = switchboard.request(line, "chat.send", json!({}));
        let given_up = tokio::time::timeout(Duration::from_millis(20), asked).await;
        assert!(given_up.is_err());
        let next = tokio::time::timeout(Duration::from_millis(50), exchange.next()).await;
        assert!(next.is_err());
    }
}

//! Turns: one after the other within a session, each a streamed call of the model.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use futures::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::config::{Configuration, Model};
use super::wire::Failure;

/// Events that a slow client may be behind before it loses its line.
const BACKLOG: usize = 1024;

/// Something that every client with `operator.read` is told.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) payload: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Send {
    session_key: String,
    message: String,
    idempotency_key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct History {
    session_key: String,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Abort {
    key: String,
}

/// All sessions.
pub(crate) struct Turns(Arc<Inner>);

struct Inner {
    configuration: Configuration,
    client: reqwest::Client,
    events: broadcast::Sender<Event>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Run by run: whether it is over.
    runs: Mutex<HashMap<String, bool>>,
}

#[derive(Default)]
struct Session {
    /// Held by the run under way; the lock is fair, so that runs follow each other in order.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    messages: Vec<(&'static str, String)>,
    in_flight: Option<(String, String)>,
    tasks: Vec<tokio::task::AbortHandle>,
}

/// An id that no other has.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}", Timestamp::now().as_microsecond())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub(crate) fn new(configuration: &Configuration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("building a client")?;
        Ok(Self(Arc::new(Inner {
            configuration: configuration.clone(),
            client,
            events: broadcast::channel(BACKLOG).0,
            sessions: Mutex::default(),
            runs: Mutex::default(),
        })))
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Accepts a turn; the answer comes before its end. The same key again starts nothing.
    pub(crate) fn send(&self, send: Send) -> Result<Value, Failure> {
        let Send {
            session_key,
            message,
            idempotency_key: run,
        } = send;
        let agent = self.agent_of(&session_key)?;
        if run.is_empty() || message.trim().is_empty() {
            return Err(Failure::invalid(
                "invalid chat.send params: empty message or key",
            ));
        }
        let known = match lock(&self.0.runs).entry(run.clone()) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(new) => {
                new.insert(false);
                None
            }
        };
        if let Some(is_over) = known {
            let status = if is_over { "ok" } else { "in_flight" };
            return Ok(json!({"runId": run, "status": status}));
        }
        let answer = json!({"runId": run, "status": "started"});
        let session = self.session(&session_key);
        let inner = Arc::clone(&self.0);
        let task = Run {
            inner,
            session: Arc::clone(&session),
            session_key,
            agent,
            id: run,
        };
        let handle = tokio::spawn(task.perform(message)).abort_handle();
        lock(&session.state).tasks.push(handle);
        Ok(answer)
    }

    pub(crate) fn history(&self, history: &History) -> Result<Value, Failure> {
        self.agent_of(&history.session_key)?;
        let session = self.session(&history.session_key);
        let state = lock(&session.state);
        let skipped = history
            .limit
            .map_or(0, |limit| state.messages.len().saturating_sub(limit));
        let messages = state.messages[skipped..]
            .iter()
            .map(|(role, text)| json!({"role": role, "content": [{"type": "text", "text": text}]}));
        let mut answer =
            json!({"sessionKey": history.session_key, "messages": messages.collect::<Vec<_>>()});
        if let Some((run, text)) = &state.in_flight {
            answer["inFlightRun"] = json!({"runId": run, "text": text});
        }
        Ok(answer)
    }

    /// Stops the turn under way, and those that wait behind it.
    pub(crate) fn abort(&self, abort: &Abort) -> Result<Value, Failure> {
        let agent = self.agent_of(&abort.key)?;
        let session = self.session(&abort.key);
        let mut state = lock(&session.state);
        for task in state.tasks.drain(..) {
            task.abort();
        }
        let Some((run, _)) = state.in_flight.take() else {
            return Ok(json!({"aborted": false}));
        };
        drop(state);
        lock(&self.0.runs).insert(run.clone(), true);
        self.0.lifecycle(
            &run,
            &abort.key,
            &agent,
            &json!({"phase": "end", "aborted": true}),
        );
        Ok(json!({"aborted": true, "runIds": [run]}))
    }

    /// `agent:<agent>:<conversation>`
    fn agent_of(&self, session_key: &str) -> Result<String, Failure> {
        let agent = session_key
            .strip_prefix("agent:")
            .and_then(|rest| rest.split_once(':'))
            .filter(|(_, conversation)| !conversation.is_empty())
            .map(|(agent, _)| agent);
        match agent {
            Some(agent) if self.0.configuration.has_agent(agent) => Ok(agent.to_owned()),
            Some(agent) => Err(Failure::invalid(format!("unknown agent: {agent}"))),
            None => Err(Failure::invalid(format!(
                "invalid session key: {session_key}"
            ))),
        }
    }

    fn session(&self, key: &str) -> Arc<Session> {
        Arc::clone(lock(&self.0.sessions).entry(key.to_owned()).or_default())
    }
}

impl Inner {
    fn lifecycle(&self, run: &str, session_key: &str, agent: &str, data: &Value) {
        self.tell(
            "agent",
            run,
            session_key,
            agent,
            json!({"stream": "lifecycle", "data": data}),
        );
    }

    fn tell(&self, name: &'static str, run: &str, session_key: &str, agent: &str, rest: Value) {
        let mut payload = json!({
            "runId": run, "sessionKey": session_key, "agentId": agent,
            "ts": Timestamp::now().as_millisecond(),
        });
        if let (Some(payload), Value::Object(rest)) = (payload.as_object_mut(), rest) {
            payload.extend(rest);
        }
        // Nobody listening is no error.
        let _ = self.events.send(Event { name, payload });
    }
}

struct Run {
    inner: Arc<Inner>,
    session: Arc<Session>,
    session_key: String,
    agent: String,
    id: String,
}

impl Run {
    async fn perform(self, message: String) {
        let session = Arc::clone(&self.session);
        let _turn = session.turn.lock().await;
        let started = Timestamp::now().as_millisecond();
        lock(&session.state).in_flight = Some((self.id.clone(), String::new()));
        self.lifecycle(&json!({"phase": "start", "startedAt": started}));
        let outcome = self.ask(&message).await;
        let mut state = lock(&session.state);
        state.in_flight = None;
        state.tasks.retain(|task| !task.is_finished());
        if let Ok(reply) = &outcome {
            state.messages.push(("user", message));
            state.messages.push(("assistant", reply.clone()));
        }
        drop(state);
        lock(&self.inner.runs).insert(self.id.clone(), true);
        match outcome {
            Ok(reply) => {
                self.lifecycle(&json!({"phase": "end", "stopReason": "stop", "aborted": false}));
                let message =
                    json!({"role": "assistant", "content": [{"type": "text", "text": reply}]});
                self.tell("chat", json!({"state": "final", "message": message}));
            }
            Err(error) => {
                let error = format!("{error:#}");
                self.lifecycle(&json!({"phase": "error", "error": error}));
                self.tell("chat", json!({"state": "error", "errorMessage": error}));
            }
        }
    }

    /// Streams one completion, telling every piece.
    async fn ask(&self, message: &str) -> anyhow::Result<String> {
        let Model {
            base_url,
            api_key,
            id,
        } = self.inner.configuration.model();
        let mut messages = vec![json!({"role": "system", "content": "You are a scripted agent."})];
        for (role, text) in &lock(&self.session.state).messages {
            messages.push(json!({"role": role, "content": text}));
        }
        messages.push(json!({"role": "user", "content": message}));
        let request = json!({
            "model": id, "messages": messages,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let url = format!("{base_url}/chat/completions");
        let answer = self
            .inner
            .client
            .post(&url)
            .bearer_auth(api_key)
            .json(&request)
            .send()
            .await;
        let answer = answer.with_context(|| format!("calling the model at {url}"))?;
        if !answer.status().is_success() {
            let status = answer.status();
            bail!(
                "the model answered {status}: {}",
                answer.text().await.unwrap_or_default()
            );
        }
        let mut stream = answer.bytes_stream();
        let (mut pending, mut reply) = (Vec::new(), String::new());
        while let Some(bytes) = stream.next().await {
            pending.extend_from_slice(&bytes.context("reading the model's answer")?);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match delta(&line)? {
                    Delta::Text(text) => self.say(&mut reply, &text),
                    Delta::Done => return Ok(reply),
                    Delta::Nothing => {}
                }
            }
        }
        bail!("the model's answer broke off after {reply:?}")
    }

    fn say(&self, reply: &mut String, text: &str) {
        reply.push_str(text);
        if let Some((_, so_far)) = &mut lock(&self.session.state).in_flight {
            so_far.clone_from(reply);
        }
        let data = json!({"text": reply, "delta": text});
        self.tell("agent", json!({"stream": "assistant", "data": data}));
        self.tell("chat", json!({"state": "delta", "deltaText": text}));
    }

    fn lifecycle(&self, data: &Value) {
        self.inner
            .lifecycle(&self.id, &self.session_key, &self.agent, data);
    }

    fn tell(&self, name: &'static str, rest: Value) {
        self.inner
            .tell(name, &self.id, &self.session_key, &self.agent, rest);
    }
}

enum Delta {
    Text(String),
    Nothing,
    Done,
}

fn delta(line: &[u8]) -> anyhow::Result<Delta> {
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
        return Ok(Delta::Nothing);
    };
    if data == b"[DONE]" {
        return Ok(Delta::Done);
    }
    let chunk: Value = serde_json::from_slice(data).context("the model streamed no JSON")?;
    let text = chunk["choices"][0]["delta"]["content"]
        .as_str()
        .unwrap_or_default();
    Ok(if text.is_empty() {
        Delta::Nothing
    } else {
        Delta::Text(text.to_owned())
    })
}

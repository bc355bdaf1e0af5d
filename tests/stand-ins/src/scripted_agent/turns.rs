//! Turns: one after the other within a session, each a streamed call of the model.
//!
//! A word in the message makes a turn more than that; any word may go with any other:
//! - `SLOW n` says n words first, a quarter of a second apart.
//! - `HOLD` then waits until a turn of another session comes by a `RELEASE`.
//! - `RECALL` repeats at the end what the user said before in this session.
//! - `TOOL` uses a tool that does nothing.
//! - `DROP` breaks the lines of all clients, and goes on.
//! - `GARBAGE` sends all clients something that is no frame, and goes on.
//! - `CRASH` ends the program.
//!
//! A model call that fails ends the turn as it does in the original, which tries again for a minute
//! or two before; this one gives up at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

use super::config::{Configuration, Model};
use super::wire::Failure;

/// Events that a slow client may be behind before it loses its line.
const BACKLOG: usize = 1024;

/// Between two words of a slow turn.
const SLOW: Duration = Duration::from_millis(250);

/// Something that every client with `operator.read` is told, or that happens to its line.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Told { name: &'static str, payload: Value },
    Garbage,
    Drop,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Send {
    session_key: String,
    message: String,
    idempotency_key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct History {
    session_key: String,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Abort {
    key: String,
    run_id: Option<String>,
}

/// All sessions.
pub(crate) struct Turns(Arc<Inner>);

struct Inner {
    configuration: Configuration,
    client: reqwest::Client,
    events: broadcast::Sender<Event>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Run by run: how it stands, in the words of an answer to its key.
    runs: Mutex<HashMap<String, &'static str>>,
    state: Option<PathBuf>,
    crashed: Notify,
    released: Notify,
}

#[derive(Default)]
struct Session {
    /// Held by the run under way; the lock is fair, so that runs follow each other in order.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    messages: Vec<Said>,
    in_flight: Option<(String, String)>,
    /// The run under way and those that wait behind it.
    tasks: Vec<(String, tokio::task::AbortHandle)>,
}

/// A message of a session, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    role: String,
    text: String,
    run: String,
    aborted: bool,
    /// It stands where an answer would, and says that a model call failed.
    #[serde(default)]
    failed: bool,
}

impl Said {
    fn by(role: &str, text: String, run: &str) -> Self {
        Self {
            role: role.to_owned(),
            text,
            run: run.to_owned(),
            aborted: false,
            failed: false,
        }
    }

    fn to_json(&self) -> Value {
        if self.role == "user" {
            let key = format!("{}:user", self.run);
            return json!({
                "role": "user", "content": self.text, "idempotencyKey": key,
                "__openclaw": {"idempotencyKey": key},
            });
        }
        let content = json!([{"type": "text", "text": self.text}]);
        let stop_reason = if self.failed { "error" } else { "stop" };
        let mut message = json!({
            "role": self.role, "content": content, "stopReason": stop_reason,
            "__openclaw": {"runId": self.run},
        });
        if self.aborted {
            message["openclawAbort"] = json!({"aborted": true, "origin": "rpc", "runId": self.run});
        }
        message
    }
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
    /// With what an earlier program left in the directory `state`, if there is one.
    pub(crate) fn new(configuration: &Configuration, state: Option<&Path>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("building a client")?;
        Ok(Self(Arc::new(Inner {
            configuration: configuration.clone(),
            client,
            events: broadcast::channel(BACKLOG).0,
            sessions: Mutex::new(load(state)?),
            runs: Mutex::default(),
            state: state.map(Path::to_owned),
            crashed: Notify::new(),
            released: Notify::new(),
        })))
    }

    /// Waits until a turn crashes the program.
    pub(crate) async fn crashed(&self) {
        self.0.crashed.notified().await;
    }

    /// What a crash does to what is under way.
    pub(crate) fn fall(&self) {
        for session in lock(&self.0.sessions).values() {
            for (_, task) in lock(&session.state).tasks.drain(..) {
                task.abort();
            }
        }
        let _ = self.0.events.send(Event::Drop);
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
                new.insert("in_flight");
                None
            }
        };
        if let Some(status) = known {
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
            id: run.clone(),
        };
        let mut state = lock(&session.state);
        let handle = tokio::spawn(task.perform(message)).abort_handle();
        state.tasks.push((run, handle));
        Ok(answer)
    }

    pub(crate) fn history(&self, history: &History) -> Result<Value, Failure> {
        self.agent_of(&history.session_key)?;
        let session = self.session(&history.session_key);
        let state = lock(&session.state);
        let skipped = history
            .limit
            .map_or(0, |limit| state.messages.len().saturating_sub(limit));
        let messages: Vec<Value> = state.messages[skipped..]
            .iter()
            .map(Said::to_json)
            .collect();
        let active: Vec<&String> = state.in_flight.iter().map(|(run, _)| run).collect();
        let mut answer = json!({
            "sessionKey": history.session_key, "messages": messages,
            "sessionInfo": {"hasActiveRun": !state.tasks.is_empty(), "activeRunIds": active},
        });
        if let Some((run, text)) = &state.in_flight {
            answer["inFlightRun"] = json!({"runId": run, "text": text});
        }
        Ok(answer)
    }

    /// Stops the turn under way, and those that wait behind it; or only the one that is named.
    pub(crate) fn abort(&self, abort: &Abort) -> Result<Value, Failure> {
        let agent = self.agent_of(&abort.key)?;
        let session = self.session(&abort.key);
        let mut state = lock(&session.state);
        let is_meant = |run: &String| abort.run_id.as_ref().is_none_or(|meant| meant == run);
        let (stopped, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut state.tasks)
            .into_iter()
            .partition(|(run, _)| is_meant(run));
        state.tasks = kept;
        if stopped.is_empty() {
            return Ok(json!({"ok": true, "abortedRunId": null, "status": "no-active-run"}));
        }
        for (run, task) in &stopped {
            task.abort();
            lock(&self.0.runs).insert(run.clone(), "timeout");
            let said = match state.in_flight.take_if(|(in_flight, _)| in_flight == run) {
                Some((_, text)) => text,
                None => String::new(),
            };
            let mut message = Said::by("assistant", said, run);
            message.aborted = true;
            let content = message.to_json()["content"].take();
            state.messages.push(message);
            let aborted = json!({
                "state": "aborted", "stopReason": "rpc",
                "message": {"role": "assistant", "content": content},
            });
            self.0.tell("chat", run, &abort.key, &agent, aborted);
            let end = json!({"phase": "end", "status": "cancelled", "aborted": true});
            self.0.lifecycle(run, &abort.key, &agent, &end);
        }
        drop(state);
        self.0.keep();
        Ok(json!({"ok": true, "abortedRunId": stopped[0].0, "status": "aborted"}))
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

/// The sessions that an earlier program kept.
fn load(state: Option<&Path>) -> anyhow::Result<HashMap<String, Arc<Session>>> {
    let Some(path) = state.map(file_in).filter(|path| path.exists()) else {
        return Ok(HashMap::new());
    };
    let json = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let kept: HashMap<String, Vec<Said>> = serde_json::from_slice(&json)
        .with_context(|| format!("{} holds no sessions", path.display()))?;
    let session = |messages| {
        let state = SessionState {
            messages,
            ..SessionState::default()
        };
        Arc::new(Session {
            state: Mutex::new(state),
            ..Session::default()
        })
    };
    Ok(kept
        .into_iter()
        .map(|(key, messages)| (key, session(messages)))
        .collect())
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("scripted-sessions.json")
}

impl Inner {
    /// Writes all sessions to where a next program finds them.
    fn keep(&self) {
        let Some(directory) = &self.state else { return };
        let kept: HashMap<String, Vec<Said>> = lock(&self.sessions)
            .iter()
            .map(|(key, session)| (key.clone(), lock(&session.state).messages.clone()))
            .collect();
        let (path, beside) = (file_in(directory), file_in(directory).with_extension("new"));
        let written = serde_json::to_vec(&kept)
            .map_err(std::io::Error::from)
            .and_then(|json| std::fs::write(&beside, json))
            .and_then(|()| std::fs::rename(&beside, &path));
        if let Err(error) = written {
            eprintln!(
                "scripted-agent: {} can't be written: {error}",
                path.display()
            );
        }
    }

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
        let _ = self.events.send(Event::Told { name, payload });
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
        let before = {
            let mut state = lock(&session.state);
            let before = state.messages.clone();
            state.in_flight = Some((self.id.clone(), String::new()));
            state
                .messages
                .push(Said::by("user", message.clone(), &self.id));
            before
        };
        self.inner.keep();
        self.lifecycle(&json!({"phase": "start", "startedAt": started}));
        let outcome = self.answer(&before, &message).await;
        {
            let mut state = lock(&session.state);
            state.in_flight = None;
            state.tasks.retain(|(run, _)| *run != self.id);
            match &outcome {
                Ok(reply) => state
                    .messages
                    .push(Said::by("assistant", reply.clone(), &self.id)),
                Err(error) => {
                    if let Some(failure) = error.downcast_ref::<ModelFailure>() {
                        let text = format!("LLM request failed ({}).", failure.reason);
                        let mut message = Said::by("assistant", text, &self.id);
                        message.failed = true;
                        state.messages.push(message);
                    }
                }
            }
        }
        self.inner.keep();
        let status = if outcome.is_ok() { "ok" } else { "error" };
        lock(&self.inner.runs).insert(self.id.clone(), status);
        match outcome {
            Ok(reply) => {
                self.lifecycle(&json!({"phase": "end", "stopReason": "stop", "aborted": false}));
                let message =
                    json!({"role": "assistant", "content": [{"type": "text", "text": reply}]});
                self.tell("chat", json!({"state": "final", "message": message}));
            }
            Err(error) => {
                let failure = error.downcast_ref::<ModelFailure>();
                let detail = failure.map(|failure| json!({"failoverReason": failure.reason}));
                let error = format!("{error:#}");
                self.lifecycle(&json!({"phase": "error", "error": error}));
                let mut told = json!({"state": "error", "errorMessage": error});
                if let Some(detail) = detail {
                    told["errorDetail"] = detail;
                }
                self.tell("chat", told);
                // The original says it twice; the second time without the detail.
                let again = format!("Agent failed before reply: {error}");
                self.tell("chat", json!({"state": "error", "errorMessage": again}));
            }
        }
    }

    /// What the message asks for beside the model's reply, and the reply.
    async fn answer(&self, before: &[Said], message: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = message.split_whitespace().collect();
        let mut reply = String::new();
        // From here on: whoever heard a word of this reply may release it.
        let released = self.inner.released.notified();
        let slow = words.iter().position(|word| *word == "SLOW");
        let count = slow.and_then(|at| words.get(at + 1)?.parse::<usize>().ok());
        for number in 0..count.unwrap_or(0) {
            self.say(&mut reply, &format!("w{number} "));
            tokio::time::sleep(SLOW).await;
        }
        if words.contains(&"HOLD") {
            released.await;
        }
        if words.contains(&"RELEASE") {
            self.inner.released.notify_waiters();
        }
        if words.contains(&"TOOL") {
            for (phase, rest) in [("start", "args"), ("result", "result")] {
                let data = json!({"phase": phase, "name": "nothing", "toolCallId": "1", rest: {}});
                self.tell("agent", json!({"stream": "tool", "data": data}));
            }
        }
        // Nobody listening is no error.
        if words.contains(&"DROP") {
            let _ = self.inner.events.send(Event::Drop);
        }
        if words.contains(&"GARBAGE") {
            let _ = self.inner.events.send(Event::Garbage);
        }
        if words.contains(&"CRASH") {
            self.inner.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        self.ask(&mut reply, before, message).await?;
        if words.contains(&"RECALL") {
            let said = before.iter().filter(|said| said.role == "user");
            let said: Vec<&str> = said.map(|said| said.text.as_str()).collect();
            self.say(
                &mut reply,
                &format!(" Before, you said: {}", said.join("; ")),
            );
        }
        Ok(reply)
    }

    /// Streams one completion, telling every piece.
    async fn ask(&self, reply: &mut String, before: &[Said], message: &str) -> anyhow::Result<()> {
        let Model {
            base_url,
            api_key,
            id,
        } = self.inner.configuration.model();
        let mut messages = vec![json!({"role": "system", "content": "You are a scripted agent."})];
        for Said { role, text, .. } in before {
            messages.push(json!({"role": role, "content": text}));
        }
        messages.push(json!({"role": "user", "content": message}));
        let request = json!({
            "model": id, "messages": messages,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let url = format!("{base_url}/chat/completions");
        let mut request = self.inner.client.post(&url).json(&request);
        if let Some(key) = api_key {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.map_err(|error| ModelFailure {
            reason: "timeout",
            said: format!("calling the model at {url}: {error}"),
        })?;
        if !answer.status().is_success() {
            let status = answer.status();
            let said = answer.text().await.unwrap_or_default();
            bail!(ModelFailure {
                reason: reason(status.as_u16()),
                said: format!("the model answered {status}: {said}"),
            });
        }
        let mut stream = answer.bytes_stream();
        let mut pending = Vec::new();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| ModelFailure {
                reason: "timeout",
                said: format!("reading the model's answer: {error}"),
            })?;
            pending.extend_from_slice(&bytes);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match delta(&line)? {
                    Delta::Text(text) => self.say(reply, &text),
                    Delta::Done => return Ok(()),
                    Delta::Nothing => {}
                }
            }
        }
        bail!(ModelFailure {
            reason: "timeout",
            said: format!("the model's answer broke off after {reply:?}"),
        })
    }

    fn say(&self, reply: &mut String, text: &str) {
        reply.push_str(text);
        if let Some((_, so_far)) = &mut lock(&self.session.state).in_flight {
            so_far.clone_from(reply);
        }
        let data = json!({"text": reply, "delta": text, "itemId": format!("{}:1", self.id)});
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

/// A model call that failed, and why in the original's words.
#[derive(Debug)]
struct ModelFailure {
    reason: &'static str,
    said: String,
}

impl std::fmt::Display for ModelFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for ModelFailure {}

/// What the original makes of a status.
fn reason(status: u16) -> &'static str {
    match status {
        401 | 403 => "auth",
        402 => "billing",
        408 | 504 => "timeout",
        429 => "rate_limit",
        400..500 => "format",
        _ => "server_error",
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
    if let Some(error) = chunk.get("error") {
        let status = error["code"].as_str().and_then(|code| code.parse().ok());
        bail!(ModelFailure {
            reason: reason(status.unwrap_or(500)),
            said: format!("the model streamed an error: {error}"),
        });
    }
    let text = chunk["choices"][0]["delta"]["content"]
        .as_str()
        .unwrap_or_default();
    Ok(if text.is_empty() {
        Delta::Nothing
    } else {
        Delta::Text(text.to_owned())
    })
}

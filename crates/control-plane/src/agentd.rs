//! Calls to `agentd`, the daemon in a sandbox.

mod events;

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use carapace_core::{
    SandboxName, TurnId, UserKey,
    agentd::{
        BIND_PATH, BIND_SUBJECT, BindRequest, BindResponse, ErrorBody, ErrorName, PORT,
        TOKEN_ISSUER, TOKEN_MAX_SECONDS, TURN_SUBJECT, TURNS_PATH, TokenClaims, TurnEvent,
        TurnRequest,
    },
    ports::{Agentd, BindTrouble, TurnStream, TurnTrouble, Turns},
    quoted,
};
use http::Method;
use jiff::Timestamp;

use self::events::Parser;
use crate::{
    http::{Answer, JsonClient, Lines, Opened},
    jwt::TokenSigner,
};

/// How long `agentd` may take. It answers from memory; a pod that is gone doesn't answer at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a turn may be silent. `agentd` sends a sign of life every 15 seconds.
const SILENCE: Duration = Duration::from_secs(40);

/// The daemons of all sandboxes. Calls go to a pod's address over plain HTTP: the token is good for
/// one sandbox and one minute, and the pod network is closed to everybody else.
#[derive(Debug)]
pub struct AgentdClient {
    client: OnceLock<JsonClient>,
    signer: TokenSigner,
    port: u16,
}

impl AgentdClient {
    /// Calls with tokens of this signer; nothing is called yet.
    pub fn new(signer: TokenSigner) -> Self {
        Self {
            client: OnceLock::new(),
            signer,
            port: PORT,
        }
    }
}

impl Agentd for AgentdClient {
    async fn bind(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        request: &BindRequest,
    ) -> Result<(), BindTrouble> {
        let claims = claims(BIND_SUBJECT, sandbox, &request.user_key, Timestamp::now());
        let token = self.signer.sign(&claims).await?;
        let client = self.client.get_or_init(|| JsonClient::new(PATIENCE));
        let url = format!("http://{}{BIND_PATH}", SocketAddr::new(address, self.port));
        let answer = client
            .send(Method::POST, &url, token.expose(), Some(request))
            .await;
        read(&answer.map_err(|error| BindTrouble::Unreachable(format!("{url}: {error}")))?)
    }
}

impl AgentdClient {
    /// Calls for a turn, and follows it.
    async fn follow(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        user: &UserKey,
        call: (Method, String, Option<&TurnRequest>),
    ) -> Result<TurnEvents, TurnTrouble> {
        let (method, path, request) = call;
        let claims = claims(TURN_SUBJECT, sandbox, user, Timestamp::now());
        let token = self.signer.sign(&claims).await?;
        let client = self.client.get_or_init(|| JsonClient::new(PATIENCE));
        let url = format!("http://{}{path}", SocketAddr::new(address, self.port));
        let opened = client
            .open(method, &url, token.expose(), request, SILENCE)
            .await;
        match opened.map_err(|error| TurnTrouble::Unreachable(format!("{url}: {error}")))? {
            Opened::Stream(lines) => Ok(TurnEvents {
                lines,
                parser: Parser::default(),
            }),
            Opened::Answer(answer) => Err(refusal(&answer)),
        }
    }
}

impl Turns for AgentdClient {
    type Stream = TurnEvents;

    async fn begin(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        user: &UserKey,
        request: &TurnRequest,
    ) -> Result<TurnEvents, TurnTrouble> {
        let call = (Method::POST, TURNS_PATH.to_owned(), Some(request));
        self.follow(sandbox, address, user, call).await
    }

    async fn attach(
        &self,
        sandbox: &SandboxName,
        address: IpAddr,
        user: &UserKey,
        turn: &TurnId,
        from: u64,
    ) -> Result<TurnEvents, TurnTrouble> {
        // An id has no character that would mean anything in a path.
        let path = format!("{TURNS_PATH}/{turn}?from={from}");
        self.follow(sandbox, address, user, (Method::GET, path, None))
            .await
    }
}

/// What comes of a turn, as `agentd` tells it.
#[derive(Debug)]
pub struct TurnEvents {
    lines: Lines,
    parser: Parser,
}

impl TurnStream for TurnEvents {
    async fn next(&mut self) -> Result<Option<(u64, TurnEvent)>, TurnTrouble> {
        let broken = TurnTrouble::Unreachable;
        while let Some(line) = self.lines.next().await.map_err(|e| broken(e.to_string()))? {
            if let Some(event) = self.parser.line(&line).map_err(broken)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// What an answer that isn't a stream of events means.
fn refusal(answer: &Answer) -> TurnTrouble {
    match answer.json::<ErrorBody>() {
        Some(body) => TurnTrouble::Refused(ErrorBody {
            message: quoted(&body.message),
            error: body.error,
        }),
        // Not agentd's way of answering, so probably not agentd: another pod has its address.
        None => TurnTrouble::Unreachable(format!("HTTP {} without a reason", answer.status)),
    }
}

fn claims(subject: &str, sandbox: &SandboxName, user: &UserKey, now: Timestamp) -> TokenClaims {
    TokenClaims {
        iss: TOKEN_ISSUER.to_owned(),
        sub: subject.to_owned(),
        aud: sandbox.clone(),
        user_key: user.clone(),
        iat: now.as_second(),
        exp: now.as_second() + TOKEN_MAX_SECONDS,
    }
}

fn read(answer: &Answer) -> Result<(), BindTrouble> {
    if answer.status == 200 && answer.json::<BindResponse>().is_some_and(|body| body.bound) {
        return Ok(());
    }
    let Some(body) = answer.json::<ErrorBody>() else {
        // Not agentd's way of answering, so probably not agentd.
        return Err(BindTrouble::Refused(format!(
            "HTTP {} without a reason",
            answer.status
        )));
    };
    let said = format!("{:?}, {}", body.error, quoted(&body.message));
    Err(match (body.error, answer.status) {
        (ErrorName::BoundToAnother, _) => BindTrouble::BoundToAnother(said),
        // It isn't ready, can't read its keys yet, or couldn't store the binding: it may in a moment.
        (_, 408 | 429 | 500..) => BindTrouble::Unreachable(said),
        _ => BindTrouble::Refused(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::new(status, body)
    }

    #[test]
    fn a_token_is_for_one_sandbox_one_user_and_one_minute() {
        let user = UserKey::derive("pool", "sub");
        let sandbox = SandboxName::parse("agents-x7k2p").unwrap();
        let now = Timestamp::from_second(1_764_000_000).unwrap();
        insta::assert_json_snapshot!(claims(BIND_SUBJECT, &sandbox, &user, now));
        let turn = claims(TURN_SUBJECT, &sandbox, &user, now);
        assert_eq!(turn.sub, "conversation-turn");
    }

    #[test]
    fn answers_are_told_apart_by_their_name() {
        assert_eq!(read(&answer(200, r#"{"bound":true}"#)), Ok(()));
        let bound = answer(409, r#"{"error":"BoundToAnother","message":"by user x"}"#);
        assert!(matches!(read(&bound), Err(BindTrouble::BoundToAnother(_))));
        let busy = answer(503, r#"{"error":"BindingNotStored","message":"disk"}"#);
        assert!(matches!(read(&busy), Err(BindTrouble::Unreachable(_))));
        let token = answer(401, r#"{"error":"InvalidToken","message":"expired"}"#);
        assert!(matches!(read(&token), Err(BindTrouble::Refused(_))));
    }

    /// I6: whatever else listens at that address, its answer is no yes.
    #[test]
    fn an_answer_that_is_not_agentds_is_no_binding() {
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, r#"{"bound":false}"#),
            (200, "<html>"),
            (204, r#"{"bound":true}"#),
            (302, ""),
            (404, "not here"),
        ] {
            let read = read(&answer(status, body));
            assert!(
                matches!(read, Err(BindTrouble::Refused(_))),
                "{status} {body} {read:?}"
            );
        }
    }

    #[test]
    fn why_a_turn_is_not_begun_is_what_agentd_says() {
        let busy = answer(409, r#"{"error":"TurnInProgress","message":"wait\n"}"#);
        let body = ErrorBody {
            error: ErrorName::TurnInProgress,
            message: r#""wait\n""#.to_owned(),
        };
        assert_eq!(refusal(&busy), TurnTrouble::Refused(body));
        for (status, body) in [(200, ""), (200, "{}"), (404, "not here"), (302, "")] {
            let trouble = refusal(&answer(status, body));
            assert!(matches!(trouble, TurnTrouble::Unreachable(_)), "{trouble}");
        }
    }
}

//! Calls to `agentd`, the daemon in a sandbox.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use carapace_core::{
    SandboxName,
    agentd::{
        BIND_PATH, BIND_SUBJECT, BindRequest, BindResponse, ErrorBody, ErrorName, PORT,
        TOKEN_ISSUER, TOKEN_MAX_SECONDS, TokenClaims,
    },
    ports::{Agentd, BindTrouble},
    quoted,
};
use http::Method;
use jiff::Timestamp;

use crate::{
    http::{Answer, JsonClient},
    jwt::TokenSigner,
};

/// How long `agentd` may take. It answers from memory; a pod that is gone doesn't answer at all.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let token = self
            .signer
            .sign(&claims(sandbox, request, Timestamp::now()))
            .await?;
        let client = self.client.get_or_init(|| JsonClient::new(PATIENCE));
        let url = format!("http://{}{BIND_PATH}", SocketAddr::new(address, self.port));
        let answer = client
            .send(Method::POST, &url, token.expose(), Some(request))
            .await;
        read(&answer.map_err(|error| BindTrouble::Unreachable(format!("{url}: {error}")))?)
    }
}

fn claims(sandbox: &SandboxName, request: &BindRequest, now: Timestamp) -> TokenClaims {
    TokenClaims {
        iss: TOKEN_ISSUER.to_owned(),
        sub: BIND_SUBJECT.to_owned(),
        aud: sandbox.clone(),
        user_key: request.user_key.clone(),
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
    use carapace_core::{UserKey, agentd::ModelKey};

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::new(status, body)
    }

    #[test]
    fn a_token_is_for_one_sandbox_one_user_and_one_minute() {
        let request = BindRequest {
            user_key: UserKey::derive("pool", "sub"),
            model_key: ModelKey::parse("sk-the-key").unwrap(),
        };
        let sandbox = SandboxName::parse("agents-x7k2p").unwrap();
        let now = Timestamp::from_second(1_764_000_000).unwrap();
        insta::assert_json_snapshot!(claims(&sandbox, &request, now));
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
}

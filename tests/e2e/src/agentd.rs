//! Calls to an agentd, signed with the platform's own key: what the control plane says to a
//! sandbox, and what somebody who got hold of another user's token would say.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use carapace_core::agentd::{BIND_SUBJECT, PORT, TURN_SUBJECT, TURNS_PATH, TurnEvent};
use carapace_core::model_key::MasterKey;
use carapace_core::{ClaimUid, UserKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::Platform;
use crate::aws;

impl Platform {
    /// A token for the sandbox `audience`, for `user`, signed by the key in KMS, as a bind carries it.
    pub fn agentd_token(&self, audience: &str, user: &UserKey) -> Result<String> {
        self.agentd_token_for(BIND_SUBJECT, audience, user)
    }

    /// The same for another purpose.
    pub fn agentd_token_for(
        &self,
        subject: &str,
        audience: &str,
        user: &UserKey,
    ) -> Result<String> {
        let key = self.control_plane("AgentdSigningKeyArn")?;
        let kid = key.rsplit('/').next().unwrap_or(key);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": kid });
        let claims = json!({
            "iss": "carapace", "sub": subject, "aud": audience,
            "user_key": user.to_string(), "iat": now, "exp": now + 60,
        });
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let input = json!({
            "KeyId": key,
            "Message": BASE64.encode(signed.as_bytes()),
            "MessageType": "RAW",
            "SigningAlgorithm": "ECDSA_SHA_256",
        });
        let answer = self.aws.call(aws::KMS, "Sign", &input)?;
        let der = BASE64.decode(aws::string(&answer, "/Signature")?.as_bytes())?;
        let raw = raw_signature(&der).ok_or_else(|| anyhow!("KMS returned no DER signature"))?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&raw)))
    }

    /// The key to the model gateway that a user's sandbox was given: derived as the control plane
    /// derives it, to look for it where it must not be.
    pub fn model_key(&self, user: &UserKey) -> Result<String> {
        let secret = self.aws.call(
            aws::SECRETS,
            "GetSecretValue",
            &json!({ "SecretId": self.control_plane("ModelGatewaySecretArn")? }),
        )?;
        let secret: Value = serde_json::from_str(&aws::string(&secret, "/SecretString")?)?;
        let master = MasterKey::parse(format!("sk-{}", aws::string(&secret, "/master_key")?))?;
        let claim = self
            .cluster
            .claim(user)?
            .ok_or_else(|| anyhow!("user {user} has no claim"))?;
        let uid = ClaimUid::parse(aws::string(&claim, "/metadata/uid")?)?;
        Ok(master.derive(user, &uid)?.expose().to_owned())
    }

    /// The user's agent, to talk to.
    pub fn agent(&self, user: &UserKey) -> Result<Agent<'_>> {
        let (sandbox, address) = self.cluster.sandbox_of(user)?;
        Ok(Agent {
            platform: self,
            user: user.clone(),
            sandbox,
            address,
        })
    }

    /// What the user's key has spent at the model gateway, as the gateway counts it.
    pub fn spend(&self, user: &UserKey) -> Result<f64> {
        let url = format!("{}/key/info", self.info.model_gateway_url);
        let key = format!("Bearer {}", self.model_key(user)?);
        let request = ureq::get(&url).header("authorization", key);
        let info: Value = request.call()?.body_mut().read_json()?;
        info["info"]["spend"]
            .as_f64()
            .ok_or_else(|| anyhow!("the gateway says {info:#}"))
    }

    /// Calls the agentd at `address`; returns the status and the JSON it answered.
    pub fn agentd(
        &self,
        address: &str,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .into();
        let url = format!("http://{address}:18790{path}");
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())?;
        let mut response = agent
            .run(request)
            .with_context(|| format!("{method} {url}"))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }
}

/// A user's agent, as the control plane talks to it.
#[derive(Debug)]
pub struct Agent<'a> {
    platform: &'a Platform,
    user: UserKey,
    /// The name of its sandbox.
    pub sandbox: String,
    /// Its pod's address.
    pub address: String,
}

impl Agent<'_> {
    /// Says something; what comes of it is read from the [`Turn`].
    pub fn turn(&self, id: &str, conversation: &str, text: &str) -> Result<Turn> {
        let body = json!({ "id": id, "conversation": conversation, "text": text });
        self.open("POST", "", &body.to_string())
    }

    /// Attaches to a turn behind event `from`.
    pub fn attach(&self, id: &str, from: u64) -> Result<Turn> {
        self.open("GET", &format!("/{id}?from={from}"), "")
    }

    /// Cancels a turn; returns the status and the JSON that is answered.
    pub fn cancel(&self, id: &str) -> Result<(u16, Value)> {
        let (token, path) = (self.token()?, format!("{TURNS_PATH}/{id}"));
        self.platform
            .agentd(&self.address, Some(&token), "DELETE", &path, None)
    }

    /// A token for turns with it.
    pub fn token(&self) -> Result<String> {
        self.platform
            .agentd_token_for(TURN_SUBJECT, &self.sandbox, &self.user)
    }

    fn open(&self, method: &str, rest: &str, body: &str) -> Result<Turn> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .build()
            .into();
        let url = format!("http://{}:{PORT}{TURNS_PATH}{rest}", self.address);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", format!("Bearer {}", self.token()?))
            .header("content-type", "application/json")
            .body(body.to_owned())?;
        let mut response = agent
            .run(request)
            .with_context(|| format!("{method} {url}"))?;
        if response.status() != 200 {
            let text = response.body_mut().read_to_string()?;
            bail!("{method} {url}: {} {text}", response.status());
        }
        Ok(Turn {
            lines: BufReader::new(response.into_body().into_reader()),
        })
    }
}

/// What comes of a turn, as it comes. To drop it is to leave, as a caller that dies does.
pub struct Turn {
    lines: BufReader<ureq::BodyReader<'static>>,
}

/// An event of a turn and its number.
pub type NumberedEvent = (u64, TurnEvent);

impl Turn {
    /// The next event; `None` when the turn has ended and all is told.
    pub fn next_event(&mut self) -> Result<Option<NumberedEvent>> {
        let (mut id, mut event, mut data) = (None, None, None);
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end().split_once(": ") {
                Some(("id", value)) => id = Some(value.parse()?),
                Some(("event", value)) => event = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str::<Value>(value)?),
                // A blank line ends an event, and a keep-alive is a comment.
                _ => {
                    if let (Some(id), Some(event), Some(data)) = (id, event.take(), data.take()) {
                        let event = json!({ "event": event, "data": data });
                        return Ok(Some((id, serde_json::from_value(event)?)));
                    }
                }
            }
        }
    }

    /// All that is still to come.
    pub fn rest(mut self) -> Result<Vec<NumberedEvent>> {
        let mut events = Vec::new();
        while let Some(event) = self.next_event()? {
            events.push(event);
        }
        Ok(events)
    }

    /// The whole answer.
    pub fn answer(self) -> Result<String> {
        let events = self.rest()?;
        match events.last() {
            Some((_, TurnEvent::Done { text })) => Ok(text.clone()),
            _ => bail!("the turn was not answered: {events:#?}"),
        }
    }
}

fn encode(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

/// KMS signs in ASN.1 DER, a token wants the two numbers side by side, 32 bytes each.
fn raw_signature(der: &[u8]) -> Option<Vec<u8>> {
    let (tag, rest) = (der.first()?, der.get(2..)?);
    if *tag != 0x30 {
        return None;
    }
    let (r, rest) = integer(rest)?;
    let (s, _) = integer(rest)?;
    Some([r, s].concat())
}

fn integer(der: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let length = usize::from(*der.get(1)?);
    let (number, rest) = der.get(2..)?.split_at_checked(length)?;
    let number = number.strip_prefix(&[0]).unwrap_or(number);
    let mut padded = vec![0; 32usize.checked_sub(number.len())?];
    padded.extend(number);
    Some((padded, rest))
}

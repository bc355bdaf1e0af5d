//! Calls to an agentd, signed with the platform's own key: what the control plane says to a
//! sandbox, and what somebody who got hold of another user's token would say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use carapace_core::model_key::MasterKey;
use carapace_core::{ClaimUid, UserKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::Platform;
use crate::aws;

impl Platform {
    /// A token for the sandbox `audience`, for `user`, signed by the key in KMS.
    pub fn agentd_token(&self, audience: &str, user: &UserKey) -> Result<String> {
        let key = self.control_plane("AgentdSigningKeyArn")?;
        let kid = key.rsplit('/').next().unwrap_or(key);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": kid });
        let claims = json!({
            "iss": "carapace", "sub": "sandbox-bind", "aud": audience,
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

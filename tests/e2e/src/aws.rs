//! A small client for AWS's wire protocols, signed with Signature Version 4.
//!
//! The harness calls a dozen services once each. Their SDK crates would take longer to compile
//! than the whole rest of the workspace, and a test that speaks the documented wire format also
//! sees exactly what is on it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::Value;

/// One account in one region, reached at one endpoint.
#[derive(Clone, Debug)]
pub struct Aws {
    endpoint: String,
    region: String,
    credentials: Credentials,
    agent: ureq::Agent,
}

/// How a service that speaks JSON names its operations: the prefix of `X-Amz-Target`, the
/// version of the protocol, and the name it signs with.
#[derive(Clone, Copy, Debug)]
pub struct JsonService {
    signing_name: &'static str,
    target: &'static str,
    version: &'static str,
}

/// Amazon Cognito user pools.
pub const COGNITO: JsonService = JsonService {
    signing_name: "cognito-idp",
    target: "AWSCognitoIdentityProviderService",
    version: "1.1",
};
/// Amazon DynamoDB.
pub const DYNAMODB: JsonService = JsonService {
    signing_name: "dynamodb",
    target: "DynamoDB_20120810",
    version: "1.0",
};
/// Amazon EventBridge.
pub const EVENTS: JsonService = JsonService {
    signing_name: "events",
    target: "AWSEvents",
    version: "1.1",
};
/// AWS Key Management Service.
pub const KMS: JsonService = JsonService {
    signing_name: "kms",
    target: "TrentService",
    version: "1.1",
};
/// AWS Secrets Manager.
pub const SECRETS: JsonService = JsonService {
    signing_name: "secretsmanager",
    target: "secretsmanager",
    version: "1.1",
};
/// Amazon SQS.
pub const SQS: JsonService = JsonService {
    signing_name: "sqs",
    target: "AmazonSQS",
    version: "1.0",
};
/// AWS Step Functions.
pub const STATES: JsonService = JsonService {
    signing_name: "states",
    target: "AWSStepFunctions",
    version: "1.0",
};

/// An answer of AWS that is not a success.
#[derive(Clone, Debug)]
pub struct AwsError {
    /// The stable name, such as `UserLambdaValidationException`.
    pub code: String,
    /// The words beside it.
    pub message: String,
}

impl std::fmt::Display for AwsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for AwsError {}

impl Aws {
    /// A client for `endpoint` (scheme, host, port) with long-lived `credentials`.
    pub fn new(endpoint: &str, region: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region: region.to_owned(),
            credentials: Credentials::new(
                access_key_id,
                secret_access_key,
                None,
                None,
                "local stack",
            ),
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(60)))
                .build()
                .into(),
        }
    }

    /// Calls `operation` of a service that speaks AWS JSON. An error that AWS names comes back as
    /// an [`AwsError`] inside the `anyhow::Error`.
    pub fn call(&self, service: JsonService, operation: &str, input: &Value) -> Result<Value> {
        let headers = json_headers(service, operation);
        self.send(
            "POST",
            "/",
            Some(service.signing_name),
            headers,
            input.to_string().into_bytes(),
        )
    }

    /// As [`Aws::call`], without a signature: the calls of a sign-up page, which has no AWS key.
    pub fn call_unsigned(
        &self,
        service: JsonService,
        operation: &str,
        input: &Value,
    ) -> Result<Value> {
        let headers = json_headers(service, operation);
        self.send("POST", "/", None, headers, input.to_string().into_bytes())
    }

    /// Calls a service that speaks the query protocol (IAM, CloudWatch) and returns its XML.
    pub fn query(&self, signing_name: &str, form: &[(&str, &str)]) -> Result<String> {
        let body = form
            .iter()
            .map(|(key, value)| format!("{}={}", percent(key), percent(value)))
            .collect::<Vec<_>>()
            .join("&");
        let headers = vec![(
            "content-type".to_owned(),
            "application/x-www-form-urlencoded; charset=utf-8".to_owned(),
        )];
        let (status, text) =
            self.exchange("POST", "/", Some(signing_name), headers, body.into_bytes())?;
        if status >= 400 {
            return Err(AwsError {
                code: between(&text, "<Code>", "</Code>")
                    .unwrap_or("Unknown")
                    .to_owned(),
                message: between(&text, "<Message>", "</Message>")
                    .unwrap_or(&text)
                    .to_owned(),
            }
            .into());
        }
        Ok(text)
    }

    /// Gets a document of the local AWS itself, such as its outbox of e-mails.
    pub fn local(&self, path: &str) -> Result<Value> {
        self.send("GET", path, None, Vec::new(), Vec::new())
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        sign_as: Option<&str>,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Result<Value> {
        let (status, text) = self.exchange(method, path, sign_as, headers, body)?;
        let value: Value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)
                .with_context(|| format!("{method} {path} answered {status}: {text}"))?
        };
        if status < 400 {
            return Ok(value);
        }
        let code = value["__type"].as_str().unwrap_or("Unknown");
        Err(AwsError {
            code: code.rsplit('#').next().unwrap_or(code).to_owned(),
            message: value["message"]
                .as_str()
                .or(value["Message"].as_str())
                .unwrap_or(&text)
                .to_owned(),
        }
        .into())
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        sign_as: Option<&str>,
        mut headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Result<(u16, String)> {
        let url = format!("{}{path}", self.endpoint);
        if let Some(name) = sign_as {
            let signed = self.signature(method, &url, name, &headers, &body)?;
            headers.extend(signed);
        }
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request = request.body(body).context("building a request to AWS")?;
        let mut response = self
            .agent
            .run(request)
            .with_context(|| format!("{method} {url}: is the stack up?"))?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .read_to_string()
            .with_context(|| format!("reading from {url}"))?;
        Ok((status, text))
    }

    fn signature(
        &self,
        method: &str,
        url: &str,
        name: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Vec<(String, String)>> {
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(method, url, headers, SignableBody::Bytes(body))?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        let (signed, _) = instructions.into_parts();
        Ok(signed
            .iter()
            .map(|h| (h.name().to_owned(), h.value().to_owned()))
            .collect())
    }
}

/// The name that AWS gave the error, if AWS answered at all.
pub fn error_code(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<AwsError>().map(|e| e.code.as_str())
}

/// A string field of an answer, or an error that shows the answer.
pub fn string(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("no string at {pointer} in {value:#}"))
}

fn json_headers(service: JsonService, operation: &str) -> Vec<(String, String)> {
    vec![
        (
            "content-type".to_owned(),
            format!("application/x-amz-json-{}", service.version),
        ),
        (
            "x-amz-target".to_owned(),
            format!("{}.{operation}", service.target),
        ),
    ]
}

/// Percent-encodes what is not unreserved in a URL.
pub fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let start = text.find(from)? + from.len();
    let length = text[start..].find(to)?;
    Some(&text[start..start + length])
}

/// Fails with what was expected when an answer is a success that should have been an error.
pub fn expect_error(result: Result<Value>, code: &str) -> Result<AwsError> {
    match result {
        Ok(value) => bail!("expected {code}, got a success: {value:#}"),
        Err(error) => match error.downcast::<AwsError>() {
            Ok(error) if error.code == code => Ok(error),
            Ok(error) => bail!("expected {code}, got {error}"),
            Err(error) => Err(error.context(format!("expected {code}"))),
        },
    }
}

//! What the pod tells `agentd`: its environment, parsed once, all mistakes reported together.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use carapace_core::SandboxName;
use hyper::Uri;

/// Everything that differs from pod to pod.
#[derive(Debug, Clone)]
pub struct Config {
    /// `AGENTD_SANDBOX`: the name of this sandbox, which tokens must be addressed to.
    pub sandbox: SandboxName,
    /// `AGENTD_MODEL_GATEWAY_URL`: where model calls go; without the `/v1`.
    pub model_gateway: Uri,
    /// `AGENTD_JWKS_PATH`: the control plane's public keys.
    pub jwks_path: PathBuf,
    /// `AGENTD_PRIVATE_DIR`: memory that no other container sees; keeps the binding.
    pub private_dir: PathBuf,
    /// `AGENTD_WORKSPACE_DIR`: the user's files, as the agent's container sees them.
    pub workspace_dir: PathBuf,
    /// `AGENTD_CONFIG_DIR`: where OpenClaw finds its configuration.
    pub config_dir: PathBuf,
    /// `AGENTD_LISTEN`: for the control plane and the kubelet.
    pub listen: SocketAddr,
    /// `AGENTD_MODEL_PROXY_LISTEN`: for the agent; loopback only.
    pub model_proxy_listen: SocketAddr,
    /// `AGENTD_OPENCLAW_URL`: OpenClaw's gateway; loopback only.
    pub openclaw: SocketAddr,
    /// `AGENTD_MODEL`: the model's name at the gateway.
    pub model: String,
    /// `AGENTD_TURN_TIMEOUT_SECONDS`: how long a turn may take; it may be silent all that time.
    pub turn_timeout: Duration,
    /// `AGENTD_OPENCLAW_PATIENCE_SECONDS`: how long a turn waits for an OpenClaw that is away.
    pub openclaw_patience: Duration,
}

/// Every variable that is missing or wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// One variable that is missing or wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable.
    pub variable: &'static str,
    /// What it should be.
    pub problem: String,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment is not usable:")?;
        for error in &self.0 {
            write!(f, " {} {};", error.variable, error.problem)?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::from_lookup(&|name| std::env::var(name).ok())
    }

    /// Reads variables from wherever `lookup` finds them.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            lookup,
            errors: Vec::new(),
        };
        let sandbox = reader.read("AGENTD_SANDBOX", None, sandbox);
        let gateway = reader.read("AGENTD_MODEL_GATEWAY_URL", None, gateway);
        let jwks = reader.read("AGENTD_JWKS_PATH", Some("/etc/agentd/jwks.json"), absolute);
        let private = reader.read("AGENTD_PRIVATE_DIR", Some("/var/lib/agentd"), absolute);
        let workspace = reader.read("AGENTD_WORKSPACE_DIR", Some("/workspace"), absolute);
        let config = reader.read("AGENTD_CONFIG_DIR", Some("/config"), absolute);
        let listen = reader.read("AGENTD_LISTEN", Some("0.0.0.0:18790"), address);
        let proxy = reader.read(
            "AGENTD_MODEL_PROXY_LISTEN",
            Some("127.0.0.1:18791"),
            loopback,
        );
        let openclaw = reader.read(
            "AGENTD_OPENCLAW_URL",
            Some("http://127.0.0.1:18789"),
            openclaw,
        );
        let model = reader.read("AGENTD_MODEL", Some("agent"), model);
        let turn_timeout = reader.read("AGENTD_TURN_TIMEOUT_SECONDS", Some("1800"), seconds);
        let patience = reader.read("AGENTD_OPENCLAW_PATIENCE_SECONDS", Some("60"), seconds);
        let errors = ConfigErrors(reader.errors);
        // Each `None` has left its error behind, so that one `None` is enough to return them all.
        let parsed = || {
            Some(Self {
                sandbox: sandbox?,
                model_gateway: gateway?,
                jwks_path: jwks?,
                private_dir: private?,
                workspace_dir: workspace?,
                config_dir: config?,
                listen: listen?,
                model_proxy_listen: proxy?,
                openclaw: openclaw?,
                model: model?,
                turn_timeout: turn_timeout?,
                openclaw_patience: patience?,
            })
        };
        parsed().ok_or(errors)
    }
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn read<T>(
        &mut self,
        variable: &'static str,
        default: Option<&str>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = (self.lookup)(variable).or_else(|| default.map(str::to_owned));
        let parsed = match value {
            Some(text) => parse(&text).map_err(|problem| format!("{problem}, but is {text:?}")),
            None => Err("is missing".to_owned()),
        };
        parsed
            .map_err(|problem| self.errors.push(ConfigError { variable, problem }))
            .ok()
    }
}

fn sandbox(text: &str) -> Result<SandboxName, String> {
    SandboxName::parse(text).map_err(|_| "must be the name of a Sandbox".to_owned())
}

fn gateway(text: &str) -> Result<Uri, String> {
    let problem = || "must be an http or https URL without credentials and query".to_owned();
    let uri: Uri = text.parse().map_err(|_| problem())?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'))
        && uri.query().is_none();
    if plain { Ok(uri) } else { Err(problem()) }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("must be an absolute path".to_owned())
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "must be an IP address and a port".to_owned())
}

/// The proxy adds a user's key to whatever reaches it, and OpenClaw is trusted with a token: both
/// are for this pod alone.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    match address(text) {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        _ => Err("must be a loopback address and a port".to_owned()),
    }
}

fn openclaw(text: &str) -> Result<SocketAddr, String> {
    let problem = || "must be http:// or ws:// and a loopback address and a port".to_owned();
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("ws://"));
    loopback(rest.ok_or_else(problem)?.trim_end_matches('/')).map_err(|_| problem())
}

fn model(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
    if (1..=128).contains(&text.len()) && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a model's name".to_owned())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be a whole number of seconds from 1 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        Config::from_lookup(&|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn two_variables_are_enough() {
        let config = parse(&[
            ("AGENTD_SANDBOX", "agents-x7k2p"),
            (
                "AGENTD_MODEL_GATEWAY_URL",
                "http://litellm.model-gateway:4000",
            ),
        ])
        .unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:18790");
        assert_eq!(config.model_proxy_listen.to_string(), "127.0.0.1:18791");
        assert_eq!(config.openclaw.to_string(), "127.0.0.1:18789");
        assert_eq!(config.model, "agent");
        assert_eq!(config.turn_timeout, Duration::from_secs(1800));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let errors = parse(&[
            ("AGENTD_MODEL_GATEWAY_URL", "ftp://litellm"),
            ("AGENTD_LISTEN", "18790"),
            ("AGENTD_PRIVATE_DIR", "state"),
            ("AGENTD_TURN_TIMEOUT_SECONDS", "0"),
        ])
        .unwrap_err();
        let variables: Vec<_> = errors.0.iter().map(|error| error.variable).collect();
        assert_eq!(
            variables,
            [
                "AGENTD_SANDBOX",
                "AGENTD_MODEL_GATEWAY_URL",
                "AGENTD_PRIVATE_DIR",
                "AGENTD_LISTEN",
                "AGENTD_TURN_TIMEOUT_SECONDS"
            ]
        );
        assert!(errors.to_string().contains("ftp://litellm"), "{errors}");
    }

    #[test]
    fn what_is_for_this_pod_alone_stays_on_loopback() {
        for (variable, value) in [
            ("AGENTD_MODEL_PROXY_LISTEN", "0.0.0.0:18791"),
            ("AGENTD_OPENCLAW_URL", "http://10.0.0.7:18789"),
            ("AGENTD_OPENCLAW_URL", "http://localhost:18789"),
            ("AGENTD_OPENCLAW_URL", "127.0.0.1:18789"),
            (
                "AGENTD_MODEL_GATEWAY_URL",
                "http://user:secret@litellm:4000",
            ),
        ] {
            let errors = parse(&[
                ("AGENTD_SANDBOX", "a"),
                (variable, value),
                ("AGENTD_MODEL_GATEWAY_URL", "http://litellm:4000"),
            ])
            .unwrap_err();
            assert_eq!(errors.0.len(), 1, "{variable}={value}: {errors}");
            assert_eq!(errors.0[0].variable, variable);
        }
    }
}

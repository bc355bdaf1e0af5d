//! The configuration that OpenClaw starts with.
//!
//! OpenClaw stops at a key that it doesn't know, so this is exactly what 2026.9.6 takes. It
//! listens on loopback, behind a token that only this pod knows; it has two agents, `main` for the
//! user and `warm` for the warming turn, so that the database of `main` stays unopened until the
//! user's own is put in its place; its only model is the proxy of `agentd`; and it looks nothing up
//! on the internet by itself.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::files;
use crate::secret::Secret;

/// The agent of the user.
pub const MAIN_AGENT: &str = "main";
/// The agent of the warming turn.
pub const WARM_AGENT: &str = "warm";
/// The name of the file in the shared directory.
pub const FILE_NAME: &str = "openclaw.json";

const PROVIDER: &str = "agentd";
/// Thrown away with the pod: no snapshot holds what the warming turn leaves.
const WARM_WORKSPACE: &str = "/tmp/warm";

/// What goes into the configuration.
#[derive(Debug)]
pub struct Settings<'a> {
    /// Where OpenClaw listens.
    pub gateway: SocketAddr,
    /// What it asks of its clients.
    pub token: &'a Secret,
    /// Where its model calls go.
    pub model_proxy: SocketAddr,
    /// The model's name there.
    pub model: &'a str,
    /// The user's files.
    pub workspace: &'a Path,
}

/// Renders the configuration.
pub fn render(settings: &Settings<'_>) -> Value {
    let Settings {
        gateway,
        token,
        model_proxy,
        model,
        workspace,
    } = settings;
    json!({
        "gateway": {
            "mode": "local",
            "bind": "loopback",
            "port": gateway.port(),
            "auth": {"mode": "token", "token": token.expose()},
            "controlUi": {"enabled": false},
        },
        "update": {"checkOnStart": false},
        "plugins": {"enabled": false, "slots": {"memory": "none"}},
        "tools": {
            "profile": "coding",
            // The VM is the sandbox: inside it the agent may do what it wants, without asking.
            "exec": {"host": "gateway", "security": "full", "ask": "off"},
        },
        "models": {
            "mode": "replace",
            "catalogRefresh": {"enabled": false},
            "providers": {
                PROVIDER: {
                    "baseUrl": format!("http://{model_proxy}/v1"),
                    // No apiKey: the proxy adds the user's. One that were refused would be put aside by
                    // OpenClaw, for ten minutes to a day where a budget was used up, and then even a
                    // new key or budget behind the proxy would not be tried.
                    "api": "openai-completions",
                    "models": [{
                        "id": model,
                        "name": model,
                        "reasoning": false,
                        "input": ["text"],
                        // The gateway keeps the accounts.
                        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
                        "contextWindow": 128_000,
                        "maxTokens": 8192,
                    }],
                },
            },
        },
        "agents": {
            "ownership": "explicit",
            "defaults": {
                "model": {"primary": format!("{PROVIDER}/{model}")},
                "workspace": workspace,
                "skipBootstrap": true,
                "heartbeat": {"every": "0m"},
                "systemAgent": {"agentId": MAIN_AGENT},
            },
            "entries": {
                MAIN_AGENT: {"workspace": workspace},
                WARM_AGENT: {"workspace": WARM_WORKSPACE},
            },
        },
        "talk": {"agentId": MAIN_AGENT},
    })
}

/// Writes the configuration where OpenClaw waits for it. The file appears whole, and only when it
/// differs: OpenClaw reloads whatever is written, and a restart of `agentd` alone should not be
/// felt by a running agent.
pub fn write(directory: &Path, settings: &Settings<'_>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&render(settings))?;
    let path = directory.join(FILE_NAME);
    if std::fs::read(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    files::replace(&path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(token: &Secret) -> Settings<'_> {
        Settings {
            gateway: "127.0.0.1:18789".parse().unwrap(),
            token,
            model_proxy: "127.0.0.1:18791".parse().unwrap(),
            model: "agent",
            workspace: Path::new("/workspace"),
        }
    }

    #[test]
    fn the_configuration_is_what_openclaw_takes() {
        let token = Secret::new("0123456789abcdef".to_owned());
        insta::assert_json_snapshot!(render(&settings(&token)));
    }

    #[test]
    fn an_unchanged_configuration_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let token = Secret::new("0123456789abcdef".to_owned());
        write(directory.path(), &settings(&token)).unwrap();
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(directory.path().join(name))
                .unwrap()
                .ino()
        };
        let before = inode(FILE_NAME);
        write(directory.path(), &settings(&token)).unwrap();
        assert_eq!(inode(FILE_NAME), before);
        let other = Secret::new("another".to_owned());
        write(directory.path(), &settings(&other)).unwrap();
        assert_ne!(inode(FILE_NAME), before);
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "no leftovers"
        );
    }
}

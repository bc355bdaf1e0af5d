//! `openclaw.json`, as far as `agentd` writes it. What isn't here is refused, like a key that the
//! original doesn't know.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde::Deserialize;
use serde_json::Value;

/// A configuration that was read and found usable.
#[derive(Debug, Clone)]
pub struct Configuration {
    file: File,
    model: Model,
}

/// Where a turn's model call goes.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) base_url: String,
    pub(crate) api_key: Option<String>,
    pub(crate) id: String,
}

impl Configuration {
    /// The port of the gateway.
    pub fn port(&self) -> u16 {
        self.file.gateway.port
    }

    pub(crate) fn token(&self) -> &str {
        &self.file.gateway.auth.token
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn has_agent(&self, agent: &str) -> bool {
        self.file.agents.entries.contains_key(agent)
    }
}

/// Reads a configuration, or says which part of it can't be used.
pub fn read(text: &[u8]) -> anyhow::Result<Configuration> {
    let file: File = serde_json::from_slice(text)?;
    let gateway = &file.gateway;
    ensure!(
        gateway.mode == "local",
        "gateway.mode must be local, but is {}",
        gateway.mode
    );
    ensure!(
        gateway.bind == "loopback",
        "gateway.bind must be loopback, but is {}",
        gateway.bind
    );
    ensure!(
        gateway.auth.mode == "token",
        "gateway.auth.mode must be token"
    );
    ensure!(
        !gateway.auth.token.is_empty(),
        "gateway.auth.token is empty"
    );
    ensure!(file.models.mode == "replace", "models.mode must be replace");
    let agents = &file.agents;
    ensure!(
        agents.ownership == "explicit",
        "agents.ownership must be explicit with two agents"
    );
    let system = &agents.defaults.system_agent.agent_id;
    for agent in [system, &file.talk.agent_id] {
        ensure!(
            agents.entries.contains_key(agent),
            "there is no agent {agent}"
        );
    }
    let model = model_of(&file)?;
    Ok(Configuration { file, model })
}

fn model_of(file: &File) -> anyhow::Result<Model> {
    let primary = &file.agents.defaults.model.primary;
    let found = primary.split_once('/').and_then(|(name, id)| {
        let provider = file.models.providers.get(name)?;
        let model = provider.models.iter().find(|model| model.id == id)?;
        Some((provider, model))
    });
    let (provider, model) = found.ok_or_else(|| anyhow::anyhow!("there is no model {primary}"))?;
    ensure!(
        provider.api == "openai-completions",
        "provider API {} is unknown here",
        provider.api
    );
    Ok(Model {
        base_url: provider.base_url.trim_end_matches('/').to_owned(),
        api_key: provider.api_key.clone(),
        id: model.id.clone(),
    })
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gateway: Gateway,
    #[serde(rename = "update")]
    _update: Update,
    #[serde(rename = "plugins")]
    _plugins: Plugins,
    #[serde(rename = "tools")]
    _tools: Tools,
    models: Models,
    agents: Agents,
    talk: AgentReference,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    mode: String,
    bind: String,
    port: u16,
    auth: Auth,
    #[serde(rename = "controlUi")]
    _control_ui: Switch,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    mode: String,
    token: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    #[serde(rename = "enabled")]
    _enabled: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Update {
    #[serde(rename = "checkOnStart")]
    _check_on_start: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugins {
    #[serde(rename = "enabled")]
    _enabled: bool,
    #[serde(rename = "slots")]
    _slots: Slots,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slots {
    #[serde(rename = "memory")]
    _memory: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tools {
    #[serde(rename = "profile")]
    _profile: String,
    #[serde(rename = "exec")]
    _exec: Exec,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exec {
    #[serde(rename = "host")]
    _host: String,
    #[serde(rename = "security")]
    _security: String,
    #[serde(rename = "ask")]
    _ask: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    mode: String,
    #[serde(rename = "catalogRefresh")]
    _catalog_refresh: Switch,
    providers: BTreeMap<String, Provider>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Provider {
    base_url: String,
    api_key: Option<String>,
    api: String,
    models: Vec<ModelEntry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    id: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "reasoning")]
    _reasoning: bool,
    #[serde(rename = "input")]
    _input: Vec<String>,
    #[serde(rename = "cost")]
    _cost: Cost,
    #[serde(rename = "contextWindow")]
    _context_window: u64,
    #[serde(rename = "maxTokens")]
    _max_tokens: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    #[serde(rename = "input")]
    _input: f64,
    #[serde(rename = "output")]
    _output: f64,
    #[serde(rename = "cacheRead")]
    _cache_read: f64,
    #[serde(rename = "cacheWrite")]
    _cache_write: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Agents {
    ownership: String,
    defaults: Defaults,
    entries: BTreeMap<String, AgentEntry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    model: Primary,
    #[serde(rename = "workspace")]
    _workspace: String,
    #[serde(rename = "skipBootstrap")]
    _skip_bootstrap: bool,
    #[serde(rename = "heartbeat")]
    _heartbeat: Value,
    #[serde(rename = "systemAgent")]
    system_agent: AgentReference,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Primary {
    primary: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AgentReference {
    agent_id: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentEntry {
    #[serde(rename = "workspace")]
    _workspace: String,
}

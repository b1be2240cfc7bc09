//! Lists of agents, models and sessions.
use serde::Deserialize;
use serde_json::Value;

use super::or_default;

/// The answer to `agents.list`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentsList {
    /// The agent that a short session key means.
    pub default_id: Option<String>,
    /// `{id, model: {primary}, …}` as sent: clients of the broker get them unchanged.
    #[serde(deserialize_with = "or_default")]
    pub agents: Vec<Value>,
}

impl AgentsList {
    /// The model of the default agent (of the first one if none is named), as `provider/model`.
    pub fn default_model(&self) -> Option<&str> {
        let is_default = |agent: &&Value| match &self.default_id {
            Some(id) => agent.get("id").and_then(Value::as_str) == Some(id),
            None => true,
        };
        let model = self.agents.iter().find(is_default)?.get("model")?;
        model.get("primary").unwrap_or(model).as_str()
    }
}

/// The answer to `models.list`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelsList {
    /// `{id, name, provider, contextWindow, available, …}` as sent.
    #[serde(deserialize_with = "or_default")]
    pub models: Vec<Value>,
}

/// The answer to `sessions.list`, and `list` in the answer to `sessions.subscribe`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionsList {
    /// Newest first.
    #[serde(deserialize_with = "or_default")]
    pub sessions: Vec<SessionRow>,
    #[serde(deserialize_with = "or_default")]
    pub defaults: SessionsDefaults,
    #[serde(deserialize_with = "or_default")]
    pub has_more: bool,
    /// The `offset` of the next page, while there is one.
    pub next_offset: Option<u64>,
    pub total_count: Option<u64>,
}

/// What a session has unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionsDefaults {
    pub model_provider: Option<String>,
    pub model: Option<String>,
}

impl SessionsDefaults {
    /// The model as `provider/model`; a model's own name may hold a slash, so it is never looked for.
    pub fn default_model(&self) -> Option<String> {
        let model = self.model.as_deref()?;
        Some(match self.model_provider.as_deref() {
            Some(provider) => format!("{provider}/{model}"),
            None => model.to_owned(),
        })
    }
}

/// One session of a gateway. Of some sixty fields on 2026.9.6 these are used; all but the key may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// Canonical: `agent:<agent>:<name>`.
    pub key: String,
    /// The transcript's id.
    #[serde(default)]
    pub session_id: Option<String>,
    #[serde(default)]
    pub agent_id: Option<String>,
    /// Given by a person.
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub display_name: Option<String>,
    /// Only when asked for with `includeDerivedTitles`.
    #[serde(default)]
    pub derived_title: Option<String>,
    /// Epoch milliseconds.
    #[serde(default)]
    pub updated_at: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    pub archived: bool,
    /// Some run is active, here or in a part of the gateway that does not tell its id.
    #[serde(default, deserialize_with = "or_default")]
    pub has_active_run: bool,
    /// Complete when present; absent means that the ids are not known, not that there are none.
    #[serde(default)]
    pub active_run_ids: Option<Vec<String>>,
    #[serde(default)]
    pub model_provider: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
}

impl SessionRow {
    /// The name to show: the label a person gave, else what the gateway made up.
    pub fn title(&self) -> Option<&str> {
        [&self.label, &self.display_name, &self.derived_title].into_iter().find_map(|title| title.as_deref())
    }
}

/// The gateway's default model as `provider/model`: its default agent's, else that of new sessions. The hello does
/// not tell it.
pub fn default_model(agents: &AgentsList, sessions: Option<&SessionsList>) -> Option<String> {
    let of_agent = agents.default_model().map(str::to_owned);
    of_agent.or_else(|| sessions.and_then(|list| list.defaults.default_model()))
}

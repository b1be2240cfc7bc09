//! The first and the last words of a connection: challenge, hello, shutdown.
use std::collections::HashSet;

use serde::Deserialize;

use super::{or_default, whole_ms};
use crate::domain::secret::Secret;

/// Event `connect.challenge`, the first frame of every connection; nothing may be sent before it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Challenge {
    /// Signed and sent back by `connect`.
    pub nonce: String,
    /// The gateway's clock in epoch milliseconds; a signature carries this time, not ours.
    #[serde(rename = "ts")]
    pub ts_ms: i64,
}

/// The answer to `connect`: 14 to 17 KiB on 2026.9.6, mostly names of methods.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// The version that was agreed on: 3 or 4.
    pub protocol: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub server: Server,
    #[serde(default, deserialize_with = "or_default")]
    pub features: Features,
    #[serde(default, deserialize_with = "or_default")]
    pub snapshot: Snapshot,
    #[serde(default, deserialize_with = "or_default")]
    pub auth: Granted,
    #[serde(default, deserialize_with = "or_default")]
    pub policy: Policy,
}

impl HelloOk {
    /// Tells whether this gateway has a method. Calling one it has not answers `missing scope` instead of `unknown
    /// method`.
    pub fn has_method(&self, method: &str) -> bool {
        self.features.methods.contains(method)
    }
}

/// Which process answered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// The release, for example `2026.9.6`.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// New for every connection.
    #[serde(deserialize_with = "or_default")]
    pub conn_id: String,
    /// New for every process of the gateway: tells a restart from a network drop. Absent before 2026.9.
    pub boot_id: Option<String>,
}

/// What the gateway can do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Features {
    #[serde(deserialize_with = "or_default")]
    pub methods: HashSet<String>,
}

/// The part of the gateway's state that we use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    #[serde(deserialize_with = "or_default")]
    pub session_defaults: SessionDefaults,
}

/// How short session keys are completed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionDefaults {
    /// The agent that a short key means: `foo` is `agent:<this>:foo`.
    pub default_agent_id: Option<String>,
    /// The short name of the main session, usually `main`.
    pub main_key: Option<String>,
    /// Its canonical key, usually `agent:main:main`.
    pub main_session_key: Option<String>,
}

/// What this connection may do. Being connected says nothing: a gateway that does not trust us grants no scope at all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Granted {
    #[serde(deserialize_with = "or_default")]
    pub scopes: Vec<String>,
    /// `token`, `password`, `device-token`, `none` …; absent on protocol 3.
    pub method: Option<String>,
    /// Issued with an approved device; the same one comes back at every connect until it is rotated.
    pub device_token: Option<Secret>,
    #[serde(deserialize_with = "or_default")]
    pub role: String,
}

/// The gateway's limits for this connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Longest frame in bytes; a longer one closes the socket with 1009.
    #[serde(deserialize_with = "payload_max")]
    pub max_payload: u64,
    /// Time between two `tick` events.
    #[serde(deserialize_with = "tick_interval")]
    pub tick_interval_ms: u64,
}

impl Default for Policy {
    /// What every release seen so far sends.
    fn default() -> Self {
        Self { max_payload: 26_214_400, tick_interval_ms: 30_000 }
    }
}

fn payload_max<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(whole_ms(deserializer)?.filter(|bytes| *bytes > 0).unwrap_or(Policy::default().max_payload))
}

fn tick_interval<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(whole_ms(deserializer)?.filter(|ms| *ms > 0).unwrap_or(Policy::default().tick_interval_ms))
}

/// Event `shutdown`: the gateway is going; the socket closes with 1012 next.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shutdown {
    /// `gateway stopping` or `gateway restarting`.
    #[serde(default, deserialize_with = "or_default")]
    pub reason: String,
    /// The gateway's own guess, only for a restart; it said 1.5 s where 7 to 20 s passed.
    #[serde(default, deserialize_with = "whole_ms")]
    pub restart_expected_ms: Option<u64>,
}

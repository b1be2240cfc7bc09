//! `[store]`: the database and its writer.
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;

use super::database_url::DatabaseUrl;
use super::encryption_key::EncryptionKey;
use super::error::ConfigError;
use super::section::{Ranged, Section, Shown, listed, quoted, ranged, through_text};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// The database. Not set: `clawbroker.db` in the data directory. `DATABASE_URL`.
    pub url: DatabaseUrl,
    /// Whether an acknowledged line survives a power cut. Group commit makes `full` as fast as `normal` under load.
    pub durability: Durability,
    /// Read connections to SQLite. Reads are short; more than cores only adds memory (2 MiB of cache each).
    pub readers: u32,
    /// Connections to PostgreSQL, the writer's among them; a fifth of the 100 that a server allows by default.
    pub postgres_pool: u32,
    /// Prepared statements on PostgreSQL. Off behind PgBouncer in transaction mode, which loses them; costs a quarter
    /// of the throughput.
    pub prepared_statements: bool,
    /// Writes that may wait, some seconds' worth; then callers get 503 `store_busy`.
    pub writer_queue_max: usize,
    /// Writes in one transaction. Beyond some hundred a commit only takes longer, and the first in it waits for the last.
    pub writer_batch_max: usize,
    /// Bulk writes (imports, checkpoints, presence) that may wait; then their makers pause.
    pub bulk_queue_max: usize,
    /// Bulk writes in one transaction: few, so that a person's write next in line hardly waits.
    pub bulk_batch_max: usize,
    /// How long SQLite waits for a lock. Only a backup or another tool can hold one, since we have one writer.
    pub busy_timeout_ms: u64,
    /// Encrypts stored secrets. Not set: `secret.key` in the data directory, made at the first start, mode 0600.
    /// `CLAWBROKER_ENCRYPTION_KEY`.
    pub encryption_key: Option<EncryptionKey>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::in_data_dir(Path::new("data")),
            durability: Durability::Full,
            readers: 4,
            postgres_pool: 20,
            prepared_statements: true,
            writer_queue_max: 10_000,
            writer_batch_max: 256,
            bulk_queue_max: 10_000,
            bulk_batch_max: 64,
            busy_timeout_ms: 5_000,
            encryption_key: None,
        }
    }
}

/// When a commit counts (STO-1). Every receipt says which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the disk: survives a power cut.
    #[default]
    Full,
    /// With the operating system: survives our crash, but a power cut may take the last moments.
    Normal,
}

impl Durability {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
        }
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        match value {
            "full" => Ok(Self::Full),
            "normal" => Ok(Self::Normal),
            _ => Err(format!("must be `full` or `normal`, not {}", quoted(value))),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

through_text!(Durability, secret: false);

impl Section for StoreConfig {
    const NAME: &'static str = "store";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            url,
            durability,
            readers,
            postgres_pool,
            prepared_statements,
            writer_queue_max,
            writer_batch_max,
            bulk_queue_max,
            bulk_batch_max,
            busy_timeout_ms,
            encryption_key,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            readers: 1..=64,
            postgres_pool: 2..=1_000,
            writer_queue_max: 16..=1_000_000,
            writer_batch_max: 1..=4_096,
            bulk_queue_max: 16..=1_000_000,
            bulk_batch_max: 1..=4_096,
            busy_timeout_ms: 0..=60_000,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (batch, queue, key) in [
            (self.writer_batch_max, self.writer_queue_max, "writer_batch_max"),
            (self.bulk_batch_max, self.bulk_queue_max, "bulk_batch_max"),
        ] {
            if batch > queue {
                return Err(Self::invalid(key, format!("must not be greater than its queue, {queue}, but is {batch}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_not_greater_than_its_queue() {
        let store = StoreConfig { writer_queue_max: 16, ..StoreConfig::default() };
        let error = store.validate().expect_err("too small a queue");
        assert_eq!(error.to_string(), "`store.writer_batch_max` must not be greater than its queue, 16, but is 256");
    }
}

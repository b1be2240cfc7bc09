//! Keys of agents. A key is 256 random bits, shown once; only its SHA-256 digest is stored (SEC-1). An agent may have
//! several, so that rotation can overlap.
use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;
use serde_json::json;

use super::agents::{self as owners, Row as AgentRow};
use super::audit::{self, Actor};
use super::dialect::Db;
use super::messages::Idem;
use super::schema::{agent_keys, agents};
use super::tx::{Command, Tx};
use crate::domain::agent::{Agent, AgentFacts, AgentKind, KeyFacts};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, AgentKeyId};

/// A key, without what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    pub id: AgentKeyId,
    pub agent_id: AgentId,
    /// What it is for.
    pub label: String,
    /// The first characters, to tell keys apart.
    pub prefix: String,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = agent_keys)]
struct Row {
    id: Vec<u8>,
    agent_id: Vec<u8>,
    label: String,
    prefix: String,
    created_at: i64,
    last_used_at: Option<i64>,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl TryFrom<Row> for AgentKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: AgentKeyId::try_from(row.id.as_slice())?,
            agent_id: AgentId::try_from(row.agent_id.as_slice())?,
            label: row.label,
            prefix: row.prefix,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Reads one key; also one that has ended.
pub fn get(db: &mut Db, id: AgentKeyId) -> Result<Option<AgentKey>, Error> {
    let row = agent_keys::table.find(id.as_bytes().as_slice()).select(Row::as_select()).first(db).optional()?;
    row.map(AgentKey::try_from).transpose()
}

/// Lists at most `limit` keys of an agent, newest first, those before `before`; ended ones among them.
pub fn of(db: &mut Db, agent: AgentId, before: Option<AgentKeyId>, limit: i64) -> Result<Vec<AgentKey>, Error> {
    let mut query = agent_keys::table
        .filter(agent_keys::agent_id.eq(agent.as_bytes().to_vec()))
        .order(agent_keys::id.desc())
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(agent_keys::id.lt(before.as_bytes().to_vec()));
    }
    query.load::<Row>(db)?.into_iter().map(AgentKey::try_from).collect()
}

/// Counts the keys of an agent.
pub fn count_of(db: &mut Db, agent: AgentId) -> Result<i64, Error> {
    let its = agent_keys::table.filter(agent_keys::agent_id.eq(agent.as_bytes().as_slice()));
    Ok(its.count().get_result(db)?)
}

/// Reads every key that may still be used, with whose it is: the edge keeps them in memory. Native agents have none that
/// counts.
pub fn all_live(db: &mut Db, now_ms: i64) -> Result<Vec<([u8; 32], KeyFacts)>, Error> {
    let rows: Vec<(Row, Vec<u8>, AgentRow)> = agent_keys::table
        .inner_join(agents::table.on(agents::id.eq(agent_keys::agent_id)))
        .filter(agent_keys::revoked_at.is_null().and(agents::deleted_at.is_null()))
        .filter(agents::kind.eq(AgentKind::OpenClaw as i32))
        .select((Row::as_select(), agent_keys::digest, AgentRow::as_select()))
        .load(db)?;
    let mut known: HashMap<AgentId, Arc<AgentFacts>> = HashMap::new();
    let mut keys = Vec::new();
    for (row, digest, agent) in rows {
        if row.expires_at.is_some_and(|at| at <= now_ms) {
            continue;
        }
        let digest: [u8; 32] = digest.try_into().map_err(|_| Error::corrupt("a key digest of a wrong length"))?;
        let (key, agent) = (AgentKey::try_from(row)?, Agent::try_from(agent)?);
        // The keys of an agent share what is known of it.
        let agent = known.entry(agent.id).or_insert_with(|| Arc::new(agent.facts())).clone();
        keys.push((digest, KeyFacts { key_id: key.id, agent, expires_at: key.expires_at }));
    }
    Ok(keys)
}

/// Makes a key of an agent from a digest; the key itself never comes here.
pub struct AddAgentKey {
    pub agent_id: AgentId,
    pub label: String,
    pub prefix: String,
    pub digest: [u8; 32],
    pub expires_at: Option<i64>,
    pub actor: Actor,
    pub idem: Option<Idem>,
    /// Keys of one agent that may count at the same time.
    pub keys_max: usize,
}

impl Command for AddAgentKey {
    /// The key, and whether the idempotency key was used before: then the caller has seen the secret already.
    type Output = (AgentKey, bool);

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(AgentKey, bool), Error> {
        if let Some(known) = self.known(tx)? {
            return Ok((known, true));
        }
        let agent = owners::get(tx.read()?, self.agent_id)?.ok_or_else(|| Error::not_found("agent", self.agent_id))?;
        if agent.kind != AgentKind::OpenClaw {
            let message = "a native agent lives here and has no keys";
            return Err(Error::new(ErrorCode::InvalidRequest, message).with_status(409));
        }
        self.check_room(tx)?;
        let key = AgentKey {
            id: AgentKeyId::new(),
            agent_id: agent.id,
            label: self.label.clone(),
            prefix: self.prefix.clone(),
            created_at: tx.now_ms(),
            last_used_at: None,
            expires_at: self.expires_at,
            revoked_at: None,
        };
        diesel::insert_into(agent_keys::table)
            .values((
                agent_keys::id.eq(key.id.as_bytes().as_slice()),
                agent_keys::agent_id.eq(agent.id.as_bytes().as_slice()),
                agent_keys::label.eq(&key.label),
                agent_keys::prefix.eq(&key.prefix),
                agent_keys::digest.eq(self.digest.as_slice()),
                agent_keys::created_at.eq(key.created_at),
                agent_keys::expires_at.eq(key.expires_at),
                agent_keys::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                agent_keys::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let after = json!({ "agent": agent.id, "label": key.label, "prefix": key.prefix });
        audit::record(tx, &self.actor, "agent_key.add", ("agent_key", &key.id.to_string()), None, Some(&after))?;
        let facts = KeyFacts { key_id: key.id, agent: Arc::new(agent.facts()), expires_at: key.expires_at };
        tx.emit(Event::AgentKeyAdded { digest: self.digest, key: Arc::new(facts) });
        Ok((key, false))
    }
}

impl AddAgentKey {
    /// Finds the key that this idempotency key has made before.
    fn known(&self, tx: &mut Tx<'_>) -> Result<Option<AgentKey>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let known = agent_keys::table
            .filter(agent_keys::agent_id.eq(self.agent_id.as_bytes().as_slice()))
            .filter(agent_keys::idem_key.eq(&idem.key))
            .select((Row::as_select(), agent_keys::idem_hash))
            .first(tx.read()?)
            .optional()?;
        idem.same(known, "key")?.map(AgentKey::try_from).transpose()
    }

    fn check_room(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let now_ms = tx.now_ms();
        let live: i64 = agent_keys::table
            .filter(agent_keys::agent_id.eq(self.agent_id.as_bytes().as_slice()))
            .filter(agent_keys::revoked_at.is_null())
            .filter(agent_keys::expires_at.is_null().or(agent_keys::expires_at.gt(now_ms)))
            .count()
            .get_result(tx.read()?)?;
        if usize::try_from(live).unwrap_or(usize::MAX) < self.keys_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::RateLimited,
            format!("this agent has {live} keys, which is all that `limits.keys_per_agent_max` allows; revoke one"),
        ))
    }
}

/// Ends a key.
pub struct RevokeAgentKey {
    pub id: AgentKeyId,
    pub actor: Actor,
}

impl Command for RevokeAgentKey {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let now_ms = tx.now_ms();
        let known = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("agent key", self.id))?;
        if known.revoked_at.is_some() {
            return Ok(());
        }
        diesel::update(agent_keys::table.find(self.id.as_bytes().as_slice()))
            .set(agent_keys::revoked_at.eq(Some(now_ms)))
            .execute(tx.write()?)?;
        let before = json!({ "agent": known.agent_id, "label": known.label, "prefix": known.prefix });
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "agent_key.revoke", ("agent_key", &target), Some(&before), None)?;
        tx.emit(Event::AgentKeyEnded { agent_id: known.agent_id, key_id: self.id });
        Ok(())
    }
}

/// Notes when keys were used and agents seen last; gathered in memory and written now and then. Belongs in the bulk lane.
pub struct NoteAgentKeysUsed {
    pub keys: Vec<(AgentKeyId, i64)>,
    pub agents: Vec<(AgentId, i64)>,
}

impl NoteAgentKeysUsed {
    /// Rows that one command writes at most, so that it does not hold up the others.
    const ROWS_MAX: usize = 500;

    /// Cuts what is to be noted into commands.
    pub fn in_parts(keys: &[(AgentKeyId, i64)], agents: &[(AgentId, i64)]) -> Vec<Self> {
        let of_keys = keys.chunks(Self::ROWS_MAX).map(|part| Self { keys: part.to_vec(), agents: Vec::new() });
        let of_agents = agents.chunks(Self::ROWS_MAX).map(|part| Self { keys: Vec::new(), agents: part.to_vec() });
        of_keys.chain(of_agents).collect()
    }
}

impl Command for NoteAgentKeysUsed {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        for (id, at) in &self.keys {
            diesel::update(agent_keys::table.find(id.as_bytes().as_slice()))
                .set(agent_keys::last_used_at.eq(Some(*at)))
                .execute(tx.write()?)?;
        }
        for (id, at) in &self.agents {
            diesel::update(agents::table.find(id.as_bytes().as_slice()))
                .set(agents::last_seen_at.eq(Some(*at)))
                .execute(tx.write()?)?;
        }
        Ok(())
    }
}

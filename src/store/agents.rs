//! Agents: who has a mailbox. Their keys are in `agent_keys.rs`.
mod ending;
mod part;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use diesel::dsl::count_star;
use diesel::prelude::*;
use serde_json::json;

use super::audit::{self, Actor};
use super::dialect::Db;
use super::messages::Idem;
use super::schema::{agent_keys, agents, deliveries};
use super::tx::{Command, Tx};
use super::{channels, deliveries as moves, parties, relationships};
use crate::domain::agent::{Agent, AgentKind, AgentState, Slug, fold, slug_of};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, PartyId, UserId};
use crate::domain::party::PartyKind;

pub use self::ending::{EndMailStep, ending};
pub use self::part::part_of_name;

/// Numbers that are tried behind a slug that is taken; then it gets a part of the agent's id.
const SLUGS_TRIED: usize = 9;

#[derive(Queryable, Selectable)]
#[diesel(table_name = agents)]
pub(super) struct Row {
    id: Vec<u8>,
    party_id: Vec<u8>,
    slug: String,
    name: String,
    kind: i32,
    state: i32,
    role_description: String,
    creator_id: Option<Vec<u8>>,
    labels: String,
    lease_seconds: Option<i32>,
    attempts_max: Option<i32>,
    model: Option<String>,
    last_seen_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<Row> for Agent {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let creator_id = row.creator_id.map(|id| UserId::try_from(id.as_slice())).transpose()?;
        Ok(Self {
            id: AgentId::try_from(row.id.as_slice())?,
            party_id: PartyId::try_from(row.party_id.as_slice())?,
            slug: row.slug,
            name: row.name,
            kind: AgentKind::from_code(row.kind).ok_or_else(|| Error::corrupt("an agent of an unknown kind"))?,
            state: AgentState::from_code(row.state).ok_or_else(|| Error::corrupt("an agent in an unknown state"))?,
            role_description: row.role_description,
            creator_id,
            labels: serde_json::from_str(&row.labels).map_err(|_| Error::corrupt("the labels of an agent"))?,
            lease_seconds: row.lease_seconds,
            attempts_max: row.attempts_max,
            model: row.model,
            last_seen_at: row.last_seen_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Lists at most `limit` agents by name, in any case, after the one of this folded name and id.
pub fn page(db: &mut Db, after: Option<&(String, AgentId)>, limit: i64) -> Result<Vec<Agent>, Error> {
    let mut query = agents::table
        .filter(agents::deleted_at.is_null())
        .order((agents::name_folded.asc(), agents::id.asc()))
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some((name, id)) = after {
        let further = agents::name_folded.gt(name).or(agents::id.gt(id.as_bytes().to_vec()));
        query = query.filter(agents::name_folded.ge(name).and(further));
    }
    query.load::<Row>(db)?.into_iter().map(Agent::try_from).collect()
}

/// Counts the agents.
pub fn count(db: &mut Db) -> Result<i64, Error> {
    Ok(agents::table.filter(agents::deleted_at.is_null()).count().get_result(db)?)
}

/// Reads one agent.
pub fn get(db: &mut Db, id: AgentId) -> Result<Option<Agent>, Error> {
    agents::table
        .filter(agents::id.eq(id.as_bytes().as_slice()).and(agents::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Agent::try_from)
        .transpose()
}

/// Finds an agent by its slug.
pub fn by_slug(db: &mut Db, slug: &str) -> Result<Option<Agent>, Error> {
    agents::table
        .filter(agents::slug.eq(slug).and(agents::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Agent::try_from)
        .transpose()
}

/// Finds at most `limit` agents that are called just so.
pub fn by_name(db: &mut Db, name: &str, limit: i64) -> Result<Vec<Agent>, Error> {
    agents::table
        // The folded name has the index.
        .filter(agents::name_folded.eq(fold(name)).and(agents::name.eq(name)).and(agents::deleted_at.is_null()))
        .order(agents::id.asc())
        .limit(limit)
        .select(Row::as_select())
        .load::<Row>(db)?
        .into_iter()
        .map(Agent::try_from)
        .collect()
}

/// How many messages an agent has in each state that is not history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    pub pending: i64,
    pub leased: i64,
    pub dead: i64,
}

/// Counts the messages of recipients; one that has none is left out.
pub fn mailboxes(db: &mut Db, recipients: &[PartyId]) -> Result<HashMap<PartyId, Mailbox>, Error> {
    let mut found: HashMap<PartyId, Mailbox> = HashMap::new();
    if recipients.is_empty() {
        return Ok(found);
    }
    for state in [DeliveryState::Pending, DeliveryState::Leased, DeliveryState::Dead] {
        let ids: Vec<&[u8]> = recipients.iter().map(|id| id.as_bytes().as_slice()).collect();
        // The conditions of the two indexes.
        let half = if state.is_open() { moves::open() } else { moves::ended() };
        let counts: Vec<(Vec<u8>, i64)> = deliveries::table
            .group_by(deliveries::recipient_id)
            .select((deliveries::recipient_id, count_star()))
            .filter(deliveries::recipient_id.eq_any(ids).and(half).and(deliveries::state.eq(state as i32)))
            .load(db)?;
        for (id, count) in counts {
            let mailbox = found.entry(PartyId::try_from(id.as_slice())?).or_default();
            match state {
                DeliveryState::Pending => mailbox.pending = count,
                DeliveryState::Leased => mailbox.leased = count,
                _ => mailbox.dead = count,
            }
        }
    }
    Ok(found)
}

/// Registers an agent.
pub struct AddAgent {
    pub name: String,
    /// Made from the name if there is none.
    pub slug: Option<Slug>,
    pub kind: AgentKind,
    pub state: AgentState,
    pub role_description: String,
    pub creator_id: Option<UserId>,
    pub labels: BTreeMap<String, String>,
    pub lease_seconds: Option<i32>,
    pub attempts_max: Option<i32>,
    pub model: Option<String>,
    pub actor: Actor,
    pub idem: Option<Idem>,
    /// Registered agents that are allowed.
    pub agents_max: usize,
}

impl Command for AddAgent {
    type Output = Agent;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Agent, Error> {
        if let Some(repeated) = repeated(tx, self.idem.as_ref())? {
            return Ok(repeated);
        }
        self.check_room(tx)?;
        let id = AgentId::new();
        let slug = self.free_slug(tx, id)?;
        let party = parties::ensure(tx, PartyKind::Agent, &id.to_string(), &self.name)?;
        let now_ms = tx.now_ms();
        diesel::insert_into(agents::table)
            .values((
                agents::id.eq(id.as_bytes().as_slice()),
                agents::party_id.eq(party.id.as_bytes().as_slice()),
                agents::slug.eq(&slug),
                agents::name.eq(&self.name),
                agents::name_folded.eq(fold(&self.name)),
                agents::kind.eq(self.kind as i32),
                agents::state.eq(self.state as i32),
                agents::role_description.eq(&self.role_description),
                agents::creator_id.eq(self.creator_id.as_ref().map(|id| id.as_bytes().as_slice())),
                agents::labels.eq(json!(self.labels).to_string()),
                agents::lease_seconds.eq(self.lease_seconds),
                agents::attempts_max.eq(self.attempts_max),
                agents::model.eq(&self.model),
                agents::created_at.eq(now_ms),
                agents::updated_at.eq(now_ms),
                agents::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                agents::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let agent = get(tx.read()?, id)?.ok_or_else(|| Error::not_found("agent", id))?;
        audit::record(tx, &self.actor, "agent.add", ("agent", &id.to_string()), None, Some(&shown(&agent)))?;
        tx.note_registered_agents(1);
        tx.emit(Event::AgentChanged { agent_id: id, now: Some(Arc::new(agent.clone())) });
        Ok(agent)
    }
}

impl AddAgent {
    fn check_room(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known = tx.registered_agents()?;
        if usize::try_from(known).unwrap_or(usize::MAX) < self.agents_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::RateLimited,
            format!("{known} agents are registered, which is all that `limits.agents_max` allows"),
        ))
    }

    /// Takes the slug that was asked for, or the next free one that the name suggests.
    fn free_slug(&self, tx: &mut Tx<'_>, id: AgentId) -> Result<String, Error> {
        if let Some(slug) = &self.slug {
            check_free(tx, slug)?;
            return Ok(slug.as_str().to_owned());
        }
        let base = slug_of(&self.name);
        let numbered = (2..=SLUGS_TRIED).map(|n| format!("{base}-{n}"));
        for slug in std::iter::once(base.clone()).chain(numbered) {
            if by_slug(tx.read()?, &slug)?.is_none() {
                return Ok(slug);
            }
        }
        // Its last part is random.
        let id = id.to_string();
        Ok(format!("{base}-{}", id.rsplit('-').next().unwrap_or_default()))
    }
}

fn check_free(tx: &mut Tx<'_>, slug: &Slug) -> Result<(), Error> {
    if by_slug(tx.read()?, slug.as_str())?.is_none() {
        return Ok(());
    }
    let message = format!("agent `{}` exists already", slug.as_str());
    Err(Error::new(ErrorCode::AlreadyExists, message).with_status(409))
}

/// Finds the agent that this key has made before, whatever name this call gives.
fn repeated(tx: &mut Tx<'_>, idem: Option<&Idem>) -> Result<Option<Agent>, Error> {
    let Some(idem) = idem else { return Ok(None) };
    let known = agents::table
        .filter(agents::idem_key.eq(&idem.key).and(agents::deleted_at.is_null()))
        .select((Row::as_select(), agents::idem_hash))
        .first(tx.read()?)
        .optional()?;
    idem.same(known, "agent")?.map(Agent::try_from).transpose()
}

/// An agent as the audit log shows it.
fn shown(agent: &Agent) -> serde_json::Value {
    json!({
        "name": agent.name, "slug": agent.slug, "kind": agent.kind, "status": agent.state,
        "role_description": agent.role_description, "creator_id": agent.creator_id, "labels": agent.labels,
        "lease_seconds": agent.lease_seconds, "max_attempts": agent.attempts_max, "model": agent.model,
    })
}

/// What changes of an agent; `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub slug: Option<Slug>,
    pub state: Option<AgentState>,
    pub role_description: Option<String>,
    pub creator_id: Option<Option<UserId>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub lease_seconds: Option<Option<i32>>,
    pub attempts_max: Option<Option<i32>>,
    pub model: Option<Option<String>>,
}

impl Changes {
    fn made_to(&self, agent: &Agent) -> Agent {
        let Self { name, slug, state, role_description, creator_id, labels, lease_seconds, attempts_max, model } =
            self.clone();
        let before = agent.clone();
        Agent {
            name: name.unwrap_or(before.name),
            slug: slug.map_or(before.slug, |slug| slug.as_str().to_owned()),
            state: state.unwrap_or(before.state),
            role_description: role_description.unwrap_or(before.role_description),
            creator_id: creator_id.unwrap_or(before.creator_id),
            labels: labels.unwrap_or(before.labels),
            lease_seconds: lease_seconds.unwrap_or(before.lease_seconds),
            attempts_max: attempts_max.unwrap_or(before.attempts_max),
            model: model.unwrap_or(before.model),
            ..before
        }
    }
}

/// Changes an agent.
pub struct ChangeAgent {
    pub id: AgentId,
    pub changes: Changes,
    pub actor: Actor,
}

impl Command for ChangeAgent {
    type Output = Agent;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Agent, Error> {
        let before = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("agent", self.id))?;
        let wanted = self.changes.made_to(&before);
        if wanted == before {
            return Ok(before);
        }
        let after = Agent { updated_at: tx.now_ms(), ..wanted };
        if let Some(slug) = self.changes.slug.as_ref().filter(|slug| slug.as_str() != before.slug) {
            check_free(tx, slug)?;
        }
        parties::ensure(tx, PartyKind::Agent, &self.id.to_string(), &after.name)?;
        diesel::update(agents::table.find(self.id.as_bytes().as_slice()))
            .set((
                agents::name.eq(&after.name),
                agents::name_folded.eq(fold(&after.name)),
                agents::slug.eq(&after.slug),
                agents::state.eq(after.state as i32),
                agents::role_description.eq(&after.role_description),
                agents::creator_id.eq(after.creator_id.as_ref().map(|id| id.as_bytes().as_slice())),
                agents::labels.eq(json!(after.labels).to_string()),
                agents::lease_seconds.eq(after.lease_seconds),
                agents::attempts_max.eq(after.attempts_max),
                agents::model.eq(&after.model),
                agents::updated_at.eq(after.updated_at),
            ))
            .execute(tx.write()?)?;
        tx.forget_agent(self.id);
        if after.name != before.name {
            relationships::tell_who_knows_agent(tx, self.id)?;
        }
        let id = self.id.to_string();
        let target = ("agent", id.as_str());
        audit::record(tx, &self.actor, "agent.change", target, Some(&shown(&before)), Some(&shown(&after)))?;
        tx.emit(Event::AgentChanged { agent_id: self.id, now: Some(Arc::new(after.clone())) });
        Ok(after)
    }
}

/// Removes an agent: its keys end, its mailbox is closed, it knows nobody any more, and its channels are nobody's; its lines
/// stay. What is open for it is ended by [`EndMailStep`].
pub struct RemoveAgent {
    pub id: AgentId,
    pub actor: Actor,
}

impl Command for RemoveAgent {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let agent = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("agent", self.id))?;
        let now_ms = tx.now_ms();
        diesel::update(agents::table.find(self.id.as_bytes().as_slice()))
            .set((agents::deleted_at.eq(Some(now_ms)), agents::ending.eq(true)))
            .execute(tx.write()?)?;
        diesel::update(agent_keys::table)
            .filter(agent_keys::agent_id.eq(self.id.as_bytes().as_slice()).and(agent_keys::revoked_at.is_null()))
            .set(agent_keys::revoked_at.eq(Some(now_ms)))
            .execute(tx.write()?)?;
        relationships::end_of_agent(tx, self.id)?;
        channels::disown(tx, self.id)?;
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "agent.remove", ("agent", &target), Some(&shown(&agent)), None)?;
        tx.note_registered_agents(-1);
        tx.forget_agent(self.id);
        tx.emit(Event::AgentChanged { agent_id: self.id, now: None });
        Ok(())
    }
}

//! Relationships: which people and which other agents an agent knows, and what they are to it.
use std::collections::HashMap;

use diesel::prelude::*;
use serde_json::json;

use super::agents::{self as owners, Row as AgentRow};
use super::audit::{self, Actor};
use super::dialect::{Db, like_escaped};
use super::members::{self as persons, Row as MemberRow};
use super::messages::Idem;
use super::schema::{agents as agents_table, members as members_table, relationships};
use super::tx::{Command, Tx};
use crate::domain::agent::{Agent, fold};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, MemberId, RelationshipId};
use crate::domain::member::{Known, Member, Relationship};

#[derive(Queryable, Selectable)]
#[diesel(table_name = relationships)]
struct Row {
    id: Vec<u8>,
    agent_id: Vec<u8>,
    member_id: Option<Vec<u8>>,
    target_id: Option<Vec<u8>>,
    relation: String,
    description: Option<String>,
    created_at: i64,
}

impl TryFrom<Row> for Relationship {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let known = match (row.member_id, row.target_id) {
            (Some(id), None) => Known::Member(MemberId::try_from(id.as_slice())?),
            (None, Some(id)) => Known::Agent(AgentId::try_from(id.as_slice())?),
            _ => return Err(Error::corrupt("a relationship to nobody, or to two")),
        };
        Ok(Self {
            id: RelationshipId::try_from(row.id.as_slice())?,
            agent_id: AgentId::try_from(row.agent_id.as_slice())?,
            known,
            relation: row.relation,
            description: row.description,
            created_at: row.created_at,
        })
    }
}

/// Lists at most `limit` relationships of an agent, oldest first, those after `after`.
pub fn page(
    db: &mut Db,
    agent: AgentId,
    after: Option<RelationshipId>,
    limit: i64,
) -> Result<Vec<Relationship>, Error> {
    let mut query = relationships::table
        .filter(relationships::agent_id.eq(agent.as_bytes().to_vec()))
        .order(relationships::id.asc())
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(relationships::id.gt(after.as_bytes().to_vec()));
    }
    query.load::<Row>(db)?.into_iter().map(Relationship::try_from).collect()
}

/// Counts the relationships of an agent.
pub fn count_of(db: &mut Db, agent: AgentId) -> Result<i64, Error> {
    let its = relationships::table.filter(relationships::agent_id.eq(agent.as_bytes().as_slice()));
    Ok(its.count().get_result(db)?)
}

/// Reads one relationship.
pub fn get(db: &mut Db, id: RelationshipId) -> Result<Option<Relationship>, Error> {
    let row = relationships::table.find(id.as_bytes().as_slice()).select(Row::as_select()).first(db).optional()?;
    row.map(Relationship::try_from).transpose()
}

/// What those are called that some relationships are to, by relationship; with one query for the people and one for the
/// agents.
pub fn names(db: &mut Db, of: &[Relationship]) -> Result<HashMap<RelationshipId, String>, Error> {
    let (mut members, mut agents) = (Vec::new(), Vec::new());
    for one in of {
        match &one.known {
            Known::Member(id) => members.push(id.as_bytes().as_slice()),
            Known::Agent(id) => agents.push(id.as_bytes().as_slice()),
        }
    }
    let mut names: HashMap<Vec<u8>, String> = HashMap::new();
    if !members.is_empty() {
        let named = members_table::table.filter(members_table::id.eq_any(members));
        names.extend(named.select((members_table::id, members_table::name)).load::<(Vec<u8>, String)>(db)?);
    }
    if !agents.is_empty() {
        let named = agents_table::table.filter(agents_table::id.eq_any(agents));
        names.extend(named.select((agents_table::id, agents_table::name)).load::<(Vec<u8>, String)>(db)?);
    }
    let name = |one: &Relationship| {
        let known = match &one.known {
            Known::Member(id) => id.as_bytes().as_slice(),
            Known::Agent(id) => id.as_bytes().as_slice(),
        };
        Some((one.id, names.get(known)?.clone()))
    };
    Ok(of.iter().filter_map(name).collect())
}

/// Which of those that an agent knows are meant.
#[derive(Clone, Copy, Debug)]
pub enum Called<'a> {
    Anyhow,
    /// By just this name.
    Just(&'a str),
    /// By a name that has this in it; both are folded, and no character stands for others.
    Part(&'a str),
}

/// Reads at most `limit` people whom an agent knows, in the order in which it came to know them.
pub fn people(
    db: &mut Db,
    agent: AgentId,
    called: Called<'_>,
    limit: i64,
) -> Result<Vec<(Relationship, Member)>, Error> {
    let mut query = relationships::table
        .inner_join(members_table::table.on(relationships::member_id.eq(members_table::id.nullable())))
        .filter(relationships::agent_id.eq(agent.as_bytes().to_vec()))
        .filter(members_table::deleted_at.is_null())
        .order(relationships::id.asc())
        .limit(limit)
        .select((Row::as_select(), MemberRow::as_select()))
        .into_boxed();
    query = match called {
        Called::Anyhow => query,
        Called::Just(name) => {
            query.filter(members_table::name_folded.eq(fold(name))).filter(members_table::name.eq(name.to_owned()))
        }
        Called::Part(folded) => query.filter(members_table::name_folded.like(pattern(folded)).escape('\\')),
    };
    let rows: Vec<(Row, MemberRow)> = query.load(db)?;
    rows.into_iter().map(|(row, member)| Ok((Relationship::try_from(row)?, Member::try_from(member)?))).collect()
}

/// Reads a person, if the agent knows it.
pub fn person(db: &mut Db, agent: AgentId, id: MemberId) -> Result<Option<Member>, Error> {
    if knows(db, agent, &Known::Member(id))? { persons::get(db, id) } else { Ok(None) }
}

/// Reads at most `limit` agents that an agent knows, in the order in which it came to know them.
pub fn agents(
    db: &mut Db,
    agent: AgentId,
    called: Called<'_>,
    limit: i64,
) -> Result<Vec<(Relationship, Agent)>, Error> {
    let mut query = relationships::table
        .inner_join(agents_table::table.on(relationships::target_id.eq(agents_table::id.nullable())))
        .filter(relationships::agent_id.eq(agent.as_bytes().to_vec()))
        .filter(agents_table::deleted_at.is_null())
        .order(relationships::id.asc())
        .limit(limit)
        .select((Row::as_select(), AgentRow::as_select()))
        .into_boxed();
    query = match called {
        Called::Anyhow => query,
        Called::Just(name) => {
            query.filter(agents_table::name_folded.eq(fold(name))).filter(agents_table::name.eq(name.to_owned()))
        }
        Called::Part(folded) => query.filter(agents_table::name_folded.like(pattern(folded)).escape('\\')),
    };
    let rows: Vec<(Row, AgentRow)> = query.load(db)?;
    rows.into_iter().map(|(row, agent)| Ok((Relationship::try_from(row)?, Agent::try_from(agent)?))).collect()
}

fn pattern(folded: &str) -> String {
    format!("%{}%", like_escaped(folded))
}

/// Tells whether an agent knows somebody.
pub fn knows(db: &mut Db, agent: AgentId, known: &Known) -> Result<bool, Error> {
    Ok(find(db, agent, known)?.is_some())
}

/// Finds the relationship of an agent to somebody.
fn find(db: &mut Db, agent: AgentId, known: &Known) -> Result<Option<RelationshipId>, Error> {
    let its =
        relationships::table.filter(relationships::agent_id.eq(agent.as_bytes().as_slice())).select(relationships::id);
    let found: Option<Vec<u8>> = match known {
        Known::Member(id) => its.filter(relationships::member_id.eq(id.as_bytes().as_slice())).first(db).optional()?,
        Known::Agent(id) => its.filter(relationships::target_id.eq(id.as_bytes().as_slice())).first(db).optional()?,
    };
    found.map(|id| RelationshipId::try_from(id.as_slice())).transpose()
}

/// Lets an agent know a person or another agent.
pub struct AddRelationship {
    pub agent_id: AgentId,
    pub known: Known,
    pub relation: String,
    pub description: Option<String>,
    pub actor: Actor,
    pub idem: Option<Idem>,
    /// Relationships of one agent that are allowed.
    pub relationships_max: usize,
}

impl Command for AddRelationship {
    /// The relationship, and what the other one is called.
    type Output = (Relationship, String);

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(Relationship, String), Error> {
        if let Some(known) = self.repeated(tx)? {
            let name = names(tx.read()?, std::slice::from_ref(&known))?.remove(&known.id);
            return Ok((known, name.unwrap_or_default()));
        }
        if owners::get(tx.read()?, self.agent_id)?.is_none() {
            return Err(Error::not_found("agent", self.agent_id));
        }
        let name = self.check_known(tx)?;
        self.check_room(tx)?;
        let relationship = Relationship {
            id: RelationshipId::new(),
            agent_id: self.agent_id,
            known: self.known,
            relation: self.relation.clone(),
            description: self.description.clone(),
            created_at: tx.now_ms(),
        };
        let (to_member, to_agent) = match &self.known {
            Known::Member(id) => (Some(id.as_bytes().as_slice()), None),
            Known::Agent(id) => (None, Some(id.as_bytes().as_slice())),
        };
        diesel::insert_into(relationships::table)
            .values((
                relationships::id.eq(relationship.id.as_bytes().as_slice()),
                relationships::agent_id.eq(self.agent_id.as_bytes().as_slice()),
                relationships::member_id.eq(to_member),
                relationships::target_id.eq(to_agent),
                relationships::relation.eq(&self.relation),
                relationships::description.eq(&self.description),
                relationships::created_at.eq(relationship.created_at),
                relationships::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                relationships::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let id = relationship.id.to_string();
        let after = shown(&relationship);
        audit::record(tx, &self.actor, "relationship.add", ("relationship", &id), None, Some(&after))?;
        tell(tx, vec![self.agent_id]);
        Ok((relationship, name))
    }
}

impl AddRelationship {
    /// Finds the relationship that this key has made before, of this agent.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Relationship>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let known = relationships::table
            .filter(
                relationships::agent_id
                    .eq(self.agent_id.as_bytes().as_slice())
                    .and(relationships::idem_key.eq(&idem.key)),
            )
            .select((Row::as_select(), relationships::idem_hash))
            .first(tx.read()?)
            .optional()?;
        idem.same(known, "relationship")?.map(Relationship::try_from).transpose()
    }

    /// Checks that the other one is there and is not known yet; returns what it is called.
    fn check_known(&self, tx: &mut Tx<'_>) -> Result<String, Error> {
        let name = match self.known {
            Known::Agent(id) if id == self.agent_id => {
                return Err(Error::invalid("agent_id", "an agent has no relationship to itself"));
            }
            Known::Agent(id) => owners::get(tx.read()?, id)?
                .map(|agent| agent.name)
                .ok_or_else(|| Error::invalid("agent_id", "there is no such agent"))?,
            Known::Member(id) => persons::get(tx.read()?, id)?
                .map(|member| member.name)
                .ok_or_else(|| Error::invalid("member_id", "there is no such member"))?,
        };
        if knows(tx.read()?, self.agent_id, &self.known)? {
            let message = format!("the agent has a relationship to {name} already");
            return Err(Error::new(ErrorCode::AlreadyExists, message).with_status(409));
        }
        Ok(name)
    }

    fn check_room(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let count = count_of(tx.read()?, self.agent_id)?;
        if usize::try_from(count).unwrap_or(usize::MAX) < self.relationships_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::RateLimited,
            format!(
                "the agent has {count} relationships, which is all that `limits.relationships_per_agent_max` allows"
            ),
        ))
    }
}

/// A relationship as the audit log shows it.
fn shown(relationship: &Relationship) -> serde_json::Value {
    let (member, agent) = match relationship.known {
        Known::Member(id) => (Some(id), None),
        Known::Agent(id) => (None, Some(id)),
    };
    json!({
        "of": relationship.agent_id, "member_id": member, "agent_id": agent, "relation": relationship.relation,
        "description": relationship.description,
    })
}

/// Ends a relationship.
pub struct RemoveRelationship {
    pub id: RelationshipId,
    pub actor: Actor,
}

impl Command for RemoveRelationship {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("relationship", self.id))?;
        diesel::delete(relationships::table.find(self.id.as_bytes().as_slice())).execute(tx.write()?)?;
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "relationship.remove", ("relationship", &target), Some(&shown(&known)), None)?;
        tell(tx, vec![known.agent_id]);
        Ok(())
    }
}

/// Tells whoever knows a member that it has changed. Told also where nobody knows it: there may be lines of it in memory.
pub(super) fn tell_who_knows_member(tx: &mut Tx<'_>, id: MemberId) -> Result<(), Error> {
    let agents = who_knows(tx.read()?, &Known::Member(id))?;
    tx.emit(Event::RelationshipsChanged { agents });
    Ok(())
}

/// Tells whoever knows an agent that it is called otherwise now.
pub(super) fn tell_who_knows_agent(tx: &mut Tx<'_>, id: AgentId) -> Result<(), Error> {
    let agents = who_knows(tx.read()?, &Known::Agent(id))?;
    tell(tx, agents);
    Ok(())
}

/// Ends all relationships to a member that is being removed.
pub(super) fn end_of_member(tx: &mut Tx<'_>, id: MemberId) -> Result<(), Error> {
    let agents = who_knows(tx.read()?, &Known::Member(id))?;
    let to_it = relationships::table.filter(relationships::member_id.eq(id.as_bytes().as_slice()));
    diesel::delete(to_it).execute(tx.write()?)?;
    tell(tx, agents);
    Ok(())
}

/// Ends all relationships of an agent that is being removed, and all to it.
pub(super) fn end_of_agent(tx: &mut Tx<'_>, id: AgentId) -> Result<(), Error> {
    let agents = who_knows(tx.read()?, &Known::Agent(id))?;
    let of_it = relationships::table.filter(relationships::agent_id.eq(id.as_bytes().as_slice()));
    diesel::delete(of_it).execute(tx.write()?)?;
    let to_it = relationships::table.filter(relationships::target_id.eq(id.as_bytes().as_slice()));
    diesel::delete(to_it).execute(tx.write()?)?;
    tell(tx, agents);
    Ok(())
}

/// Reads which agents know somebody.
fn who_knows(db: &mut Db, known: &Known) -> Result<Vec<AgentId>, Error> {
    let agents = relationships::table.select(relationships::agent_id);
    let found: Vec<Vec<u8>> = match known {
        Known::Member(id) => agents.filter(relationships::member_id.eq(id.as_bytes().as_slice())).load(db)?,
        Known::Agent(id) => agents.filter(relationships::target_id.eq(id.as_bytes().as_slice())).load(db)?,
    };
    found.iter().map(|id| AgentId::try_from(id.as_slice())).collect()
}

fn tell(tx: &mut Tx<'_>, agents: Vec<AgentId>) {
    if !agents.is_empty() {
        tx.emit(Event::RelationshipsChanged { agents });
    }
}

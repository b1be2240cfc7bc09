//! Conversations: named, listed, changed, deleted.
mod insert;
mod name;

use std::collections::HashMap;

use diesel::prelude::*;

use super::deliveries;
use super::dialect::{Db, coalesce, like_escaped, lower, said};
use super::schema::{conversations, participants};
use super::search::found_unindexed;
use super::tx::{Command, Tx};
use crate::domain::conversation::{Conversation, ConversationKind, Upstream};
use crate::domain::delivery::{Move, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, Topic};
use crate::domain::ids::{ConversationId, GatewayId, PartyId, UserId};
use crate::domain::search::Search;
use crate::domain::user::Caller;

use self::insert::insert_row;
pub(super) use self::insert::{insert_named, named};
pub use self::name::SessionName;
use self::name::{UNTOLD, untold};

#[derive(Queryable, Selectable)]
#[diesel(table_name = conversations)]
struct Row {
    id: Vec<u8>,
    kind: i32,
    gateway_id: String,
    key: String,
    canonical_key: Option<String>,
    title: Option<String>,
    agent_id: Option<String>,
    model: Option<String>,
    owner_id: Option<Vec<u8>>,
    archived: bool,
    first_seq: i64,
    last_seq: i64,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
    contacted: bool,
    upstream_session_id: Option<String>,
    mapped_seq: i64,
    import_below: Option<i64>,
    not_before_ms: i64,
}

impl TryFrom<Row> for Conversation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let kind =
            ConversationKind::from_code(row.kind).ok_or_else(|| Error::corrupt("a conversation of an unknown kind"))?;
        let gateway_id = if row.gateway_id.is_empty() { None } else { Some(row.gateway_id.parse()?) };
        Ok(Self {
            id: ConversationId::try_from(row.id.as_slice())?,
            kind,
            gateway_id,
            key: row.key,
            canonical_key: row.canonical_key.filter(|key| !key.starts_with(UNTOLD)),
            title: row.title,
            agent_id: row.agent_id,
            model: row.model,
            owner_id: row.owner_id.map(|id| UserId::try_from(id.as_slice())).transpose()?,
            archived: row.archived,
            first_seq: row.first_seq,
            last_seq: row.last_seq,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
            upstream: Upstream {
                contacted: row.contacted,
                session_id: row.upstream_session_id,
                mapped_seq: row.mapped_seq,
                import_below: row.import_below,
                not_before_ms: row.not_before_ms,
            },
        })
    }
}

/// Reads what events name a conversation by.
pub(super) fn topic(db: &mut Db, id: ConversationId) -> Result<Topic, Error> {
    let (gateway_id, key): (String, String) = conversations::table
        .find(id.as_bytes().as_slice())
        .select((conversations::gateway_id, conversations::key))
        .first(db)
        .optional()?
        .ok_or_else(|| Error::not_found("conversation", id))?;
    let gateway_id = match gateway_id.as_str() {
        "" => None,
        stored => Some(stored.parse::<GatewayId>().map_err(|_| Error::corrupt("a conversation of no gateway"))?),
    };
    Ok(Topic { conversation_id: id, gateway_id, key: key.into() })
}

/// Reads whose a conversation is that was not deleted.
pub(super) fn owner(db: &mut Db, id: ConversationId) -> Result<Option<Option<UserId>>, Error> {
    let owner: Option<Option<Vec<u8>>> = conversations::table
        .filter(conversations::id.eq(id.as_bytes().as_slice()).and(conversations::deleted_at.is_null()))
        .select(conversations::owner_id)
        .first(db)
        .optional()?;
    owner.map(|owner| owner.map(|id| UserId::try_from(id.as_slice())).transpose()).transpose()
}

/// Reads a conversation that was not deleted.
pub fn get(db: &mut Db, id: ConversationId) -> Result<Option<Conversation>, Error> {
    conversations::table
        .filter(conversations::id.eq(id.as_bytes().as_slice()).and(conversations::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Conversation::try_from)
        .transpose()
}

/// Reads what conversations that were not deleted are called, with one query for all.
pub fn keys(db: &mut Db, ids: &[ConversationId]) -> Result<HashMap<ConversationId, String>, Error> {
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    let rows: Vec<(Vec<u8>, String)> = conversations::table
        .filter(conversations::id.eq_any(ids).and(conversations::deleted_at.is_null()))
        .select((conversations::id, conversations::key))
        .load(db)?;
    rows.into_iter().map(|(id, key)| Ok((ConversationId::try_from(id.as_slice())?, key))).collect()
}

/// Finds a session by either of its names, so that two keys of one session upstream are one session here.
pub fn find(db: &mut Db, name: &SessionName) -> Result<Option<Conversation>, Error> {
    let live = || {
        conversations::table
            .filter(
                conversations::gateway_id
                    .eq(name.gateway_id.as_str().to_owned())
                    .and(conversations::deleted_at.is_null()),
            )
            .select(Row::as_select())
    };
    let by_key: Option<Row> = live()
        .filter(conversations::kind.eq(ConversationKind::Session as i32).and(conversations::key.eq(&name.key)))
        .first(db)
        .optional()?;
    if let Some(row) = by_key {
        return Conversation::try_from(row).map(Some);
    }
    let forms = name.forms();
    let rows: Vec<Row> = live().filter(conversations::canonical_key.eq_any(&forms)).load(db)?;
    let place = |row: &Row| forms.iter().position(|form| row.canonical_key.as_ref() == Some(form));
    rows.into_iter().min_by_key(place).map(Conversation::try_from).transpose()
}

/// What a new session is made with.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    pub title: Option<String>,
    pub agent_id: Option<String>,
    pub model: Option<String>,
}

/// Finds a session or makes it; refuses one that is somebody else's.
pub(super) fn open(
    tx: &mut Tx<'_>,
    name: &SessionName,
    caller: &Caller,
    new: NewSession,
) -> Result<(Conversation, bool), Error> {
    if let Some(found) = find(tx.read()?, name)? {
        if !caller.may_write(found.owner_id) {
            return Err(taken(name));
        }
        return Ok((found, false));
    }
    insert(tx, name, Some(caller.user_id), new).map(|conversation| (conversation, true))
}

/// Says that a name is somebody else's.
pub(super) fn taken(name: &SessionName) -> Error {
    Error::new(
        ErrorCode::AlreadyExists,
        format!("the session key `{}` is taken on gateway `{}`", name.key, name.gateway_id),
    )
    .with_status(409)
}

/// Makes a session.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    name: &SessionName,
    owner_id: Option<UserId>,
    new: NewSession,
) -> Result<Conversation, Error> {
    let now_ms = tx.now_ms();
    let not_before_ms = deleted_at(tx.read()?, name)?.unwrap_or(0);
    let canonical_key = if name.is_told { name.canonical.clone() } else { untold(&name.key) };
    let conversation = Conversation {
        id: ConversationId::new(),
        kind: ConversationKind::Session,
        gateway_id: Some(name.gateway_id.clone()),
        key: name.key.clone(),
        canonical_key: name.is_told.then(|| name.canonical.clone()),
        title: new.title,
        agent_id: new.agent_id,
        model: new.model,
        owner_id,
        archived: false,
        first_seq: 1,
        last_seq: 0,
        created_at: now_ms,
        updated_at: now_ms,
        deleted_at: None,
        upstream: Upstream { not_before_ms, ..Upstream::default() },
    };
    insert_row(tx, &conversation, Some(&canonical_key))?;
    Ok(conversation)
}

/// When the newest deleted session of this name was deleted.
pub(super) fn deleted_at(db: &mut Db, name: &SessionName) -> Result<Option<i64>, Error> {
    let deleted = || {
        conversations::table
            .filter(conversations::gateway_id.eq(name.gateway_id.as_str().to_owned()))
            .filter(conversations::deleted_at.is_not_null())
            // Not one that was refused: it had nothing of the gateway's.
            .filter(conversations::contacted.eq(true).or(conversations::owner_id.is_not_null()))
            .order(conversations::deleted_at.desc())
            .select(conversations::deleted_at)
    };
    let by_key: Option<Option<i64>> = deleted().filter(conversations::key.eq(&name.key)).first(db).optional()?;
    let by_canonical: Option<Option<i64>> =
        deleted().filter(conversations::canonical_key.eq_any(name.forms())).first(db).optional()?;
    Ok(by_key.flatten().max(by_canonical.flatten()))
}

/// A person's view of a conversation in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    pub conversation: Conversation,
    /// Lines after the last one the caller has read.
    pub unread: i64,
}

/// Which conversations to list, newest activity first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub gateway_id: Option<GatewayId>,
    pub kind: Option<ConversationKind>,
    pub owner_id: Option<UserId>,
    pub archived: Option<bool>,
    /// Words that a line has, or part of the key or the title in any case.
    pub search: Option<Search>,
    /// Continue after this one: its time of activity and id.
    pub after: Option<(i64, ConversationId)>,
}

/// Lists conversations with what `reader` has not read of them.
pub fn list(db: &mut Db, filter: &Filter, reader: PartyId, limit: i64) -> Result<Vec<Listed>, Error> {
    let mut query = matching(db, filter)?;
    if let Some((at, id)) = filter.after {
        query = query.filter(
            conversations::updated_at
                .lt(at)
                .or(conversations::updated_at.eq(at).and(conversations::id.lt(id.as_bytes().to_vec()))),
        );
    }
    let found: Vec<Conversation> = query
        .order((conversations::updated_at.desc(), conversations::id.desc()))
        .limit(limit)
        .select(Row::as_select())
        .load::<Row>(db)?
        .into_iter()
        .map(Conversation::try_from)
        .collect::<Result<_, _>>()?;
    with_unread(db, found, reader)
}

/// Counts the conversations that [`list`] would give on all its pages.
pub fn count(db: &mut Db, filter: &Filter) -> Result<i64, Error> {
    Ok(matching(db, filter)?.count().get_result(db)?)
}

type Matching = conversations::BoxedQuery<'static, <Db as diesel::Connection>::Backend>;

/// What a filter lets through, wherever the list goes on.
fn matching(db: &mut Db, filter: &Filter) -> Result<Matching, Error> {
    let mut query = conversations::table.filter(conversations::deleted_at.is_null()).into_boxed();
    if let Some(gateway_id) = &filter.gateway_id {
        query = query.filter(conversations::gateway_id.eq(gateway_id.as_str().to_owned()));
    }
    if let Some(kind) = filter.kind {
        query = query.filter(conversations::kind.eq(kind as i32));
    }
    if let Some(owner) = filter.owner_id {
        query = query.filter(conversations::owner_id.eq(owner.as_bytes().to_vec()));
    }
    if let Some(archived) = filter.archived {
        query = query.filter(conversations::archived.eq(archived));
    }
    if let Some(search) = &filter.search {
        let pattern = format!("%{}%", like_escaped(&search.text().to_lowercase()));
        let title = lower(coalesce(conversations::title, ""));
        let named = lower(conversations::key).like(pattern.clone()).escape('\\').or(title.like(pattern).escape('\\'));
        // A PostgreSQL database without a locale folds ASCII only; what is typed as it is written is found there, too.
        let as_is = format!("%{}%", like_escaped(search.text()));
        let named = named.or(coalesce(conversations::title, "").like(as_is).escape('\\'));
        query = match said(db, search) {
            Some(said) => query.filter(named.or(said).or(conversations::id.eq_any(found_unindexed(
                db,
                search,
                filter.gateway_id.as_ref(),
                filter.owner_id,
            )?))),
            None => query.filter(named),
        };
    }
    Ok(query)
}

/// Adds to each conversation how many of its lines `reader` has not read, with one query for all.
pub fn with_unread(db: &mut Db, found: Vec<Conversation>, reader: PartyId) -> Result<Vec<Listed>, Error> {
    let ids: Vec<&[u8]> = found.iter().map(|c| c.id.as_bytes().as_slice()).collect();
    let read: Vec<(Vec<u8>, i64)> = participants::table
        .filter(participants::party_id.eq(reader.as_bytes().as_slice()).and(participants::conversation_id.eq_any(ids)))
        .select((participants::conversation_id, participants::read_seq))
        .load(db)?;
    Ok(found
        .into_iter()
        .map(|conversation| {
            let seen =
                read.iter().find(|(id, _)| id.as_slice() == conversation.id.as_bytes()).map_or(0, |(_, seq)| *seq);
            // Imported lines lie at 0 and below: what was said before we came is not unread.
            let unread = (conversation.last_seq - seen.max(0)).max(0);
            Listed { conversation, unread }
        })
        .collect())
}

/// Reads the sessions of a gateway that have not been deleted, in pages by id; for its link.
pub fn of_gateway(
    db: &mut Db,
    gateway_id: &GatewayId,
    after: Option<ConversationId>,
    limit: i64,
) -> Result<Vec<Conversation>, Error> {
    let mut query = conversations::table
        .filter(conversations::gateway_id.eq(gateway_id.as_str().to_owned()).and(conversations::deleted_at.is_null()))
        .order(conversations::id.asc())
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some(id) = after {
        query = query.filter(conversations::id.gt(id.as_bytes().to_vec()));
    }
    query.load::<Row>(db)?.into_iter().map(Conversation::try_from).collect()
}

/// Opens a session: finds it or makes it the caller's.
pub struct OpenSession {
    pub name: SessionName,
    pub caller: Caller,
    pub new: NewSession,
    /// Refuse a name that exists, as the REST route does.
    pub must_be_new: bool,
}

impl Command for OpenSession {
    type Output = Conversation;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Conversation, Error> {
        let (conversation, fresh) = open(tx, &self.name, &self.caller, self.new.clone())?;
        if self.must_be_new && !fresh {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!("session `{}` exists on gateway `{}`", self.name.key, self.name.gateway_id),
            ));
        }
        if fresh {
            join(tx, conversation.id, self.caller.party_id)?;
        }
        Ok(conversation)
    }
}

/// Notes that a party takes part.
pub(super) fn join(tx: &mut Tx<'_>, id: ConversationId, party: PartyId) -> Result<(), Error> {
    let known: i64 = participants::table
        .find((id.as_bytes().as_slice(), party.as_bytes().as_slice()))
        .count()
        .get_result(tx.read()?)?;
    if known == 0 {
        let now_ms = tx.now_ms();
        diesel::insert_into(participants::table)
            .values((
                participants::conversation_id.eq(id.as_bytes().as_slice()),
                participants::party_id.eq(party.as_bytes().as_slice()),
                participants::read_seq.eq(0_i64),
                participants::joined_at.eq(now_ms),
            ))
            .execute(tx.write()?)?;
    }
    Ok(())
}

/// Notes how far a party has read.
pub struct MarkRead {
    pub id: ConversationId,
    pub party: PartyId,
    pub seq: i64,
}

impl Command for MarkRead {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("conversation", self.id))?;
        let last_seq = tx.ends(self.id)?.last_seq;
        join(tx, self.id, self.party)?;
        let seq = self.seq.min(last_seq);
        diesel::update(participants::table.find((self.id.as_bytes().as_slice(), self.party.as_bytes().as_slice())))
            .filter(participants::read_seq.lt(seq))
            .set(participants::read_seq.eq(seq))
            .execute(tx.write()?)?;
        Ok(())
    }
}

/// Deletes a conversation: a tombstone. Open deliveries are cancelled, a running turn ends as aborted.
pub struct DeleteConversation {
    pub id: ConversationId,
}

impl Command for DeleteConversation {
    type Output = Conversation;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Conversation, Error> {
        let found = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("conversation", self.id))?;
        let now_ms = tx.now_ms();
        for stored in deliveries::open_of_conversation(tx.read()?, self.id, i64::MAX)? {
            let action = Move::Cancel { reason: Some(reason::CONVERSATION_DELETED.to_owned()) };
            deliveries::apply_to(tx, stored, &action, true)?;
        }
        for turn in super::turns::open_of_conversation(tx.read()?, self.id)? {
            super::turns::abandon(tx, turn.id)?;
        }
        diesel::update(conversations::table.find(self.id.as_bytes().as_slice()))
            .set((
                conversations::deleted_at.eq(Some(now_ms)),
                // What nobody owned was tracked: that it was deleted counts, even if its log was never read.
                conversations::contacted.eq(found.upstream.contacted || found.owner_id.is_none()),
            ))
            .execute(tx.write()?)?;
        tx.forget_deleted(self.id);
        let ends = tx.ends(self.id)?;
        let topic = tx.topic(self.id)?;
        tx.emit(Event::ConversationDeleted { topic, first_seq: ends.first_seq, last_seq: ends.last_seq });
        Ok(found)
    }
}

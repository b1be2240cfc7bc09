//! Messages: appended, read by page, never changed.
use std::collections::HashMap;
use std::sync::Arc;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::dialect::{Db, octet_length};
use super::parties;
use super::schema::messages;
use super::tx::Tx;
use crate::domain::conversation::ConversationKind;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{ConversationId, MessageId, PartyId};
use crate::domain::message::{Block, Line, MessageKind, MessageRole, Sender, bounded, plain_text};
use crate::domain::party::{Party, PartyKind};

/// Lines behind a message among which a person's answer to it is looked for.
const SAID_BACK_MAX: i64 = 1_000;

/// Ids in one query.
pub(in crate::store) const IDS_MAX: usize = 1_000;

/// A line that is to be appended.
#[derive(Clone, Debug)]
pub struct NewLine {
    pub role: MessageRole,
    pub kind: Option<MessageKind>,
    pub blocks: Vec<Block>,
    pub sender: Party,
    /// When it was said, if not now.
    pub said_at: Option<i64>,
    pub late: bool,
    pub supersedes: Option<MessageId>,
    pub in_reply_to: Option<MessageId>,
    pub hops: i32,
    pub error: Option<String>,
    /// The sender's own key for it, and the digest of what the key was sent with (D10).
    pub idem: Option<Idem>,
}

/// An idempotency key with the digest of the body it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idem {
    pub key: String,
    pub hash: [u8; 32],
}

impl Idem {
    /// Hands on the row that this key has made before, which was found with the digest of its body. Another body is a
    /// conflict; `what` names the kind of thing.
    pub(super) fn same<R>(&self, found: Option<(R, Option<Vec<u8>>)>, what: &str) -> Result<Option<R>, Error> {
        match found {
            Some((_, hash)) if hash.as_deref() != Some(self.hash.as_slice()) => Err(Error::new(
                ErrorCode::IdempotencyConflict,
                format!("this idempotency key was used for another {what}"),
            )),
            found => Ok(found.map(|(row, _)| row)),
        }
    }
}

impl NewLine {
    /// A plain text line of `sender`.
    pub fn text(role: MessageRole, sender: Party, text: impl Into<String>) -> Self {
        Self {
            role,
            kind: None,
            blocks: vec![Block::text(text)],
            sender,
            said_at: None,
            late: false,
            supersedes: None,
            in_reply_to: None,
            hops: 0,
            error: None,
            idem: None,
        }
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = messages)]
struct Row {
    id: Vec<u8>,
    conversation_id: Vec<u8>,
    seq: i64,
    role: i32,
    kind: Option<i32>,
    text: String,
    blocks: Option<String>,
    sender_id: Vec<u8>,
    said_at: i64,
    created_at: i64,
    late: bool,
    supersedes: Option<Vec<u8>>,
    in_reply_to: Option<Vec<u8>>,
    hops: i32,
    error: Option<String>,
}

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the end: the order of commitment.
    End,
    /// Above the beginning: an imported line.
    Above,
}

/// A line on its way to its table.
pub(super) struct NewRow {
    pub(super) line: Arc<Line>,
    /// `None` where the line is one text.
    pub(super) blocks: Option<String>,
    pub(super) idem: Option<Idem>,
}

/// Appends a line and returns it as committed.
pub(super) fn append(tx: &mut Tx<'_>, id: ConversationId, place: Place, new: NewLine) -> Result<Arc<Line>, Error> {
    let seq = match place {
        Place::End => tx.next_seq(id)?,
        Place::Above => tx.next_seq_below(id)?,
    };
    let now_ms = tx.now_ms();
    let blocks = bounded(new.blocks);
    let text = plain_text(&blocks);
    let one_text = matches!(blocks.as_slice(), [Block::Text { .. }]);
    let stored = if one_text { None } else { Some(serde_json::to_string(&blocks).map_err(Error::internal)?) };
    let line = Arc::new(Line {
        id: MessageId::new(),
        conversation_id: id,
        seq,
        role: new.role,
        blocks,
        text,
        sender_id: new.sender.id,
        sender: sender_of(&new.sender),
        sender_kind: new.sender.kind,
        said_at: new.said_at.unwrap_or(now_ms),
        created_at: now_ms,
        late: new.late,
        supersedes: new.supersedes,
        kind: new.kind,
        in_reply_to: new.in_reply_to,
        hops: new.hops,
        error: new.error,
    });
    tx.add_message(NewRow { line: line.clone(), blocks: stored, idem: new.idem });
    Ok(line)
}

fn sender_of(party: &Party) -> Sender {
    Sender { kind: party.kind.as_str(), id: party.reference.clone(), name: party.display_name.clone() }
}

/// Finds the line that `sender` wrote with this key, with the digest it was written with.
pub(super) fn by_key(tx: &mut Tx<'_>, sender: PartyId, key: &str) -> Result<Option<(MessageId, Vec<u8>)>, Error> {
    let (db, held) = tx.read_around_held();
    let is_it = |row: &&NewRow| row.line.sender_id == sender && row.idem.as_ref().is_some_and(|idem| idem.key == key);
    if let Some(row) = held.messages.iter().find(is_it) {
        return Ok(row.idem.as_ref().map(|idem| (row.line.id, idem.hash.to_vec())));
    }
    Ok(stored_by_key(db, sender, key)?.map(|(id, hash)| (id, hash.unwrap_or_default())))
}

/// A line that was found by its key, with the digest that the key came with.
pub(super) type Keyed = (MessageId, Option<Vec<u8>>);

/// The same among what has been written.
pub(super) fn stored_by_key(db: &mut Db, sender: PartyId, key: &str) -> Result<Option<Keyed>, Error> {
    let found: Option<(Vec<u8>, Option<Vec<u8>>)> = messages::table
        .filter(messages::sender_id.eq(sender.as_bytes().as_slice()).and(messages::idem_key.eq(key)))
        .select((messages::id, messages::idem_hash))
        .first(db)
        .optional()?;
    found.map(|(id, hash)| Ok((MessageId::try_from(id.as_slice())?, hash))).transpose()
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The newest lines.
    Newest,
    /// The newest lines before this `seq`.
    Before(i64),
    /// The oldest lines after this `seq`.
    After(i64),
}

/// Reads at most `limit` lines of a log, oldest first, and at most `bytes_max` of text and blocks (but always one line).
/// How long the lines are is read before they are, so that no more of them is held than is handed out (LIM-1).
pub fn page(
    db: &mut Db,
    id: ConversationId,
    span: Span,
    limit: i64,
    bytes_max: usize,
) -> Result<Vec<Arc<Line>>, Error> {
    let of_conversation = messages::conversation_id.eq(id.as_bytes().as_slice());
    let query = messages::table
        .filter(of_conversation)
        .select((messages::seq, octet_length(messages::text.nullable()), octet_length(messages::blocks)))
        .limit(limit)
        .into_boxed();
    let sizes: Vec<(i64, Option<i32>, Option<i32>)> = match span {
        Span::Newest => query.order(messages::seq.desc()).load(db)?,
        Span::Before(seq) => query.filter(messages::seq.lt(seq)).order(messages::seq.desc()).load(db)?,
        Span::After(seq) => query.filter(messages::seq.gt(seq)).order(messages::seq.asc()).load(db)?,
    };
    let mut bytes = 0;
    let fitting = sizes
        .iter()
        .take_while(|(_, text, blocks)| {
            bytes += [text, blocks].into_iter().flatten().map(|bytes| bytes.unsigned_abs() as usize).sum::<usize>();
            bytes <= bytes_max
        })
        .count();
    let seqs = sizes.iter().take(fitting.max(1)).map(|(seq, ..)| *seq);
    let Some((first, last)) = seqs.clone().min().zip(seqs.max()) else { return Ok(Vec::new()) };
    let rows = messages::table
        .filter(of_conversation.and(messages::seq.between(first, last)))
        .order(messages::seq.asc())
        .select(Row::as_select())
        .load(db)?;
    lines(db, rows)
}

/// Reads one line.
pub fn get(db: &mut Db, id: MessageId) -> Result<Option<Arc<Line>>, Error> {
    let row = messages::table.find(id.as_bytes().as_slice()).select(Row::as_select()).first(db).optional()?;
    Ok(lines(db, row.into_iter().collect())?.pop())
}

/// Reads those of these lines that there are, with a few queries for all. For whoever works through them: what cannot be
/// read is left out, and said in the log (STO-3).
pub fn by_ids(db: &mut Db, ids: &[MessageId]) -> Result<HashMap<MessageId, Arc<Line>>, Error> {
    let mut found = HashMap::new();
    for ids in ids.chunks(IDS_MAX) {
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let rows = messages::table.filter(messages::id.eq_any(ids)).select(Row::as_select()).load(db)?;
        found.extend(readable(db, rows)?.into_iter().map(|line| (line.id, line)));
    }
    Ok(found)
}

/// Reads the first line that answers `id`. A further request that names it, or a notice about it, is no answer.
pub fn reply_to(
    db: &mut Db,
    conversation: ConversationId,
    after_seq: i64,
    id: MessageId,
) -> Result<Option<Arc<Line>>, Error> {
    let row = messages::table
        .filter(
            messages::conversation_id
                .eq(conversation.as_bytes().as_slice())
                .and(messages::seq.gt(after_seq))
                .and(messages::in_reply_to.eq(id.as_bytes().as_slice())),
        )
        .filter(messages::kind.is_null().or(messages::kind.eq(MessageKind::Reply as i32)))
        .order(messages::seq.asc())
        .select(Row::as_select())
        .first(db)
        .optional()?;
    Ok(lines(db, row.into_iter().collect())?.pop())
}

/// Reads the reply to a request that an agent was to handle, by the index that lets it have one: much may have been said
/// since, and it may have none.
pub fn reply_of(db: &mut Db, id: MessageId) -> Result<Option<Arc<Line>>, Error> {
    let row = messages::table
        .filter(sql::<Bool>("(messages.kind = 2)").and(messages::in_reply_to.eq(id.as_bytes().as_slice())))
        .select(Row::as_select())
        .first(db)
        .optional()?;
    Ok(lines(db, row.into_iter().collect())?.pop())
}

/// Returns the place of a line: its conversation and `seq`.
pub fn place_of(db: &mut Db, id: MessageId) -> Result<Option<(ConversationId, i64)>, Error> {
    let found: Option<(Vec<u8>, i64)> = messages::table
        .find(id.as_bytes().as_slice())
        .select((messages::conversation_id, messages::seq))
        .first(db)
        .optional()?;
    found.map(|(id, seq)| Ok((ConversationId::try_from(id.as_slice())?, seq))).transpose()
}

/// How the delivery of a message ended, where the delivery itself has been removed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub state: DeliveryState,
    pub reason: Option<String>,
    pub at: Option<i64>,
}

/// Reads how the removed delivery of a message ended.
pub fn ended(db: &mut Db, id: MessageId) -> Result<Option<Ended>, Error> {
    let row: Option<(Option<i32>, Option<String>, Option<i64>)> = messages::table
        .find(id.as_bytes().as_slice())
        .select((messages::end_state, messages::end_reason, messages::ended_at))
        .first(db)
        .optional()?;
    let Some((Some(code), reason, at)) = row else { return Ok(None) };
    let state = DeliveryState::from_code(code).ok_or_else(|| Error::corrupt("a message with an unknown end state"))?;
    Ok(Some(Ended { state, reason, at }))
}

/// Reads what answers a message that an agent or a person was to handle, in a conversation of this kind: the reply, or what
/// the person first said to it.
pub fn answer_of(db: &mut Db, line: &Line, kind: ConversationKind) -> Result<Option<Arc<Line>>, Error> {
    match reply_of(db, line.id)? {
        None if kind == ConversationKind::AgentMember => said_back(db, line),
        reply => Ok(reply),
    }
}

/// Reads what a person first said to a message of an agent: that is no reply, but a request of its own. It is looked for
/// among the next lines only.
fn said_back(db: &mut Db, line: &Line) -> Result<Option<Arc<Line>>, Error> {
    if line.sender_kind != PartyKind::Agent {
        return Ok(None);
    }
    let row = messages::table
        .filter(
            messages::conversation_id
                .eq(line.conversation_id.as_bytes().as_slice())
                .and(messages::seq.gt(line.seq))
                .and(messages::seq.le(line.seq.saturating_add(SAID_BACK_MAX)))
                .and(messages::in_reply_to.eq(line.id.as_bytes().as_slice())),
        )
        .filter(messages::kind.eq(MessageKind::Request as i32))
        .filter(messages::sender_id.ne(line.sender_id.as_bytes().as_slice()))
        .order(messages::seq.asc())
        .select(Row::as_select())
        .first(db)
        .optional()?;
    Ok(lines(db, row.into_iter().collect())?.pop().filter(|said| said.sender_kind == PartyKind::Member))
}

/// Turns rows into lines, with one query for all their senders.
fn lines(db: &mut Db, rows: Vec<Row>) -> Result<Vec<Arc<Line>>, Error> {
    let mut ids = Vec::new();
    for row in &rows {
        let id = PartyId::try_from(row.sender_id.as_slice())?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let senders: HashMap<PartyId, Party> = if ids.is_empty() {
        HashMap::new()
    } else {
        parties::by_ids(db, &ids)?.into_iter().map(|party| (party.id, party)).collect()
    };
    rows.into_iter().map(|row| line(row, &senders).map(Arc::new)).collect()
}

/// The same without what cannot be read: one damaged row must not hold up its neighbours (STO-3).
fn readable(db: &mut Db, rows: Vec<Row>) -> Result<Vec<Arc<Line>>, Error> {
    let mut ids: Vec<PartyId> =
        rows.iter().filter_map(|row| PartyId::try_from(row.sender_id.as_slice()).ok()).collect();
    ids.sort_unstable();
    ids.dedup();
    let senders: HashMap<PartyId, Party> =
        parties::readable_by_ids(db, &ids)?.into_iter().map(|party| (party.id, party)).collect();
    let readable = |row: Row| {
        let id = MessageId::try_from(row.id.as_slice());
        line(row, &senders).map(Arc::new).inspect_err(|error| match id {
            Ok(id) => log::error!("message `{id}` cannot be read and is left out: {}", error.cause()),
            Err(_) => log::error!("a message cannot be read and is left out: {}", error.cause()),
        })
    };
    Ok(rows.into_iter().filter_map(|row| readable(row).ok()).collect())
}

fn line(row: Row, senders: &HashMap<PartyId, Party>) -> Result<Line, Error> {
    let optional = |id: Option<Vec<u8>>| id.map(|id| MessageId::try_from(id.as_slice())).transpose();
    let sender_id = PartyId::try_from(row.sender_id.as_slice())?;
    let sender = senders.get(&sender_id).ok_or_else(|| Error::corrupt("a message without its sender's party"))?;
    let kind = row
        .kind
        .map(|code| MessageKind::from_code(code).ok_or_else(|| Error::corrupt("a message of an unknown kind")))
        .transpose()?;
    let blocks = match row.blocks {
        Some(json) => {
            serde_json::from_str(&json).map_err(|error| Error::corrupt(format!("blocks of a message: {error}")))?
        }
        None => vec![Block::text(row.text.clone())],
    };
    Ok(Line {
        id: MessageId::try_from(row.id.as_slice())?,
        conversation_id: ConversationId::try_from(row.conversation_id.as_slice())?,
        seq: row.seq,
        role: MessageRole::from_code(row.role).ok_or_else(|| Error::corrupt("a message of an unknown role"))?,
        blocks,
        text: row.text,
        sender_id,
        sender: sender_of(sender),
        sender_kind: sender.kind,
        said_at: row.said_at,
        created_at: row.created_at,
        late: row.late,
        supersedes: optional(row.supersedes)?,
        kind,
        in_reply_to: optional(row.in_reply_to)?,
        hops: row.hops,
        error: row.error,
    })
}

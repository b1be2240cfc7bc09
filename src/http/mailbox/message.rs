//! Messages as agents see them, with the lines before them.
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::agent_mailbox::Leased;
use crate::actors::agents::Recent;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, PartyId};
use crate::domain::message::{Line, MessageRole};
use crate::domain::party::PartyKind;
use crate::domain::time::iso;
use crate::http::state::AppState;
use crate::store::{Db, conversations, mailbox, messages};

/// A message that is handed out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentMessage)]
pub(super) struct Message {
    id: String,
    #[schema(required)]
    conversation_id: Option<String>,
    #[schema(required)]
    sender_agent_name: Option<String>,
    #[schema(required)]
    sender_user_name: Option<String>,
    #[schema(required)]
    sender_user_id: Option<String>,
    content: String,
    created_at: String,
    /// The lines before it, oldest first, never itself.
    history: Vec<HistoryLine>,
    /// Counts its hand-outs; `report` may name it.
    delivery_attempt: i32,
    /// It is not handed out again before this time.
    lease_until: String,
    /// `request`: it wants a report; `reply` or `notice`: it does not.
    #[schema(required)]
    kind: Option<&'static str>,
    /// The message that it answers.
    #[schema(required)]
    in_reply_to: Option<String>,
    hops: i32,
}

/// A line before a message.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AgentHistoryLine)]
pub(super) struct HistoryLine {
    /// `user`, `assistant`, `system` or `tool_call`.
    role: &'static str,
    content: String,
    #[schema(required)]
    sender_name: Option<String>,
    created_at: String,
}

/// How much comes with the messages of one poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Lines before each message, and their bytes of text.
    pub(super) lines: usize,
    pub(super) line_bytes: usize,
    /// Bytes of text of all the messages and the lines before them.
    pub(super) bytes: usize,
}

/// How many times as far back is read where lines are left out.
const FURTHER: usize = 4;

/// Where a message stands: its conversation and `seq`.
type Place = (ConversationId, i64);

/// What was said before each of some messages, and what their conversations are called.
#[derive(Debug, Default)]
struct Before {
    names: HashMap<ConversationId, Arc<str>>,
    lines: Vec<Vec<Arc<Line>>>,
}

/// Shows messages that were leased to this party. Where what was said before is not in memory and cannot be read now they
/// come without it: giving them back for that would cost an attempt.
pub(super) async fn shown(state: &AppState, reader: PartyId, leased: &[Leased], room: Room) -> Vec<Message> {
    let places: Vec<Place> = leased.iter().map(|one| (one.line.conversation_id, one.line.seq)).collect();
    let said: usize = leased.iter().map(|one| one.line.text.len()).sum();
    let before = match recent(state.directory.agents().recent(), reader, &places, room, said) {
        Some(known) => Ok(known),
        None => state.store.read(move |db| before(db, reader, &places, room, said)).await,
    };
    let Before { names, lines } = before.unwrap_or_else(|error| {
        log::warn!("messages are handed out without what was said before them: {}", error.cause());
        Before::default()
    });
    let mut lines = lines.into_iter();
    leased
        .iter()
        .map(|one| message(one, names.get(&one.line.conversation_id), lines.next().unwrap_or_default()))
        .collect()
}

/// Takes what was said before from memory, if all of it is there.
fn recent(recent: &Recent, reader: PartyId, places: &[Place], room: Room, said: usize) -> Option<Before> {
    let limit = if room.line_bytes == 0 { 0 } else { room.lines };
    let known: Option<Vec<_>> = places.iter().map(|(id, seq)| recent.before(*id, *seq, reader, limit)).collect();
    let (mut names, mut found) = (HashMap::new(), Vec::with_capacity(places.len()));
    for ((id, _), before) in places.iter().zip(known?) {
        names.insert(*id, before.topic.key.clone());
        found.push(before.lines);
    }
    Some(Before { names, lines: all_fitting(found, room, said) })
}

/// Reads what was said before.
fn before(db: &mut Db, reader: PartyId, places: &[Place], room: Room, said: usize) -> Result<Before, Error> {
    let mut found = windows(db, places, room, said)?;
    let mut hidden = mailbox::hidden_from(db, reader, found.values().flatten())?;
    if !hidden.is_empty() {
        // What is left out takes no place.
        let far = Room { lines: room.lines * FURTHER, line_bytes: room.line_bytes * FURTHER, ..room };
        found = windows(db, places, far, said)?;
        hidden = mailbox::hidden_from(db, reader, found.values().flatten())?;
    }
    for lines in found.values_mut() {
        lines.retain(|line| !hidden.contains(&line.id));
        lines.drain(..lines.len().saturating_sub(room.lines));
    }
    let found = places.iter().map(|place| found.get(place).cloned().unwrap_or_default()).collect();
    let ids: Vec<ConversationId> = places.iter().map(|(id, _)| *id).collect();
    let names = conversations::keys(db, &ids)?.into_iter().map(|(id, key)| (id, key.into())).collect();
    Ok(Before { names, lines: all_fitting(found, room, said) })
}

/// Keeps of what was said before each message the newest lines for which there is room, the first message first.
fn all_fitting(found: Vec<Vec<Arc<Line>>>, room: Room, said: usize) -> Vec<Vec<Arc<Line>>> {
    let mut bytes = room.bytes.saturating_sub(said);
    let fit = |lines| {
        let lines = fitting(lines, bytes.min(room.line_bytes));
        bytes -= lines.iter().map(|line| line.text.len()).sum::<usize>();
        lines
    };
    found.into_iter().map(fit).collect()
}

/// Reads the lines before each of these places. Places that are close to each other are read at once.
fn windows(db: &mut Db, places: &[Place], room: Room, said: usize) -> Result<HashMap<Place, Vec<Arc<Line>>>, Error> {
    let mut windows = HashMap::new();
    if room.lines == 0 || room.line_bytes == 0 {
        return Ok(windows);
    }
    let lines_max = room.lines as i64;
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    for close in sorted.chunk_by(|(a, seq), (b, next)| a == b && next - seq <= lines_max) {
        let Some(((id, first), (_, last))) = close.first().zip(close.last()) else { continue };
        let bytes_max = room.bytes.min(said + room.line_bytes * close.len());
        let page = messages::page(db, *id, messages::Span::Before(*last), last - first + lines_max, bytes_max)?;
        for place in close {
            let end = page.partition_point(|line| line.seq < place.1);
            let lines = page.iter().take(end).skip(end.saturating_sub(room.lines)).cloned().collect();
            windows.insert(*place, lines);
        }
    }
    Ok(windows)
}

/// Keeps the newest lines that fit; a page has at least one, whatever its length.
fn fitting(mut lines: Vec<Arc<Line>>, bytes_max: usize) -> Vec<Arc<Line>> {
    let mut bytes = 0;
    let kept = lines
        .iter()
        .rev()
        .take_while(|line| {
            bytes += line.text.len();
            bytes <= bytes_max
        })
        .count();
    lines.split_off(lines.len() - kept)
}

fn message(one: &Leased, conversation: Option<&Arc<str>>, history: Vec<Arc<Line>>) -> Message {
    let line = &one.line;
    let named = |kind: PartyKind| (line.sender_kind == kind).then(|| line.sender.name.clone());
    Message {
        id: line.id.to_string(),
        conversation_id: conversation.map(|key| key.to_string()),
        sender_agent_name: named(PartyKind::Agent),
        sender_user_name: named(PartyKind::User).or_else(|| named(PartyKind::Member)),
        sender_user_id: (line.sender_kind == PartyKind::User).then(|| line.sender.id.clone()),
        content: line.text.clone(),
        created_at: iso(line.created_at),
        history: history.iter().map(|line| HistoryLine::of(line)).collect(),
        delivery_attempt: one.attempt,
        lease_until: iso(one.lease_until),
        kind: line.kind.map(|kind| kind.as_str()),
        in_reply_to: line.in_reply_to.map(|id| id.to_string()),
        hops: line.hops,
    }
}

impl HistoryLine {
    fn of(line: &Line) -> Self {
        let role = match line.role {
            MessageRole::User => "user",
            MessageRole::Assistant => "assistant",
            MessageRole::Tool => "tool_call",
            MessageRole::System | MessageRole::Marker => "system",
        };
        let is_somebody = matches!(line.sender_kind, PartyKind::User | PartyKind::Member | PartyKind::Agent);
        Self {
            role,
            content: line.text.clone(),
            sender_name: is_somebody.then(|| line.sender.name.clone()),
            created_at: iso(line.created_at),
        }
    }
}

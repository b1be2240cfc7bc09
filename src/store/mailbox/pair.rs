//! What two agents, or an agent and a person, have written to each other of late, so that they do not go on for ever
//! (RTE-1).
//!
//! The writer reads it once for each ordered pair and keeps it from then on: requests that were accepted, requests that
//! were handed out to whoever writes, replies and notices that it got. After a restart it is read from the same rows.
use std::collections::{BTreeMap, HashMap};

use diesel::prelude::*;

use crate::domain::agent::AgentFacts;
use crate::domain::conversation::{ConversationKind, agent_member_key};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{AgentId, ConversationId, PartyId};
use crate::domain::loop_guard::{Highest, Window, hops, is_over};
use crate::domain::member::Member;
use crate::domain::message::MessageKind;
use crate::store::deliveries as moves;
use crate::store::dialect::Db;
use crate::store::schema::{deliveries, messages};
use crate::store::tx::Tx;

/// How long a reply or a notice leads to the next request (decision 5 of the mailbox contract).
const REPLIES_MS: i64 = 3_600_000;
/// How long to let a talk rest that does not end by time alone.
const UNKNOWN_WAIT_S: u32 = 3_600;
/// Lines of a conversation that are read at a time, and in all: what lies farther back does not count.
const LINES_AT_A_TIME: i64 = 500;
const LINES_MAX: usize = 5_000;
/// Pairs that are remembered; beyond it all are read anew.
const PAIRS_MAX: usize = 20_000;

/// What ends the talk of agents that answer each other without end. 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopGuards {
    /// Requests that may follow from each other.
    pub hops_max: i32,
    /// Requests of one agent to another in the window.
    pub pair_requests_max: usize,
    /// Milliseconds.
    pub pair_window_ms: i64,
}

/// What one agent has written to another, and what led to it.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Pair {
    /// Its requests that were accepted.
    requests: Window,
    /// How many of the other's requests are leased to it, by their hops.
    held: BTreeMap<i32, usize>,
    /// The hops of what came back: replies of the other, and notices that it did not handle a request.
    replies: Highest,
    /// What was there before it was remembered is in it.
    is_read: bool,
}

impl Pair {
    /// Reads what `from` has written to `to` of late, and what it holds of `to`.
    fn read(tx: &mut Tx<'_>, from: &AgentFacts, to: &AgentFacts, guards: LoopGuards) -> Result<Self, Error> {
        let now_ms = tx.now_ms();
        let mut pair = Self { is_read: true, ..Self::default() };
        if let Some(id) = tx.named(ConversationKind::Agents, &key(from.id, to.id))? {
            let since = now_ms.saturating_sub(REPLIES_MS.max(guards.pair_window_ms));
            // Requests of one, and what came back to it: nobody else asks or answers here.
            let lines = lines_since(tx.read()?, id, since)?;
            pair.note_requests(&lines, from.party_id, guards, now_ms);
            let came_back = |line: &&Brief| line.is(MessageKind::Reply) || line.is(MessageKind::Notice);
            for line in lines.iter().rev().filter(came_back) {
                pair.replies.note(line.created_at.min(now_ms), line.hops);
            }
        }
        if let Some(id) = tx.named(ConversationKind::Agents, &key(to.id, from.id))? {
            for hops in held(tx.read()?, id, from.party_id)? {
                *pair.held.entry(hops).or_default() += 1;
            }
        }
        Ok(pair)
    }

    /// Reads what `from` has written of late in the conversation of this key, in which an agent and a person talk.
    fn read_talk(tx: &mut Tx<'_>, key: &str, from: PartyId, guards: LoopGuards) -> Result<Self, Error> {
        let now_ms = tx.now_ms();
        let mut pair = Self { is_read: true, ..Self::default() };
        if let Some(id) = tx.named(ConversationKind::AgentMember, key)? {
            let lines = lines_since(tx.read()?, id, now_ms.saturating_sub(guards.pair_window_ms))?;
            pair.note_requests(&lines, from, guards, now_ms);
        }
        Ok(pair)
    }

    /// Notes the newest requests of `from` among these lines, which are the newest first.
    fn note_requests(&mut self, lines: &[Brief], from: PartyId, guards: LoopGuards, now_ms: i64) {
        let is_its =
            |line: &&Brief| line.is(MessageKind::Request) && line.sender_id.as_slice() == from.as_bytes().as_slice();
        let requests = || lines.iter().rev().filter(is_its);
        let newest = requests().count().saturating_sub(guards.pair_requests_max);
        for line in requests().skip(newest) {
            self.requests.note(line.created_at.min(now_ms));
        }
    }

    fn note_held(&mut self, hops: i32, is_held: bool) {
        let held = self.held.entry(hops).or_default();
        if is_held {
            *held += 1;
        } else if *held > 1 {
            *held -= 1;
        } else {
            self.held.remove(&hops);
        }
    }
}

/// The pairs that the writer remembers, by who writes and to whom.
#[derive(Default)]
pub(in crate::store) struct Pairs {
    by_sender: HashMap<PartyId, HashMap<PartyId, Pair>>,
    count: usize,
}

impl Pairs {
    fn get_mut(&mut self, from: PartyId, to: PartyId) -> Option<&mut Pair> {
        self.by_sender.get_mut(&from)?.get_mut(&to)
    }

    fn add(&mut self, from: PartyId, to: PartyId, pair: Pair) {
        if self.count >= PAIRS_MAX {
            *self = Self::default();
        }
        if self.by_sender.entry(from).or_default().insert(to, pair).is_none() {
            self.count += 1;
        }
    }

    /// Notes that a request of `asker` is leased to `holder` now, or not any more.
    pub(in crate::store) fn note_held(&mut self, holder: PartyId, asker: PartyId, hops: i32, is_held: bool) {
        if let Some(pair) = self.get_mut(holder, asker) {
            pair.note_held(hops, is_held);
        }
    }

    /// Forgets all that is known of what a party writes.
    pub(in crate::store) fn forget(&mut self, from: PartyId) {
        if let Some(gone) = self.by_sender.remove(&from) {
            self.count -= gone.len();
        }
    }
}

/// Returns the key of the conversation in which one agent asks another. Each asking direction has its own (decision 6
/// of the mailbox contract).
pub(super) fn key(from: AgentId, to: AgentId) -> String {
    format!("gw_agent_{from}_{to}")
}

/// Counts the hops of a request, and refuses one that is one too many. `in_reply_to`: the hops of the message that the
/// sender says led to it. Nothing is noted.
pub(super) fn admit(
    tx: &mut Tx<'_>,
    from: &AgentFacts,
    to: &AgentFacts,
    in_reply_to: Option<i32>,
    guards: LoopGuards,
) -> Result<i32, Error> {
    let now_ms = tx.now_ms();
    let pair = known(tx, (from.party_id, to.party_id), guards, |tx| Pair::read(tx, from, to, guards))?;
    let held = pair.held.last_key_value().map(|(hops, _)| *hops);
    let hops = hops(in_reply_to, held, pair.replies.of_late(now_ms, REPLIES_MS));
    if is_over(hops, guards.hops_max) {
        // What came back passes with time; what the sender names or holds does not, and nobody knows how long that is.
        let is_passing = in_reply_to.is_none() && held.is_none_or(|held| held < guards.hops_max);
        let wait_s =
            if is_passing { pair.replies.lower_in_s(guards.hops_max, now_ms, REPLIES_MS) } else { UNKNOWN_WAIT_S };
        return Err(too_far(hops, &to.name, guards.hops_max, wait_s));
    }
    let LoopGuards { pair_requests_max: max, pair_window_ms: window_ms, .. } = guards;
    pair.requests.check(now_ms, max, window_ms).map_err(|wait_s| too_fast(wait_s, &to.name, guards))?;
    Ok(hops)
}

/// The same for what an agent writes to a person. What a person writes begins anew, so only `in_reply_to` leads to it.
pub(in crate::store) fn admit_to_member(
    tx: &mut Tx<'_>,
    from: &AgentFacts,
    to: &Member,
    in_reply_to: Option<i32>,
    guards: LoopGuards,
) -> Result<i32, Error> {
    let hops = hops(in_reply_to, None, None);
    if is_over(hops, guards.hops_max) {
        return Err(too_far(hops, &to.name, guards.hops_max, UNKNOWN_WAIT_S));
    }
    let key = agent_member_key(from.id, to.id);
    match check_talk(tx, &key, (from.party_id, to.party_id), guards)? {
        Ok(()) => Ok(hops),
        Err(wait_s) => Err(too_fast(wait_s, &to.name, guards)),
    }
}

/// Tells whether a person may write to an agent now, or has written too much of late: it may be a machine that answers by
/// itself. Nothing is noted.
pub(in crate::store) fn admits_member(
    tx: &mut Tx<'_>,
    from: &Member,
    to: &AgentFacts,
    guards: LoopGuards,
) -> Result<bool, Error> {
    let key = agent_member_key(to.id, from.id);
    Ok(check_talk(tx, &key, (from.party_id, to.party_id), guards)?.is_ok())
}

/// Checks the rate of one of the two in the conversation of this key; the inner error says how many seconds to wait.
fn check_talk(
    tx: &mut Tx<'_>,
    key: &str,
    (from, to): (PartyId, PartyId),
    guards: LoopGuards,
) -> Result<Result<(), u32>, Error> {
    let now_ms = tx.now_ms();
    let talk = known(tx, (from, to), guards, |tx| Pair::read_talk(tx, key, from, guards))?;
    Ok(talk.requests.check(now_ms, guards.pair_requests_max, guards.pair_window_ms))
}

/// Notes a request that was accepted.
pub(in crate::store) fn note_request(tx: &mut Tx<'_>, from: PartyId, to: PartyId, guards: LoopGuards) {
    let now_ms = tx.now_ms();
    if guards.pair_requests_max > 0
        && let Some(pair) = tx.pairs().get_mut(from, to)
    {
        pair.requests.note(now_ms);
    }
}

/// Notes the hops of what `asker` gets back for a request to `asked`: its reply, or a notice that it did not handle it.
pub(super) fn note_came_back(tx: &mut Tx<'_>, asker: PartyId, asked: PartyId, hops: i32) {
    let now_ms = tx.now_ms();
    if let Some(pair) = tx.pairs().get_mut(asker, asked) {
        pair.replies.note(now_ms, hops);
    }
}

/// Returns what is known of a pair, read if nothing is. Where nothing is bounded it is counted from here on only.
fn known<'t>(
    tx: &'t mut Tx<'_>,
    (from, to): (PartyId, PartyId),
    guards: LoopGuards,
    read: impl FnOnce(&mut Tx<'_>) -> Result<Pair, Error>,
) -> Result<&'t mut Pair, Error> {
    let is_bounded = guards.hops_max > 0 || guards.pair_requests_max > 0;
    let is_enough = tx.pairs().get_mut(from, to).map(|pair| pair.is_read || !is_bounded);
    if is_enough != Some(true) {
        let pair = if is_bounded { read(tx)? } else { Pair::default() };
        tx.pairs().add(from, to, pair);
    }
    let known = tx.pairs().get_mut(from, to);
    known.ok_or_else(|| Error::internal("a pair was forgotten as it was read"))
}

fn too_far(hops: i32, to: &str, hops_max: i32, wait_s: u32) -> Error {
    let message = format!(
        "this would be request {hops} in a row between you and {to}, and {hops_max} are allowed; it counts from the \
         message that `in_reply_to` names, or else from the requests that you hold of {to} and what came back from it \
         in the last hour"
    );
    Error::new(ErrorCode::HopLimit, message).with_retry_after_s(wait_s)
}

fn too_fast(wait_s: u32, to: &str, guards: LoopGuards) -> Error {
    let (max, window_s) = (guards.pair_requests_max, guards.pair_window_ms / 1_000);
    Error::new(
        ErrorCode::PairRateLimited,
        format!("you have sent {max} requests to {to} in {window_s} seconds, which is all that is allowed"),
    )
    .with_retry_after_s(wait_s)
}

/// What is read of a line.
#[derive(Queryable)]
struct Brief {
    seq: i64,
    kind: Option<i32>,
    sender_id: Vec<u8>,
    hops: i32,
    created_at: i64,
}

impl Brief {
    fn is(&self, kind: MessageKind) -> bool {
        self.kind == Some(kind as i32)
    }
}

/// Reads the lines of a conversation that came after a time, newest first.
fn lines_since(db: &mut Db, id: ConversationId, since_ms: i64) -> Result<Vec<Brief>, Error> {
    let mut lines: Vec<Brief> = Vec::new();
    let mut before = i64::MAX;
    while lines.len() < LINES_MAX {
        let page: Vec<Brief> = messages::table
            .filter(messages::conversation_id.eq(id.as_bytes().as_slice()).and(messages::seq.lt(before)))
            .order(messages::seq.desc())
            .limit(LINES_AT_A_TIME)
            .select((messages::seq, messages::kind, messages::sender_id, messages::hops, messages::created_at))
            .load(db)?;
        let Some(oldest) = page.last() else { break };
        before = oldest.seq;
        let is_old = oldest.created_at <= since_ms;
        lines.extend(page.into_iter().filter(|line| line.created_at > since_ms));
        if is_old {
            break;
        }
    }
    Ok(lines)
}

/// Reads the hops of the requests of a conversation that are leased to this recipient.
fn held(db: &mut Db, id: ConversationId, recipient: PartyId) -> Result<Vec<i32>, Error> {
    let is_it = deliveries::conversation_id
        .eq(id.as_bytes().as_slice())
        .and(moves::open())
        .and(deliveries::state.eq(DeliveryState::Leased as i32))
        .and(deliveries::recipient_id.eq(recipient.as_bytes().as_slice()))
        .and(messages::kind.eq(MessageKind::Request as i32));
    let hops: Vec<i32> = deliveries::table
        .inner_join(messages::table.on(messages::id.eq(deliveries::message_id)))
        .filter(is_it)
        .select(messages::hops)
        .load(db)?;
    Ok(hops)
}

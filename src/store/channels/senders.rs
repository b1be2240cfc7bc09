//! Who has written on a channel. Whoever is not known is refused until an operator has said which person it is.
use diesel::prelude::*;
use serde_json::json;

use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, MemberId};
use crate::domain::member::Member;
use crate::store::audit::{self, Actor};
use crate::store::dialect::Db;
use crate::store::schema::channel_senders;
use crate::store::tx::{Command, Tx};
use crate::store::{channels, members};

use super::readable;

/// Somebody who has written on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Who it is, in the provider's words.
    pub sender_ref: String,
    pub name: Option<String>,
    /// The person it is; `None` as long as nobody has let it in.
    pub member_id: Option<MemberId>,
    pub first_seen_at: i64,
    pub last_seen_at: i64,
    pub allowed_at: Option<i64>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = channel_senders)]
struct Row {
    sender_ref: String,
    name: Option<String>,
    member_id: Option<Vec<u8>>,
    first_seen_at: i64,
    last_seen_at: i64,
    allowed_at: Option<i64>,
}

impl TryFrom<Row> for Sender {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            sender_ref: row.sender_ref,
            name: row.name,
            member_id: row.member_id.map(|id| MemberId::try_from(id.as_slice())).transpose()?,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
            allowed_at: row.allowed_at,
        })
    }
}

/// Lists at most `limit` senders of a channel by their refs, those after `after`.
pub fn page(db: &mut Db, channel: ChannelId, after: Option<&str>, limit: i64) -> Result<Vec<Sender>, Error> {
    let mut query = channel_senders::table
        .filter(channel_senders::channel_id.eq(channel.as_bytes().to_vec()))
        .order(channel_senders::sender_ref.asc())
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(channel_senders::sender_ref.gt(after.to_owned()));
    }
    query.load::<Row>(db)?.into_iter().map(Sender::try_from).collect()
}

/// Counts the senders of a channel.
pub fn count(db: &mut Db, channel: ChannelId) -> Result<i64, Error> {
    let its = channel_senders::table.filter(channel_senders::channel_id.eq(channel.as_bytes().as_slice()));
    Ok(its.count().get_result(db)?)
}

/// Reads one sender of a channel.
pub fn get(db: &mut Db, channel: ChannelId, sender_ref: &str) -> Result<Option<Sender>, Error> {
    channel_senders::table
        .find((channel.as_bytes().as_slice(), sender_ref))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Sender::try_from)
        .transpose()
}

/// Finds which person writes, by the first of these refs that was let in.
pub(super) fn member(tx: &mut Tx<'_>, channel: ChannelId, refs: &[&str]) -> Result<Option<Member>, Error> {
    for sender_ref in refs {
        let known = readable(get(tx.read()?, channel, sender_ref), "a sender")?;
        let allowed = known.filter(|sender| sender.allowed_at.is_some());
        if let Some(id) = allowed.and_then(|sender| sender.member_id)
            && let Some(member) = readable(members::get(tx.read()?, id), "a member")?
        {
            return Ok(Some(member));
        }
    }
    Ok(None)
}

/// Notes that somebody has written, so that an operator can say who it is. Of those whom nobody has let in `senders_max` are
/// noted: who has not written for longest goes, so that strangers keep nobody out.
pub(super) fn note(
    tx: &mut Tx<'_>,
    channel: ChannelId,
    sender_ref: &str,
    name: Option<&str>,
    senders_max: usize,
) -> Result<(), Error> {
    let now_ms = tx.now_ms();
    if get(tx.read()?, channel, sender_ref)?.is_some() {
        diesel::update(channel_senders::table.find((channel.as_bytes().as_slice(), sender_ref)))
            .set((channel_senders::last_seen_at.eq(now_ms), channel_senders::name.eq(name)))
            .execute(tx.write()?)?;
        return Ok(());
    }
    let unknown = || {
        let of_channel = channel_senders::channel_id.eq(channel.as_bytes().as_slice());
        channel_senders::table.filter(of_channel.and(channel_senders::allowed_at.is_null()))
    };
    let known: i64 = unknown().count().get_result(tx.read()?)?;
    if usize::try_from(known).unwrap_or(usize::MAX) >= senders_max {
        let oldest: Option<String> = unknown()
            .order((channel_senders::last_seen_at.asc(), channel_senders::sender_ref.asc()))
            .select(channel_senders::sender_ref)
            .first(tx.read()?)
            .optional()?;
        let Some(oldest) = oldest.filter(|_| senders_max > 0) else { return Ok(()) };
        diesel::delete(channel_senders::table.find((channel.as_bytes().as_slice(), oldest.as_str())))
            .execute(tx.write()?)?;
    }
    diesel::insert_into(channel_senders::table)
        .values((
            channel_senders::channel_id.eq(channel.as_bytes().as_slice()),
            channel_senders::sender_ref.eq(sender_ref),
            channel_senders::name.eq(name),
            channel_senders::first_seen_at.eq(now_ms),
            channel_senders::last_seen_at.eq(now_ms),
        ))
        .execute(tx.write()?)?;
    Ok(())
}

/// Lets somebody who has written in, as this person.
pub struct AllowSender {
    pub channel_id: ChannelId,
    pub sender_ref: String,
    pub member_id: MemberId,
    pub actor: Actor,
}

impl Command for AllowSender {
    type Output = Sender;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Sender, Error> {
        let unknown = || Error::not_found("sender", &self.sender_ref);
        channels::get(tx.read()?, self.channel_id)?.ok_or_else(|| Error::not_found("channel", self.channel_id))?;
        let before = get(tx.read()?, self.channel_id, &self.sender_ref)?.ok_or_else(unknown)?;
        if members::get(tx.read()?, self.member_id)?.is_none() {
            return Err(Error::invalid("member_id", "there is no such member"));
        }
        let now_ms = tx.now_ms();
        let row = channel_senders::table.find((self.channel_id.as_bytes().as_slice(), self.sender_ref.as_str()));
        diesel::update(row)
            .set((
                channel_senders::member_id.eq(Some(self.member_id.as_bytes().as_slice())),
                channel_senders::allowed_at.eq(Some(now_ms)),
            ))
            .execute(tx.write()?)?;
        let id = self.channel_id.to_string();
        let shown = |member: Option<MemberId>| json!({ "sender": self.sender_ref, "member_id": member });
        let (was, is) = (shown(before.member_id), shown(Some(self.member_id)));
        audit::record(tx, &self.actor, "channel.allow", ("channel", &id), Some(&was), Some(&is))?;
        Ok(Sender { member_id: Some(self.member_id), allowed_at: Some(now_ms), ..before })
    }
}

/// Forgets a sender, and with it that somebody let it in: what it writes is refused from now on, unless it writes from the
/// very address of a person.
pub struct ForgetSender {
    pub channel_id: ChannelId,
    pub sender_ref: String,
    pub actor: Actor,
}

impl Command for ForgetSender {
    /// Whether there was one.
    type Output = bool;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        channels::get(tx.read()?, self.channel_id)?.ok_or_else(|| Error::not_found("channel", self.channel_id))?;
        let Some(before) = get(tx.read()?, self.channel_id, &self.sender_ref)? else { return Ok(false) };
        let row = channel_senders::table.find((self.channel_id.as_bytes().as_slice(), self.sender_ref.as_str()));
        diesel::delete(row).execute(tx.write()?)?;
        let id = self.channel_id.to_string();
        let was = json!({ "sender": self.sender_ref, "member_id": before.member_id });
        audit::record(tx, &self.actor, "channel.forget", ("channel", &id), Some(&was), None)?;
        Ok(true)
    }
}

//! Channels to people and their sealed secrets. What was said on them is in `channel_refs.rs`.
mod heard;
mod member;
mod outbox;
mod senders;
mod undelivered;

use std::collections::BTreeMap;

use diesel::prelude::*;
use serde_json::json;
use zeroize::Zeroizing;

use super::audit::{self, Actor};
use super::deliveries;
use super::dialect::Db;
use super::messages::Idem;
use super::parties;
use super::schema::channels;
use super::tx::{Command, Tx};
use super::vault::Vault;
use crate::domain::channel::{Channel, ChannelKind};
use crate::domain::delivery::{DeliveryState, Move, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, ChannelId, PartyId};
use crate::domain::party::PartyKind;
use crate::domain::secret::Secret;

pub use self::heard::{Hear, HeardAs};
pub(super) use self::member::answer_to_member;
pub use self::member::{ATTEMPTS_MAX, SendToMember, ToMember, sent_to_member, unreachable};
pub use self::outbox::{
    Arrived, EndSend, LeaseSend, Letter, RecoverSends, RetrySend, SendEnd, letter, open_of_channel,
};
pub use self::senders::{AllowSender, ForgetSender, Sender, count as count_senders, get as sender, page as senders};
pub use self::undelivered::{NoteUndelivered, UndeliveredAs};

/// The secrets of a channel by name. They cannot be printed or sent.
pub type Secrets = BTreeMap<String, Secret>;

#[derive(Queryable, Selectable)]
#[diesel(table_name = channels)]
struct Row {
    id: Vec<u8>,
    party_id: Vec<u8>,
    kind: i32,
    name: String,
    agent_id: Option<Vec<u8>>,
    config: String,
    base_url: Option<String>,
    enabled: bool,
    created_at: i64,
    updated_at: i64,
    secret_names: String,
}

impl TryFrom<Row> for Channel {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: ChannelId::try_from(row.id.as_slice())?,
            party_id: PartyId::try_from(row.party_id.as_slice())?,
            kind: ChannelKind::from_code(row.kind).ok_or_else(|| Error::corrupt("a channel of an unknown kind"))?,
            name: row.name,
            agent_id: row.agent_id.map(|id| AgentId::try_from(id.as_slice())).transpose()?,
            config: serde_json::from_str(&row.config).map_err(|_| Error::corrupt("the settings of a channel"))?,
            secrets: row.secret_names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            base_url: row.base_url,
            enabled: row.enabled,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Goes on without a row that cannot be read, and says so: it must not stop what can do without it (STO-3).
fn readable<T>(found: Result<Option<T>, Error>, what: &str) -> Result<Option<T>, Error> {
    match found {
        Err(error) if error.is_unreadable() => {
            log::error!("{what} cannot be read and is left out: {}", error.cause());
            Ok(None)
        }
        found => found,
    }
}

/// Lists the channels, oldest first. One that cannot be read is left out, and said in the log: the others work (STO-3).
pub fn list(db: &mut Db) -> Result<Vec<Channel>, Error> {
    let rows: Vec<Row> = channels::table
        .filter(channels::deleted_at.is_null())
        .order(channels::id.asc())
        .select(Row::as_select())
        .load(db)?;
    let stored = |row: Row| {
        let id = ChannelId::try_from(row.id.as_slice());
        Channel::try_from(row).inspect_err(|error| match id {
            Ok(id) => log::error!("channel `{id}` cannot be read and is left out: {}", error.cause()),
            Err(_) => log::error!("a channel cannot be read and is left out: {}", error.cause()),
        })
    };
    Ok(rows.into_iter().filter_map(|row| stored(row).ok()).collect())
}

/// Reads one channel.
pub fn get(db: &mut Db, id: ChannelId) -> Result<Option<Channel>, Error> {
    channels::table
        .filter(channels::id.eq(id.as_bytes().as_slice()).and(channels::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Channel::try_from)
        .transpose()
}

/// Reads the kind of a channel, also of a removed one.
pub fn kind_of(db: &mut Db, id: ChannelId) -> Result<Option<ChannelKind>, Error> {
    let code: Option<i32> =
        channels::table.find(id.as_bytes().as_slice()).select(channels::kind).first(db).optional()?;
    code.map(|code| ChannelKind::from_code(code).ok_or_else(|| Error::corrupt("a channel of an unknown kind")))
        .transpose()
}

/// Counts the channels that have something sealed.
pub fn count_sealed(db: &mut Db) -> Result<i64, Error> {
    let sealed = channels::deleted_at.is_null().and(channels::secret.is_not_null());
    Ok(channels::table.filter(sealed).count().get_result(db)?)
}

/// Opens the secrets of a channel.
pub fn secrets(db: &mut Db, vault: &Vault, id: ChannelId) -> Result<Secrets, Error> {
    let sealed: Option<Option<Vec<u8>>> =
        channels::table.find(id.as_bytes().as_slice()).select(channels::secret).first(db).optional()?;
    match sealed.flatten() {
        None => Ok(Secrets::new()),
        Some(sealed) => {
            let text = vault.unseal_text(&place(id), &sealed)?;
            // What cannot be read is not repeated.
            serde_json::from_str(text.reveal()).map_err(|_| Error::corrupt("the secrets of a channel"))
        }
    }
}

fn seal(vault: &Vault, id: ChannelId, secrets: &Secrets) -> Result<Option<Vec<u8>>, Error> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let plain: BTreeMap<&str, &str> = secrets.iter().map(|(name, secret)| (name.as_str(), secret.reveal())).collect();
    let text = Zeroizing::new(serde_json::to_vec(&plain).map_err(Error::internal)?);
    vault.seal(&place(id), &text).map(Some)
}

fn place(id: ChannelId) -> String {
    format!("channel:{id}")
}

fn names(secrets: &Secrets) -> String {
    secrets.keys().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Sets up a channel.
pub struct AddChannel {
    pub kind: ChannelKind,
    pub name: String,
    pub agent_id: Option<AgentId>,
    pub config: serde_json::Map<String, serde_json::Value>,
    pub secrets: Secrets,
    pub base_url: Option<String>,
    pub enabled: bool,
    pub actor: Actor,
    pub vault: Vault,
    pub idem: Option<Idem>,
    /// Channels that are allowed.
    pub channels_max: usize,
}

impl Command for AddChannel {
    type Output = Channel;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Channel, Error> {
        if let Some(repeated) = self.repeated(tx)? {
            return Ok(repeated);
        }
        self.check_room(tx)?;
        if let Some(agent) = self.agent_id
            && tx.agent(agent)?.is_none()
        {
            return Err(Error::invalid("agent_id", "there is no such agent"));
        }
        let id = ChannelId::new();
        let sealed = seal(&self.vault, id, &self.secrets)?;
        let config = serde_json::to_string(&self.config).map_err(Error::internal)?;
        let party = parties::ensure(tx, PartyKind::Channel, &id.to_string(), &self.name)?;
        let now_ms = tx.now_ms();
        diesel::insert_into(channels::table)
            .values((
                channels::id.eq(id.as_bytes().as_slice()),
                channels::party_id.eq(party.id.as_bytes().as_slice()),
                channels::kind.eq(self.kind as i32),
                channels::name.eq(&self.name),
                channels::agent_id.eq(self.agent_id.as_ref().map(|id| id.as_bytes().as_slice())),
                channels::config.eq(config),
                channels::secret.eq(sealed),
                channels::secret_names.eq(names(&self.secrets)),
                channels::base_url.eq(&self.base_url),
                channels::enabled.eq(self.enabled),
                channels::created_at.eq(now_ms),
                channels::updated_at.eq(now_ms),
                channels::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                channels::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let channel = get(tx.read()?, id)?.ok_or_else(|| Error::not_found("channel", id))?;
        audit::record(tx, &self.actor, "channel.add", ("channel", &id.to_string()), None, Some(&shown(&channel)))?;
        tx.emit(Event::ChannelChanged { channel_id: id });
        Ok(channel)
    }
}

impl AddChannel {
    fn check_room(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known: i64 = channels::table.filter(channels::deleted_at.is_null()).count().get_result(tx.read()?)?;
        if usize::try_from(known).unwrap_or(usize::MAX) < self.channels_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("there are {known} channels, which is all that `channels.channels_max` allows"),
        )
        .with_status(409))
    }

    /// Finds the channel that this key has made before.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Channel>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let known = channels::table
            .filter(channels::idem_key.eq(&idem.key).and(channels::deleted_at.is_null()))
            .select((Row::as_select(), channels::idem_hash))
            .first(tx.read()?)
            .optional()?;
        idem.same(known, "channel")?.map(Channel::try_from).transpose()
    }
}

/// A channel as the audit log shows it: of secrets only which are set (SEC-1).
fn shown(channel: &Channel) -> serde_json::Value {
    json!({
        "kind": channel.kind, "name": channel.name, "agent_id": channel.agent_id, "config": channel.config,
        "secrets": channel.secrets, "base_url": channel.base_url, "enabled": channel.enabled,
    })
}

/// What changes of a channel; `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub agent_id: Option<Option<AgentId>>,
    /// All of it.
    pub config: Option<serde_json::Map<String, serde_json::Value>>,
    /// Those that change; `None` removes one.
    pub secrets: BTreeMap<String, Option<Secret>>,
    pub base_url: Option<Option<String>>,
    pub enabled: Option<bool>,
}

/// Changes a channel and has its outbox start again.
pub struct ChangeChannel {
    pub id: ChannelId,
    pub changes: Changes,
    pub actor: Actor,
    pub vault: Vault,
}

impl Command for ChangeChannel {
    type Output = Channel;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Channel, Error> {
        let before = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("channel", self.id))?;
        self.check_bot(tx, &before)?;
        let changes = self.changes.clone();
        let wanted = Channel {
            name: changes.name.unwrap_or_else(|| before.name.clone()),
            agent_id: changes.agent_id.unwrap_or(before.agent_id),
            config: changes.config.unwrap_or_else(|| before.config.clone()),
            base_url: changes.base_url.unwrap_or_else(|| before.base_url.clone()),
            enabled: changes.enabled.unwrap_or(before.enabled),
            ..before.clone()
        };
        // A secret that is given counts even if it is the same: nobody looks.
        let is_other = |(name, secret): (&String, &Option<Secret>)| secret.is_some() || before.secrets.contains(name);
        if wanted == before && !changes.secrets.iter().any(is_other) {
            return Ok(before);
        }
        let config = serde_json::to_string(&wanted.config).map_err(Error::internal)?;
        let secrets = if changes.secrets.is_empty() {
            None
        } else {
            let is_kept = before.secrets.iter().any(|name| !changes.secrets.contains_key(name));
            // What is replaced need not be opened: the key that sealed it may be lost.
            let mut secrets = if is_kept { secrets(tx.read()?, &self.vault, self.id)? } else { BTreeMap::new() };
            for (name, secret) in changes.secrets {
                match secret {
                    Some(secret) => drop(secrets.insert(name, secret)),
                    None => drop(secrets.remove(&name)),
                }
            }
            Some((seal(&self.vault, self.id, &secrets)?, names(&secrets)))
        };
        parties::ensure(tx, PartyKind::Channel, &self.id.to_string(), &wanted.name)?;
        let row = channels::table.find(self.id.as_bytes().as_slice());
        let now_ms = tx.now_ms();
        diesel::update(row)
            .set((
                channels::name.eq(&wanted.name),
                channels::agent_id.eq(wanted.agent_id.as_ref().map(|id| id.as_bytes().as_slice())),
                channels::config.eq(config),
                channels::base_url.eq(&wanted.base_url),
                channels::enabled.eq(wanted.enabled),
                channels::updated_at.eq(now_ms),
            ))
            .execute(tx.write()?)?;
        if let Some((sealed, names)) = secrets {
            diesel::update(row)
                .set((channels::secret.eq(sealed), channels::secret_names.eq(names)))
                .execute(tx.write()?)?;
        }
        let after = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("channel", self.id))?;
        let id = self.id.to_string();
        let target = ("channel", id.as_str());
        audit::record(tx, &self.actor, "channel.change", target, Some(&shown(&before)), Some(&shown(&after)))?;
        tx.emit(Event::ChannelChanged { channel_id: self.id });
        Ok(after)
    }
}

impl ChangeChannel {
    /// Refuses another bot of Telegram: each counts the messages of a chat by itself, so that its lines would be taken for
    /// those that the one before has heard. Where the key of the one before is lost, nobody can tell.
    fn check_bot(&self, tx: &mut Tx<'_>, before: &Channel) -> Result<(), Error> {
        const TOKEN: &str = "bot_token";
        let Some(Some(new)) = self.changes.secrets.get(TOKEN) else { return Ok(()) };
        if before.kind != ChannelKind::Telegram {
            return Ok(());
        }
        let known = match secrets(tx.read()?, &self.vault, self.id) {
            Err(error) if error.is_unreadable() => return Ok(()),
            known => known?,
        };
        match known.get(TOKEN).and_then(bot) {
            Some(id) if bot(new) != Some(id) => {
                Err(Error::invalid("secret", "this is another bot: set up another channel for it"))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the number of a bot of Telegram, with which its token begins.
fn bot(token: &Secret) -> Option<&str> {
    token.reveal().split_once(':').map(|(id, _)| id)
}

/// Takes its channels from an agent that is removed: they are nobody's, and speak for it no more.
pub(super) fn disown(tx: &mut Tx<'_>, agent: AgentId) -> Result<(), Error> {
    let now_ms = tx.now_ms();
    let is_its = || channels::agent_id.eq(agent.as_bytes().as_slice()).and(channels::deleted_at.is_null());
    let ids: Vec<Vec<u8>> = channels::table.filter(is_its()).select(channels::id).load(tx.read()?)?;
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<ChannelId> = ids.iter().map(|id| ChannelId::try_from(id.as_slice())).collect::<Result<_, _>>()?;
    diesel::update(channels::table)
        .filter(is_its())
        .set((channels::agent_id.eq(None::<Vec<u8>>), channels::updated_at.eq(now_ms)))
        .execute(tx.write()?)?;
    for channel_id in ids {
        tx.emit(Event::ChannelChanged { channel_id });
    }
    Ok(())
}

/// Removes a channel and its secrets; what was said on it stays, and what still waits for it ends.
pub struct RemoveChannel {
    pub id: ChannelId,
    pub actor: Actor,
}

impl Command for RemoveChannel {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let channel = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("channel", self.id))?;
        let now_ms = tx.now_ms();
        diesel::update(channels::table.find(self.id.as_bytes().as_slice()))
            .set((
                channels::deleted_at.eq(Some(now_ms)),
                channels::secret.eq(None::<Vec<u8>>),
                channels::secret_names.eq(""),
            ))
            .execute(tx.write()?)?;
        // Nobody brings it any more (DLV-2). There are no more of them than `channels.queue_max` allows.
        let (waiting, _) = deliveries::open_by_channel(tx.read()?, self.id, 0, i64::MAX)?;
        for stored in waiting {
            // What cannot be read is left as it is: the channel goes all the same (STO-3).
            if deliveries::surroundings(tx, &stored.delivery)?.is_none() {
                continue;
            }
            let id = stored.delivery.id;
            // What is leased is at the provider, or has been.
            let is_out = stored.delivery.state == DeliveryState::Leased || stored.may_have_arrived();
            let reason = if is_out { reason::OUTCOME_UNKNOWN } else { reason::CHANNEL_REMOVED };
            let action = Move::Fail { attempt: None, reason: reason.to_owned() };
            match deliveries::apply_to(tx, stored, &action, true) {
                Err(error) if error.is_unreadable() => {
                    log::error!("delivery `{id}` of a removed channel cannot be ended: {}", error.cause());
                }
                done => drop(done?),
            }
        }
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "channel.remove", ("channel", &target), Some(&shown(&channel)), None)?;
        tx.emit(Event::ChannelChanged { channel_id: self.id });
        Ok(())
    }
}

//! Members: people who are reached on channels. What agents know of them is in `relationships.rs`.
use diesel::prelude::*;
use serde_json::json;

use super::audit::{self, Actor};
use super::dialect::Db;
use super::messages::Idem;
use super::schema::members;
use super::tx::{Command, Tx};
use super::{parties, relationships};
use crate::domain::agent::fold;
use crate::domain::error::Error;
use crate::domain::ids::{MemberId, PartyId, UserId};
use crate::domain::member::{Addresses, Member, WebhookUrl};
use crate::domain::party::PartyKind;

#[derive(Queryable, Selectable)]
#[diesel(table_name = members)]
pub(super) struct Row {
    id: Vec<u8>,
    party_id: Vec<u8>,
    name: String,
    user_id: Option<Vec<u8>>,
    addresses: String,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<Row> for Member {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: MemberId::try_from(row.id.as_slice())?,
            party_id: PartyId::try_from(row.party_id.as_slice())?,
            name: row.name,
            user_id: row.user_id.map(|id| UserId::try_from(id.as_slice())).transpose()?,
            // What cannot be read is not repeated: it may hold a secret.
            addresses: serde_json::from_str(&row.addresses).map_err(|_| Error::corrupt("the addresses of a member"))?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Lists at most `limit` members by name, in any case, after the one of this folded name and id.
pub fn page(db: &mut Db, after: Option<&(String, MemberId)>, limit: i64) -> Result<Vec<Member>, Error> {
    let mut query = members::table
        .filter(members::deleted_at.is_null())
        .order((members::name_folded.asc(), members::id.asc()))
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some((name, id)) = after {
        let further = members::name_folded.gt(name).or(members::id.gt(id.as_bytes().to_vec()));
        query = query.filter(members::name_folded.ge(name).and(further));
    }
    query.load::<Row>(db)?.into_iter().map(Member::try_from).collect()
}

/// Counts the members.
pub fn count(db: &mut Db) -> Result<i64, Error> {
    Ok(members::table.filter(members::deleted_at.is_null()).count().get_result(db)?)
}

/// Reads one member.
pub fn get(db: &mut Db, id: MemberId) -> Result<Option<Member>, Error> {
    members::table
        .filter(members::id.eq(id.as_bytes().as_slice()).and(members::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Member::try_from)
        .transpose()
}

/// Makes a member.
pub struct AddMember {
    pub name: String,
    pub user_id: Option<UserId>,
    pub addresses: Addresses,
    pub actor: Actor,
    pub idem: Option<Idem>,
}

impl Command for AddMember {
    type Output = Member;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Member, Error> {
        if let Some(repeated) = repeated(tx, self.idem.as_ref())? {
            return Ok(repeated);
        }
        let addresses = text(&self.addresses)?;
        let id = MemberId::new();
        let party = parties::ensure(tx, PartyKind::Member, &id.to_string(), &self.name)?;
        let now_ms = tx.now_ms();
        diesel::insert_into(members::table)
            .values((
                members::id.eq(id.as_bytes().as_slice()),
                members::party_id.eq(party.id.as_bytes().as_slice()),
                members::name.eq(&self.name),
                members::name_folded.eq(fold(&self.name)),
                members::user_id.eq(self.user_id.as_ref().map(|id| id.as_bytes().as_slice())),
                members::addresses.eq(addresses),
                members::created_at.eq(now_ms),
                members::updated_at.eq(now_ms),
                members::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                members::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let member = get(tx.read()?, id)?.ok_or_else(|| Error::not_found("member", id))?;
        audit::record(tx, &self.actor, "member.add", ("member", &id.to_string()), None, Some(&shown(&member)))?;
        Ok(member)
    }
}

fn text(addresses: &Addresses) -> Result<String, Error> {
    serde_json::to_string(addresses).map_err(Error::internal)
}

/// Finds the member that this key has made before.
fn repeated(tx: &mut Tx<'_>, idem: Option<&Idem>) -> Result<Option<Member>, Error> {
    let Some(idem) = idem else { return Ok(None) };
    let known = members::table
        .filter(members::idem_key.eq(&idem.key).and(members::deleted_at.is_null()))
        .select((Row::as_select(), members::idem_hash))
        .first(tx.read()?)
        .optional()?;
    idem.same(known, "member")?.map(Member::try_from).transpose()
}

/// A member as the audit log shows it: of a webhook only where it leads (SEC-1).
fn shown(member: &Member) -> serde_json::Value {
    let Addresses { email, phone, feishu_user_id, feishu_open_id, telegram_chat_id, whatsapp, webhook_url } =
        &member.addresses;
    json!({
        "name": member.name, "user_id": member.user_id, "email": email, "phone": phone,
        "feishu": { "user_id": feishu_user_id, "open_id": feishu_open_id }, "telegram_chat_id": telegram_chat_id,
        "whatsapp": whatsapp, "webhook_url": webhook_url.as_ref().map(WebhookUrl::masked),
    })
}

/// What changes of a member; `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub user_id: Option<Option<UserId>>,
    pub email: Option<Option<String>>,
    pub phone: Option<Option<String>>,
    pub feishu_user_id: Option<Option<String>>,
    pub feishu_open_id: Option<Option<String>>,
    pub telegram_chat_id: Option<Option<String>>,
    pub whatsapp: Option<Option<String>>,
    pub webhook_url: Option<Option<WebhookUrl>>,
}

impl Changes {
    fn made_to(&self, member: &Member) -> Member {
        let Self {
            name,
            user_id,
            email,
            phone,
            feishu_user_id,
            feishu_open_id,
            telegram_chat_id,
            whatsapp,
            webhook_url,
        } = self.clone();
        let before = member.clone();
        let was = before.addresses;
        Member {
            name: name.unwrap_or(before.name),
            user_id: user_id.unwrap_or(before.user_id),
            addresses: Addresses {
                email: email.unwrap_or(was.email),
                phone: phone.unwrap_or(was.phone),
                feishu_user_id: feishu_user_id.unwrap_or(was.feishu_user_id),
                feishu_open_id: feishu_open_id.unwrap_or(was.feishu_open_id),
                telegram_chat_id: telegram_chat_id.unwrap_or(was.telegram_chat_id),
                whatsapp: whatsapp.unwrap_or(was.whatsapp),
                webhook_url: webhook_url.unwrap_or(was.webhook_url),
            },
            ..*member
        }
    }
}

/// Changes a member.
pub struct ChangeMember {
    pub id: MemberId,
    pub changes: Changes,
    pub actor: Actor,
}

impl Command for ChangeMember {
    type Output = Member;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Member, Error> {
        let before = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("member", self.id))?;
        let wanted = self.changes.made_to(&before);
        if wanted == before {
            return Ok(before);
        }
        let after = Member { updated_at: tx.now_ms(), ..wanted };
        let addresses = text(&after.addresses)?;
        parties::ensure(tx, PartyKind::Member, &self.id.to_string(), &after.name)?;
        diesel::update(members::table.find(self.id.as_bytes().as_slice()))
            .set((
                members::name.eq(&after.name),
                members::name_folded.eq(fold(&after.name)),
                members::user_id.eq(after.user_id.as_ref().map(|id| id.as_bytes().as_slice())),
                members::addresses.eq(addresses),
                members::updated_at.eq(after.updated_at),
            ))
            .execute(tx.write()?)?;
        if after.name != before.name || after.addresses != before.addresses {
            relationships::tell_who_knows_member(tx, self.id)?;
        }
        let id = self.id.to_string();
        let target = ("member", id.as_str());
        audit::record(tx, &self.actor, "member.change", target, Some(&shown(&before)), Some(&shown(&after)))?;
        Ok(after)
    }
}

/// Removes a member: nobody knows it any more, and what it was reached by goes; its lines stay.
pub struct RemoveMember {
    pub id: MemberId,
    pub actor: Actor,
}

impl Command for RemoveMember {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let member = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("member", self.id))?;
        let now_ms = tx.now_ms();
        relationships::end_of_member(tx, self.id)?;
        diesel::update(members::table.find(self.id.as_bytes().as_slice()))
            .set((members::deleted_at.eq(Some(now_ms)), members::addresses.eq(text(&Addresses::default())?)))
            .execute(tx.write()?)?;
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "member.remove", ("member", &target), Some(&shown(&member)), None)
    }
}

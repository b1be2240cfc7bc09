//! Gateways and their sealed secrets.
use diesel::prelude::*;
use serde_json::json;

use super::audit::{self, Actor};
use super::dialect::Db;
use super::messages::Idem;
use super::schema::gateways;
use super::tx::{Command, Tx};
use super::vault::Vault;
use super::{parties, purge};
use crate::domain::delivery::Move;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, GatewayChange};
use crate::domain::gateway::{Gateway, Track};
use crate::domain::ids::{GatewayId, PartyId};
use crate::domain::party::PartyKind;
use crate::domain::secret::Secret;

#[derive(Queryable, Selectable)]
#[diesel(table_name = gateways)]
struct Row {
    id: String,
    party_id: Vec<u8>,
    name: String,
    url: String,
    track: i32,
    admin: bool,
    enabled: bool,
    token: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<Row> for Gateway {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.id.parse()?,
            party_id: PartyId::try_from(row.party_id.as_slice())?,
            name: row.name,
            url: row.url,
            track: if row.track == 1 { Track::All } else { Track::Used },
            admin: row.admin,
            enabled: row.enabled,
            has_token: row.token.is_some(),
            has_password: row.password.is_some(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// What a link needs to sign in. It cannot be printed or sent.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub token: Option<Secret>,
    pub password: Option<Secret>,
    /// The private half of our device identity for this gateway, in base64.
    pub device_seed: Option<Secret>,
    pub device_token: Option<Secret>,
    pub device_scopes: Vec<String>,
}

/// Lists the gateways, by id.
pub fn list(db: &mut Db) -> Result<Vec<Gateway>, Error> {
    let rows: Vec<Row> = gateways::table
        .filter(gateways::deleted_at.is_null())
        .order(gateways::id.asc())
        .select(Row::as_select())
        .load(db)?;
    rows.into_iter().map(Gateway::try_from).collect()
}

/// Reads one gateway.
pub fn get(db: &mut Db, id: &GatewayId) -> Result<Option<Gateway>, Error> {
    gateways::table
        .filter(gateways::id.eq(id.as_str()).and(gateways::deleted_at.is_null()))
        .select(Row::as_select())
        .first(db)
        .optional()?
        .map(Gateway::try_from)
        .transpose()
}

/// Counts the gateways that have something sealed.
pub fn count_sealed(db: &mut Db) -> Result<i64, Error> {
    let secrets = gateways::token.is_not_null().or(gateways::password.is_not_null());
    let sealed = secrets.or(gateways::device_seed.is_not_null());
    Ok(gateways::table.filter(gateways::deleted_at.is_null().and(sealed)).count().get_result(db)?)
}

type Sealed = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>, Option<String>);

/// Opens the secrets of a gateway.
pub fn credentials(db: &mut Db, vault: &Vault, id: &GatewayId) -> Result<Credentials, Error> {
    let (token, password, device_seed, device_token, scopes): Sealed = gateways::table
        .filter(gateways::id.eq(id.as_str()))
        .select((
            gateways::token,
            gateways::password,
            gateways::device_seed,
            gateways::device_token,
            gateways::device_scopes,
        ))
        .first(db)
        .optional()?
        .ok_or_else(|| not_found(id))?;
    let open = |field: &str, sealed: Option<Vec<u8>>| {
        sealed.map(|sealed| vault.unseal_text(&place(id, field), &sealed)).transpose()
    };
    Ok(Credentials {
        token: open("token", token)?,
        password: open("password", password)?,
        device_seed: open("device_seed", device_seed)?,
        device_token: open("device_token", device_token)?,
        device_scopes: scopes.map(|s| s.split(',').map(str::to_owned).collect()).unwrap_or_default(),
    })
}

/// Says that a gateway does not exist.
pub fn not_found(id: &GatewayId) -> Error {
    Error::new(ErrorCode::GatewayNotFound, "Gateway not found").with_details(json!({ "gateway_id": id }))
}

fn place(id: &GatewayId, field: &str) -> String {
    format!("gateway:{id}:{field}")
}

/// Registers a gateway.
pub struct AddGateway {
    pub id: GatewayId,
    pub name: String,
    pub url: String,
    pub token: Option<Secret>,
    pub password: Option<Secret>,
    pub track: Track,
    pub admin: bool,
    pub actor: Actor,
    pub vault: Vault,
    pub idem: Option<Idem>,
    /// Registered gateways that are allowed.
    pub gateways_max: usize,
}

impl Command for AddGateway {
    type Output = Gateway;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Gateway, Error> {
        if let Some(repeated) = self.repeated(tx)? {
            return Ok(repeated);
        }
        let known: Option<Option<i64>> =
            gateways::table.find(self.id.as_str()).select(gateways::deleted_at).first(tx.read()?).optional()?;
        if known == Some(None) {
            return Err(Error::new(ErrorCode::AlreadyExists, format!("gateway `{}` exists already", self.id)));
        }
        if purge::is_under_way(tx.read()?, &self.id)? {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!(
                    "the conversations of an earlier gateway `{}` are still being removed; try again later",
                    self.id
                ),
            ));
        }
        self.check_room(tx)?;
        let party = parties::ensure(tx, PartyKind::Gateway, self.id.as_str(), &self.name)?;
        let now_ms = tx.now_ms();
        let seal = |field: &str, secret: &Option<Secret>| {
            secret.as_ref().map(|secret| self.vault.seal_text(&place(&self.id, field), secret)).transpose()
        };
        let (token, password) = (seal("token", &self.token)?, seal("password", &self.password)?);
        if known.is_some() {
            // The row of a removed gateway of this name: its conversations come back with it.
            diesel::delete(gateways::table.find(self.id.as_str())).execute(tx.write()?)?;
        }
        diesel::insert_into(gateways::table)
            .values((
                gateways::id.eq(self.id.as_str()),
                gateways::party_id.eq(party.id.as_bytes().as_slice()),
                gateways::name.eq(&self.name),
                gateways::url.eq(&self.url),
                gateways::track.eq(i32::from(self.track == Track::All)),
                gateways::admin.eq(self.admin),
                gateways::enabled.eq(true),
                gateways::token.eq(token),
                gateways::password.eq(password),
                gateways::created_at.eq(now_ms),
                gateways::updated_at.eq(now_ms),
                gateways::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                gateways::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let gateway = get(tx.read()?, &self.id)?.ok_or_else(|| not_found(&self.id))?;
        audit::record(tx, &self.actor, "gateway.add", ("gateway", self.id.as_str()), None, Some(&shown(&gateway)))?;
        tx.emit(Event::GatewayChanged { gateway_id: self.id.clone(), change: GatewayChange::Changed });
        Ok(gateway)
    }
}

impl AddGateway {
    /// A gateway that the broker registers by itself: its sessions are tracked as they are used, and no admin scope is
    /// asked for.
    pub fn by_system(id: GatewayId, name: &str, url: &str, token: Option<Secret>, vault: Vault) -> Self {
        Self {
            id,
            name: name.to_owned(),
            url: url.to_owned(),
            token,
            password: None,
            track: Track::Used,
            admin: false,
            actor: Actor::system(),
            vault,
            idem: None,
            gateways_max: usize::MAX,
        }
    }

    fn check_room(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known: i64 = gateways::table.filter(gateways::deleted_at.is_null()).count().get_result(tx.read()?)?;
        if usize::try_from(known).unwrap_or(usize::MAX) < self.gateways_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidRequest,
            format!("{known} gateways are registered, which is all that `limits.gateways_max` allows"),
        )
        .with_status(409))
    }

    /// Finds the gateway that this key has made before, whatever id this call names.
    fn repeated(&self, tx: &mut Tx<'_>) -> Result<Option<Gateway>, Error> {
        let Some(idem) = &self.idem else { return Ok(None) };
        let known = gateways::table
            .filter(gateways::idem_key.eq(&idem.key).and(gateways::deleted_at.is_null()))
            .select((Row::as_select(), gateways::idem_hash))
            .first(tx.read()?)
            .optional()?;
        idem.same(known, "gateway")?.map(Gateway::try_from).transpose()
    }
}

/// A gateway as the audit log shows it.
fn shown(gateway: &Gateway) -> serde_json::Value {
    json!({
        "name": gateway.name, "url": gateway.url, "track": gateway.track, "admin": gateway.admin,
        "enabled": gateway.enabled, "token": gateway.has_token, "password": gateway.has_password,
    })
}

/// Changes a gateway; `None` leaves a field as it is, `Some(None)` removes a secret.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub url: Option<String>,
    pub token: Option<Option<Secret>>,
    pub password: Option<Option<Secret>>,
    pub track: Option<Track>,
    pub admin: Option<bool>,
    pub enabled: Option<bool>,
}

impl Changes {
    fn made_to(&self, gateway: &Gateway) -> Gateway {
        Gateway {
            name: self.name.clone().unwrap_or_else(|| gateway.name.clone()),
            url: self.url.clone().unwrap_or_else(|| gateway.url.clone()),
            track: self.track.unwrap_or(gateway.track),
            admin: self.admin.unwrap_or(gateway.admin),
            enabled: self.enabled.unwrap_or(gateway.enabled),
            ..gateway.clone()
        }
    }

    /// Tells whether a secret is given or removed. One that is given counts even if it is the same: nobody looks.
    fn has_secrets(&self, gateway: &Gateway) -> bool {
        [(&self.token, gateway.has_token), (&self.password, gateway.has_password)]
            .into_iter()
            .any(|(secret, kept)| secret.as_ref().is_some_and(|secret| secret.is_some() || kept))
    }
}

/// Changes a gateway and has its link start again, if that needs to know.
pub struct ChangeGateway {
    pub id: GatewayId,
    pub changes: Changes,
    pub actor: Actor,
    pub vault: Vault,
}

impl Command for ChangeGateway {
    type Output = Gateway;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Gateway, Error> {
        let before = get(tx.read()?, &self.id)?.ok_or_else(|| not_found(&self.id))?;
        let wanted = self.changes.made_to(&before);
        let secrets = self.changes.has_secrets(&before);
        if wanted == before && !secrets {
            return Ok(before);
        }
        let row = gateways::table.find(self.id.as_str());
        parties::ensure(tx, PartyKind::Gateway, self.id.as_str(), &wanted.name)?;
        let now_ms = tx.now_ms();
        diesel::update(row)
            .set((
                gateways::name.eq(&wanted.name),
                gateways::url.eq(&wanted.url),
                gateways::track.eq(i32::from(wanted.track == Track::All)),
                gateways::admin.eq(wanted.admin),
                gateways::enabled.eq(wanted.enabled),
                gateways::updated_at.eq(now_ms),
            ))
            .execute(tx.write()?)?;
        let seal = |field: &str, secret: &Option<Secret>| {
            secret.as_ref().map(|secret| self.vault.seal_text(&place(&self.id, field), secret)).transpose()
        };
        if let Some(token) = &self.changes.token {
            let sealed = seal("token", token)?;
            diesel::update(row).set(gateways::token.eq(sealed)).execute(tx.write()?)?;
        }
        if let Some(password) = &self.changes.password {
            let sealed = seal("password", password)?;
            diesel::update(row).set(gateways::password.eq(sealed)).execute(tx.write()?)?;
        }
        let given = [&self.changes.token, &self.changes.password].into_iter().any(|one| matches!(one, Some(Some(_))));
        if given && !self.is_device_readable(tx)? {
            // The key that sealed it is lost: the link makes another identity, which the gateway has to approve.
            diesel::update(row)
                .set((
                    gateways::device_seed.eq(None::<Vec<u8>>),
                    gateways::device_token.eq(None::<Vec<u8>>),
                    gateways::device_scopes.eq(None::<String>),
                ))
                .execute(tx.write()?)?;
        }
        let after = get(tx.read()?, &self.id)?.ok_or_else(|| not_found(&self.id))?;
        let target = ("gateway", self.id.as_str());
        audit::record(tx, &self.actor, "gateway.change", target, Some(&shown(&before)), Some(&shown(&after)))?;
        // The name is for people: a link does not know it, and goes on.
        if secrets || (Gateway { name: before.name.clone(), ..wanted }) != before {
            let change = if after.enabled { GatewayChange::Changed } else { GatewayChange::Disabled };
            tx.emit(Event::GatewayChanged { gateway_id: self.id.clone(), change });
        }
        Ok(after)
    }
}

impl ChangeGateway {
    /// Tells whether our device identity, if there is one, can be opened.
    fn is_device_readable(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let seed: Option<Vec<u8>> =
            gateways::table.find(self.id.as_str()).select(gateways::device_seed).first(tx.read()?)?;
        Ok(seed.is_none_or(|sealed| self.vault.unseal_text(&place(&self.id, "device_seed"), &sealed).is_ok()))
    }
}

/// Keeps our device identity, or what the gateway gave us for it.
pub struct KeepDevice {
    pub id: GatewayId,
    pub seed: Option<Secret>,
    pub token: Option<Secret>,
    pub scopes: Vec<String>,
    pub vault: Vault,
}

impl Command for KeepDevice {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let row = gateways::table.find(self.id.as_str());
        if let Some(seed) = &self.seed {
            let sealed = self.vault.seal_text(&place(&self.id, "device_seed"), seed)?;
            diesel::update(row).set(gateways::device_seed.eq(Some(sealed))).execute(tx.write()?)?;
        }
        if let Some(token) = &self.token {
            let sealed = self.vault.seal_text(&place(&self.id, "device_token"), token)?;
            diesel::update(row)
                .set((gateways::device_token.eq(Some(sealed)), gateways::device_scopes.eq(Some(self.scopes.join(",")))))
                .execute(tx.write()?)?;
        }
        Ok(())
    }
}

/// Removes a gateway and its secrets. Its conversations stay readable, unless `purge` takes them along.
pub struct RemoveGateway {
    pub id: GatewayId,
    pub purge: bool,
    pub actor: Actor,
}

impl Command for RemoveGateway {
    type Output = Gateway;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Gateway, Error> {
        let gateway = get(tx.read()?, &self.id)?.ok_or_else(|| not_found(&self.id))?;
        let now_ms = tx.now_ms();
        diesel::update(gateways::table.find(self.id.as_str()))
            .set((
                gateways::deleted_at.eq(Some(now_ms)),
                gateways::token.eq(None::<Vec<u8>>),
                gateways::password.eq(None::<Vec<u8>>),
                gateways::device_seed.eq(None::<Vec<u8>>),
                gateways::device_token.eq(None::<Vec<u8>>),
            ))
            .execute(tx.write()?)?;
        tx.forget_gateway(&self.id);
        // Nobody is left to answer: what waits for it ends, with a reason (DLV-2).
        for stored in deliveries_of(tx, gateway.party_id)? {
            let action = Move::Cancel { reason: Some("gateway_removed".to_owned()) };
            super::deliveries::apply_to(tx, stored, &action, true)?;
        }
        for turn in super::turns::open_of_gateway(tx.read()?, &self.id)? {
            super::turns::abandon(tx, turn.id)?;
        }
        if self.purge {
            purge::of_gateway(tx, &self.id)?;
        }
        let target = ("gateway", self.id.as_str());
        audit::record(
            tx,
            &self.actor,
            "gateway.remove",
            target,
            Some(&shown(&gateway)),
            Some(&json!({ "purge": self.purge })),
        )?;
        tx.emit(Event::GatewayChanged { gateway_id: self.id.clone(), change: GatewayChange::Removed });
        Ok(gateway)
    }
}

/// Reads all open deliveries to a party.
fn deliveries_of(tx: &mut Tx<'_>, party: PartyId) -> Result<Vec<super::deliveries::Stored>, Error> {
    super::deliveries::open_of_recipient(tx.read()?, party, 0, i64::MAX)
}

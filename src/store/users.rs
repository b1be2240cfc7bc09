//! Users and their tokens. A token is 256 random bits, shown once; only its SHA-256 digest is stored.
use diesel::prelude::*;
use serde_json::json;

use super::audit::{self, Actor};
use super::dialect::Db;
use super::messages::Idem;
use super::parties;
use super::schema::{tokens, users};
use super::tx::{Command, Tx};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::{PartyId, TokenId, UserId};
use crate::domain::party::PartyKind;
use crate::domain::user::{Caller, Role};

/// Name of the user that the first start makes; it cannot be removed.
pub const ADMIN: &str = "admin";

/// A user, without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub party_id: PartyId,
    pub name: String,
    pub display_name: String,
    pub role: Role,
    pub has_password: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = users)]
struct UserRow {
    id: Vec<u8>,
    name: String,
    display_name: String,
    role: i32,
    password_hash: Option<String>,
    party_id: Vec<u8>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<UserRow> for User {
    type Error = Error;

    fn try_from(row: UserRow) -> Result<Self, Error> {
        Ok(Self {
            id: UserId::try_from(row.id.as_slice())?,
            party_id: PartyId::try_from(row.party_id.as_slice())?,
            name: row.name,
            display_name: row.display_name,
            role: Role::from_code(row.role).ok_or_else(|| Error::corrupt("a user of an unknown role"))?,
            has_password: row.password_hash.is_some(),
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Lists the users, by name.
pub fn list(db: &mut Db) -> Result<Vec<User>, Error> {
    let rows: Vec<UserRow> = users::table
        .filter(users::deleted_at.is_null())
        .order(users::name.asc())
        .select(UserRow::as_select())
        .load(db)?;
    rows.into_iter().map(User::try_from).collect()
}

/// Lists at most `limit` users by name, after the one of this name.
pub fn page(db: &mut Db, after: Option<&str>, limit: i64) -> Result<Vec<User>, Error> {
    let mut query = users::table
        .filter(users::deleted_at.is_null())
        .order(users::name.asc())
        .limit(limit)
        .select(UserRow::as_select())
        .into_boxed();
    if let Some(name) = after {
        query = query.filter(users::name.gt(name));
    }
    query.load::<UserRow>(db)?.into_iter().map(User::try_from).collect()
}

/// Counts the users.
pub fn count(db: &mut Db) -> Result<i64, Error> {
    Ok(users::table.filter(users::deleted_at.is_null()).count().get_result(db)?)
}

/// Reads one user.
pub fn get(db: &mut Db, id: UserId) -> Result<Option<User>, Error> {
    users::table
        .filter(users::id.eq(id.as_bytes().as_slice()).and(users::deleted_at.is_null()))
        .select(UserRow::as_select())
        .first(db)
        .optional()?
        .map(User::try_from)
        .transpose()
}

/// Finds a user by name.
pub fn by_name(db: &mut Db, name: &str) -> Result<Option<User>, Error> {
    users::table
        .filter(users::name.eq(name).and(users::deleted_at.is_null()))
        .select(UserRow::as_select())
        .first(db)
        .optional()?
        .map(User::try_from)
        .transpose()
}

/// A token, without what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub user_id: UserId,
    pub name: String,
    /// The first characters, to tell tokens apart.
    pub prefix: String,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = tokens)]
struct TokenRow {
    id: Vec<u8>,
    user_id: Vec<u8>,
    name: String,
    prefix: String,
    created_at: i64,
    last_used_at: Option<i64>,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl TryFrom<TokenRow> for Token {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self, Error> {
        Ok(Self {
            id: TokenId::try_from(row.id.as_slice())?,
            user_id: UserId::try_from(row.user_id.as_slice())?,
            name: row.name,
            prefix: row.prefix,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Reads one token; also one that has ended.
pub fn token(db: &mut Db, id: TokenId) -> Result<Option<Token>, Error> {
    let row = tokens::table.find(id.as_bytes().as_slice()).select(TokenRow::as_select()).first(db).optional()?;
    row.map(Token::try_from).transpose()
}

/// Lists tokens, newest first; those of one user or of all.
pub fn tokens_of(db: &mut Db, user: Option<UserId>) -> Result<Vec<Token>, Error> {
    let mut query = tokens::table.order(tokens::id.desc()).select(TokenRow::as_select()).into_boxed();
    if let Some(user) = user {
        query = query.filter(tokens::user_id.eq(user.as_bytes().to_vec()));
    }
    query.load::<TokenRow>(db)?.into_iter().map(Token::try_from).collect()
}

/// Lists the tokens of a user with their digests, to tell which one is configured.
pub fn tokens_with_digests(db: &mut Db, user: UserId) -> Result<Vec<(Token, [u8; 32])>, Error> {
    let rows: Vec<(TokenRow, Vec<u8>)> = tokens::table
        .filter(tokens::user_id.eq(user.as_bytes().as_slice()))
        .select((TokenRow::as_select(), tokens::digest))
        .load(db)?;
    rows.into_iter()
        .map(|(row, digest)| {
            let digest = digest.try_into().map_err(|_| Error::corrupt("a token digest of a wrong length"))?;
            Ok((Token::try_from(row)?, digest))
        })
        .collect()
}

/// Reads every token that may still be used, with who it stands for: the edge keeps them in memory.
pub fn callers(db: &mut Db, now_ms: i64) -> Result<Vec<([u8; 32], Caller)>, Error> {
    let rows: Vec<(TokenRow, Vec<u8>, UserRow)> = tokens::table
        .inner_join(users::table.on(users::id.eq(tokens::user_id)))
        .filter(tokens::revoked_at.is_null().and(users::deleted_at.is_null()))
        .select((TokenRow::as_select(), tokens::digest, UserRow::as_select()))
        .load(db)?;
    rows.into_iter()
        .filter(|(token, ..)| token.expires_at.is_none_or(|at| at > now_ms))
        .map(|(token, digest, user)| {
            let digest = digest.try_into().map_err(|_| Error::corrupt("a token digest of a wrong length"))?;
            Ok((digest, caller_of(&User::try_from(user)?, Some(&Token::try_from(token)?))))
        })
        .collect()
}

/// Makes the caller that a user and one of its tokens stand for.
pub fn caller_of(user: &User, token: Option<&Token>) -> Caller {
    Caller {
        user_id: user.id,
        party_id: user.party_id,
        name: user.name.clone(),
        role: user.role,
        token_id: token.map(|token| token.id),
        expires_at: token.and_then(|token| token.expires_at),
    }
}

/// Makes a user.
pub struct AddUser {
    pub name: String,
    pub display_name: String,
    pub role: Role,
    pub password_hash: Option<String>,
    pub actor: Actor,
    pub idem: Option<Idem>,
    /// Return the user of this name if there is one, for the first start.
    pub ensure: bool,
}

impl Command for AddUser {
    type Output = User;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<User, Error> {
        if let Some(repeated) = repeated(tx, self.idem.as_ref())? {
            return Ok(repeated);
        }
        if let Some(known) = by_name(tx.read()?, &self.name)? {
            if self.ensure {
                return Ok(known);
            }
            return Err(taken(&self.name));
        }
        let id = UserId::new();
        let party = parties::ensure(tx, PartyKind::User, &id.to_string(), &self.display_name)?;
        let now_ms = tx.now_ms();
        diesel::insert_into(users::table)
            .values((
                users::id.eq(id.as_bytes().as_slice()),
                users::name.eq(&self.name),
                users::display_name.eq(&self.display_name),
                users::role.eq(self.role as i32),
                users::password_hash.eq(&self.password_hash),
                users::party_id.eq(party.id.as_bytes().as_slice()),
                users::created_at.eq(now_ms),
                users::updated_at.eq(now_ms),
                users::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                users::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let after = json!({ "name": self.name, "display_name": self.display_name, "role": self.role });
        audit::record(tx, &self.actor, "user.add", ("user", &id.to_string()), None, Some(&after))?;
        get(tx.read()?, id)?.ok_or_else(|| Error::not_found("user", id))
    }
}

fn taken(name: &str) -> Error {
    Error::new(ErrorCode::AlreadyExists, format!("user `{name}` exists already")).with_status(409)
}

/// Finds the user that this key has made before, whatever name this call gives.
fn repeated(tx: &mut Tx<'_>, idem: Option<&Idem>) -> Result<Option<User>, Error> {
    let Some(idem) = idem else { return Ok(None) };
    let known = users::table
        .filter(users::idem_key.eq(&idem.key).and(users::deleted_at.is_null()))
        .select((UserRow::as_select(), users::idem_hash))
        .first(tx.read()?)
        .optional()?;
    idem.same(known, "user")?.map(User::try_from).transpose()
}

/// Changes a user; `None` leaves a field as it is. Its sockets are closed, so that a new role holds at once.
pub struct ChangeUser {
    pub id: UserId,
    pub name: Option<String>,
    pub display_name: Option<String>,
    pub role: Option<Role>,
    pub password_hash: Option<Option<String>>,
    pub actor: Actor,
}

impl Command for ChangeUser {
    type Output = User;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<User, Error> {
        let before = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("user", self.id))?;
        let role = self.role.unwrap_or(before.role);
        if before.name == ADMIN && role != Role::Admin {
            return Err(Error::new(ErrorCode::InvalidRequest, "the user `admin` must keep its role").with_status(409));
        }
        let name = self.name.as_ref().unwrap_or(&before.name);
        if before.name == ADMIN && name != ADMIN {
            return Err(Error::new(ErrorCode::InvalidRequest, "the user `admin` must keep its name").with_status(409));
        }
        if *name != before.name && by_name(tx.read()?, name)?.is_some() {
            return Err(taken(name));
        }
        let display_name = self.display_name.as_ref().unwrap_or(&before.display_name);
        let password = self.password_hash.as_ref().is_some_and(|hash| hash.is_some() || before.has_password);
        if (name, display_name, role) == (&before.name, &before.display_name, before.role) && !password {
            return Ok(before);
        }
        parties::ensure(tx, PartyKind::User, &self.id.to_string(), display_name)?;
        let row = users::table.find(self.id.as_bytes().as_slice());
        diesel::update(row)
            .set((
                users::name.eq(name),
                users::display_name.eq(display_name),
                users::role.eq(role as i32),
                users::updated_at.eq(tx.now_ms()),
            ))
            .execute(tx.write()?)?;
        if let Some(hash) = &self.password_hash {
            diesel::update(row).set(users::password_hash.eq(hash)).execute(tx.write()?)?;
        }
        let after = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("user", self.id))?;
        let shown = |user: &User| {
            json!({
                "name": user.name, "display_name": user.display_name, "role": user.role, "password": user.has_password,
            })
        };
        let target = self.id.to_string();
        audit::record(tx, &self.actor, "user.change", ("user", &target), Some(&shown(&before)), Some(&shown(&after)))?;
        tx.emit(Event::UserChanged { user_id: self.id, now: Some((after.name.clone(), after.role)) });
        Ok(after)
    }
}

/// Removes a user: its tokens end, its lines stay.
pub struct RemoveUser {
    pub id: UserId,
    pub actor: Actor,
}

impl Command for RemoveUser {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let user = get(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("user", self.id))?;
        if user.name == ADMIN {
            return Err(Error::new(ErrorCode::InvalidRequest, "the user `admin` cannot be removed").with_status(409));
        }
        let now_ms = tx.now_ms();
        diesel::update(users::table.find(self.id.as_bytes().as_slice()))
            .set(users::deleted_at.eq(Some(now_ms)))
            .execute(tx.write()?)?;
        diesel::update(tokens::table)
            .filter(tokens::user_id.eq(self.id.as_bytes().as_slice()).and(tokens::revoked_at.is_null()))
            .set(tokens::revoked_at.eq(Some(now_ms)))
            .execute(tx.write()?)?;
        let before = json!({ "name": user.name, "role": user.role });
        audit::record(tx, &self.actor, "user.remove", ("user", &self.id.to_string()), Some(&before), None)?;
        tx.emit(Event::UserChanged { user_id: self.id, now: None });
        Ok(())
    }
}

/// Makes a token of a user from a digest; the token itself never comes here.
pub struct AddToken {
    pub user_id: UserId,
    pub name: String,
    pub prefix: String,
    pub digest: [u8; 32],
    pub expires_at: Option<i64>,
    pub actor: Actor,
    pub idem: Option<Idem>,
}

impl Command for AddToken {
    /// The token, and whether the key was used before: then the caller has seen the secret already.
    type Output = (Token, bool);

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(Token, bool), Error> {
        if let Some(known) = self.known(tx)? {
            return Ok((known, true));
        }
        let user = get(tx.read()?, self.user_id)?.ok_or_else(|| Error::not_found("user", self.user_id))?;
        let token = Token {
            id: TokenId::new(),
            user_id: user.id,
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            created_at: tx.now_ms(),
            last_used_at: None,
            expires_at: self.expires_at,
            revoked_at: None,
        };
        diesel::insert_into(tokens::table)
            .values((
                tokens::id.eq(token.id.as_bytes().as_slice()),
                tokens::user_id.eq(user.id.as_bytes().as_slice()),
                tokens::name.eq(&token.name),
                tokens::prefix.eq(&token.prefix),
                tokens::digest.eq(self.digest.as_slice()),
                tokens::created_at.eq(token.created_at),
                tokens::expires_at.eq(token.expires_at),
                tokens::idem_key.eq(self.idem.as_ref().map(|idem| &idem.key)),
                tokens::idem_hash.eq(self.idem.as_ref().map(|idem| idem.hash.as_slice())),
            ))
            .execute(tx.write()?)?;
        let after = json!({ "user": user.name, "name": token.name, "prefix": token.prefix });
        audit::record(tx, &self.actor, "token.add", ("token", &token.id.to_string()), None, Some(&after))?;
        let caller = std::sync::Arc::new(caller_of(&user, Some(&token)));
        tx.emit(Event::TokenAdded { digest: self.digest, caller });
        Ok((token, false))
    }
}

impl AddToken {
    /// Finds the token of this key, or of this very digest (a configured token at each start).
    fn known(&self, tx: &mut Tx<'_>) -> Result<Option<Token>, Error> {
        let same_digest: Option<TokenRow> = tokens::table
            .filter(tokens::digest.eq(self.digest.as_slice()))
            .select(TokenRow::as_select())
            .first(tx.read()?)
            .optional()?;
        if let Some(row) = same_digest {
            return Token::try_from(row).map(Some);
        }
        let Some(idem) = &self.idem else { return Ok(None) };
        let same_key = tokens::table
            .filter(tokens::user_id.eq(self.user_id.as_bytes().as_slice()).and(tokens::idem_key.eq(&idem.key)))
            .select((TokenRow::as_select(), tokens::idem_hash))
            .first(tx.read()?)
            .optional()?;
        idem.same(same_key, "token")?.map(Token::try_from).transpose()
    }
}

/// Lets a token count again that was ended: the configuration has brought it back.
pub struct ReviveToken {
    pub id: TokenId,
    pub digest: [u8; 32],
    pub actor: Actor,
}

impl Command for ReviveToken {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known = token(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("token", self.id))?;
        let user = get(tx.read()?, known.user_id)?.ok_or_else(|| Error::not_found("user", known.user_id))?;
        diesel::update(tokens::table.find(self.id.as_bytes().as_slice()))
            .set(tokens::revoked_at.eq(None::<i64>))
            .execute(tx.write()?)?;
        let after = json!({ "name": known.name, "prefix": known.prefix });
        audit::record(tx, &self.actor, "token.revive", ("token", &self.id.to_string()), None, Some(&after))?;
        let caller = std::sync::Arc::new(caller_of(&user, Some(&Token { revoked_at: None, ..known })));
        tx.emit(Event::TokenAdded { digest: self.digest, caller });
        Ok(())
    }
}

/// Ends a token. Its live sockets close.
pub struct RevokeToken {
    pub id: TokenId,
    pub actor: Actor,
}

impl Command for RevokeToken {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let known = token(tx.read()?, self.id)?.ok_or_else(|| Error::not_found("token", self.id))?;
        if known.revoked_at.is_some() {
            return Ok(());
        }
        diesel::update(tokens::table.find(self.id.as_bytes().as_slice()))
            .set(tokens::revoked_at.eq(Some(tx.now_ms())))
            .execute(tx.write()?)?;
        let before = json!({ "name": known.name, "prefix": known.prefix });
        audit::record(tx, &self.actor, "token.revoke", ("token", &self.id.to_string()), Some(&before), None)?;
        tx.emit(Event::TokenEnded { token_id: self.id });
        Ok(())
    }
}

/// Notes when tokens were used last; gathered in memory and written now and then. Belongs in the bulk lane.
pub struct NoteTokensUsed {
    pub used: Vec<(TokenId, i64)>,
}

impl Command for NoteTokensUsed {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        for (id, at) in &self.used {
            diesel::update(tokens::table.find(id.as_bytes().as_slice()))
                .set(tokens::last_used_at.eq(Some(*at)))
                .execute(tx.write()?)?;
        }
        Ok(())
    }
}

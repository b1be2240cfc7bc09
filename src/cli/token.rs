//! `token`: makes, lists and revokes the tokens that people and programs sign in with.
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, complain, date, json as print_json, say, text};
use super::{Common, Format};
use crate::actors::bootstrap::{digest, new_token, prefix};
use crate::config::Config;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::error::Error;
use crate::domain::ids::TokenId;
use crate::domain::time::{iso, parse_iso};
use crate::domain::user::Role;
use crate::store::users::{self, ADMIN, AddToken, AddUser, RevokeToken, Token, User};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Make a token and print it, this once
    Create(Create),
    /// List the tokens, newest first
    List(Format),
    /// Revoke a token: it ends at once
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The user that the token stands for
    #[arg(long, default_value = ADMIN)]
    user: String,
    /// What the token is for
    #[arg(long, default_value = "command line")]
    name: String,
    /// Make the user with this role if there is none of this name
    #[arg(long, value_enum)]
    role: Option<RoleName>,
    /// When it ends; without it the token lasts until it is revoked
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3_650))]
    expires_in_days: Option<i64>,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Viewer,
    Member,
    Operator,
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Self::Viewer,
            RoleName::Member => Self::Member,
            RoleName::Operator => Self::Operator,
            RoleName::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The id, as `token list` shows it
    id: TokenId,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Create(create) => self::create(&config, create).await,
        Action::List(format) => list(&config, &format).await,
        Action::Revoke(revoke) => self::revoke(&config, &revoke).await,
    }
}

async fn create(config: &Config, create: Create) -> Result<(), Failure> {
    let expires_at = create.expires_in_days.map(|days| SystemClock.now_ms() + days * DAY_MS);
    let json = create.format.json;
    let made = match reach(config).await? {
        Reach::Server(server) => ask(&server, &create, expires_at).await?,
        Reach::Alone(alone) => {
            let made = make(&alone, create, expires_at).await;
            alone.close().await;
            made?
        }
    };
    if json {
        return print_json(&made);
    }
    say(text(&made, "token"));
    let until = match text(&made, "expires_at") {
        "" => "until it is revoked".to_owned(),
        at => format!("until {} UTC", date(at)),
    };
    complain(format_args!("This token of the user `{}` is valid {until}; it is shown this once.", text(&made, "user")));
    Ok(())
}

/// Has the server make the token, and its user before if need be.
async fn ask(server: &Client, create: &Create, expires_at: Option<i64>) -> Result<Value, Failure> {
    let users = server.list("/api/admin/users").await?;
    let known = users.iter().find(|user| text(user, "name") == create.user);
    let wanted = create.role.map(Role::from);
    match (known.map(|user| text(user, "role")), wanted) {
        (Some(role), Some(wanted)) if role != wanted.as_str() => return Err(other_role(&create.user, role)),
        (Some(_), _) => {}
        (None, Some(role)) => {
            server.post("/api/admin/users", Some(&json!({ "name": create.user, "role": role }))).await?;
        }
        (None, None) => return Err(no_user(&create.user)),
    }
    let body = json!({ "name": create.name, "user": create.user, "expires_at": expires_at.map(iso) });
    server.post("/api/admin/tokens", Some(&body)).await
}

/// Makes the token in the database, and its user before if need be.
async fn make(alone: &Offline, create: Create, expires_at: Option<i64>) -> Result<Value, Failure> {
    let name = create.user.clone();
    let known = alone.store.read(move |db| users::by_name(db, &name)).await?;
    // Before the first start there is no admin yet; the start would make the same.
    let role = create.role.map(Role::from).or((create.user == ADMIN).then_some(Role::Admin));
    let user = match (known, role) {
        (Some(user), Some(_)) if create.role.is_some_and(|wanted| Role::from(wanted) != user.role) => {
            return Err(other_role(&user.name, user.role.as_str()));
        }
        (Some(user), _) => user,
        (None, Some(role)) => add_user(alone, create.user, role).await?,
        (None, None) => return Err(no_user(&create.user)),
    };
    let token = new_token()?;
    let command = AddToken {
        user_id: user.id,
        name: create.name,
        prefix: prefix(token.reveal()),
        digest: digest(token.reveal()),
        expires_at,
        actor: offline::actor(),
        idem: None,
    };
    let (made, _) = alone.store.write(command).await?;
    let mut view = view(&made, std::slice::from_ref(&user));
    if let Some(fields) = view.as_object_mut() {
        fields.insert("token".to_owned(), token.reveal().into());
    }
    Ok(view)
}

async fn add_user(alone: &Offline, name: String, role: Role) -> Result<User, Failure> {
    // The API's rule: the name stands in commands.
    let plain = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@'));
    if !plain {
        return Err(Failure::usage(
            "the user's name must be 1 to 64 of letters, digits, dot, underscore, hyphen and @",
        ));
    }
    let display_name = if name == ADMIN { "Administrator".to_owned() } else { name.clone() };
    let actor = offline::actor();
    let command = AddUser { name, display_name, role, password_hash: None, actor, idem: None, ensure: true };
    Ok(alone.store.write(command).await?)
}

fn no_user(name: &str) -> Failure {
    Failure::new(format!("there is no user `{name}`; add --role to make it, for example --role member"))
}

fn other_role(name: &str, role: &str) -> Failure {
    Failure::new(format!("the user `{name}` has the role `{role}`: leave --role out, or choose another user"))
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => server.list("/api/admin/tokens").await?,
        Reach::Alone(alone) => {
            let read = alone.store.read(|db| Ok::<_, Error>((users::tokens_of(db, None)?, users::list(db)?))).await;
            alone.close().await;
            let (tokens, users) = read?;
            tokens.iter().map(|token| view(token, &users)).collect()
        }
    };
    if format.json {
        return print_json(&views);
    }
    let mut rows = vec![["ID", "USER", "NAME", "BEGINS WITH", "MADE", "USED", "STATE"].map(str::to_owned).to_vec()];
    let now_ms = SystemClock.now_ms();
    for view in &views {
        let mut row = ["id", "user", "name", "prefix"].map(|field| text(view, field).to_owned()).to_vec();
        row.extend(["created_at", "last_used_at"].map(|field| date(text(view, field))));
        row.push(state(view, now_ms));
        rows.push(row);
    }
    columns("", &rows);
    Ok(())
}

/// Says whether a token, or an agent's key, can be used, and until when.
pub(super) fn state(view: &Value, now_ms: i64) -> String {
    if !text(view, "revoked_at").is_empty() {
        return format!("revoked {}", date(text(view, "revoked_at")));
    }
    match text(view, "expires_at") {
        "" => "valid".to_owned(),
        at if parse_iso("expires_at", at).is_ok_and(|at| at <= now_ms) => format!("expired {}", date(at)),
        at => format!("valid until {}", date(at)),
    }
}

async fn revoke(config: &Config, revoke: &Revoke) -> Result<(), Failure> {
    match reach(config).await? {
        Reach::Server(server) => {
            server.delete(&format!("/api/admin/tokens/{}", escaped(&revoke.id.to_string()))).await?;
        }
        Reach::Alone(alone) => {
            let revoked = alone.store.write(RevokeToken { id: revoke.id, actor: offline::actor() }).await;
            alone.close().await;
            revoked?;
        }
    }
    if revoke.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Token {} is revoked.", revoke.id));
    Ok(())
}

/// A token as the admin API shows it.
fn view(token: &Token, users: &[User]) -> Value {
    json!({
        "id": token.id, "user_id": token.user_id, "name": token.name, "prefix": token.prefix,
        "user": users.iter().find(|user| user.id == token.user_id).map(|user| &user.name),
        "created_at": iso(token.created_at), "last_used_at": token.last_used_at.map(iso),
        "expires_at": token.expires_at.map(iso), "revoked_at": token.revoked_at.map(iso),
    })
}

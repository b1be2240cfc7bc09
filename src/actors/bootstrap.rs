//! What an active node makes sure of before it begins: the user `admin` with a token, the configured tokens, the
//! configured gateway.
use crate::config::{Config, LocalClients};
use crate::domain::agent::KEY_PREFIX;
use crate::domain::error::Error;
use crate::domain::gateway::GatewayUrl;
use crate::domain::ids::GatewayId;
use crate::domain::secret::Secret;
use crate::domain::user::{Caller, Role, TOKEN_PREFIX};
use crate::store::Store;
use crate::store::audit::Actor;
use crate::store::gateways::{self, AddGateway, ChangeGateway, Changes};
use crate::store::purge::{self, PurgeStep};
use crate::store::users::{self, ADMIN, AddToken, AddUser, ReviveToken, RevokeToken, User};
use crate::store::vault::{Vault, write_private};

/// File in the data directory that holds the admin's token.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// The gateway that `OPENCLAW_GATEWAY_URL` registers.
const DEFAULT_GATEWAY: &str = "default";
/// Characters of a token that are kept to tell tokens apart.
const PREFIX_CHARS: usize = 12;
/// Characters of 256 random bits in a token.
const RANDOM_CHARS: usize = 43;
/// What is kept instead of a token of somebody's own choice, which its first characters would give away.
const CONFIGURED: &str = "(configured)";

/// What was made sure of.
#[derive(Clone, Debug)]
pub struct Bootstrapped {
    /// Who a trusted local client is.
    pub trusted: Option<Caller>,
    /// The first start has made the admin's token just now.
    pub first_start: bool,
}

/// Makes a new token.
pub fn new_token() -> Result<Secret, Error> {
    random_behind(TOKEN_PREFIX)
}

/// Makes a new key of an agent.
pub fn new_agent_key() -> Result<Secret, Error> {
    random_behind(KEY_PREFIX)
}

/// Makes a credential: 256 random bits behind a prefix.
fn random_behind(prefix: &str) -> Result<Secret, Error> {
    use base64::Engine;
    let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| Error::internal("no randomness"))?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_slice());
    Ok(Secret::new(format!("{prefix}{text}")))
}

/// Returns what is stored of a token.
pub fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// Returns the part of a token or a key that may be shown. What does not look like ours was chosen by somebody.
pub fn prefix(token: &str) -> String {
    let random = token.strip_prefix(TOKEN_PREFIX).or_else(|| token.strip_prefix(KEY_PREFIX));
    if random.is_some_and(|random| random.len() == RANDOM_CHARS) {
        token.chars().take(PREFIX_CHARS).collect()
    } else {
        CONFIGURED.to_owned()
    }
}

/// Makes sure of everything; running it again changes nothing.
pub async fn run(store: &Store, config: &Config, vault: &Vault) -> Result<Bootstrapped, Error> {
    let admin = ensure_user(store, ADMIN, "Administrator", Role::Admin).await?;
    let first_start = ensure_admin_token(store, config, &admin).await?;
    if let Some(token) = &config.auth.operator_token {
        let operator = ensure_user(store, "auth-token", "AUTH_TOKEN", Role::Operator).await?;
        add_token(store, &operator, "AUTH_TOKEN", token, CONFIGURED.to_owned()).await?;
        end_others(store, &operator, &["AUTH_TOKEN"], Some(token)).await?;
    } else if let Some(operator) = store.read(|db| users::by_name(db, "auth-token")).await? {
        end_others(store, &operator, &["AUTH_TOKEN"], None).await?;
    }
    if let Some(url) = &config.gateway.url {
        ensure_gateway(store, config, vault, &url.parse::<GatewayUrl>()?.to_string()).await?;
    }
    let trusted = (config.auth.local_clients == LocalClients::Trusted).then(|| users::caller_of(&admin, None));
    Ok(Bootstrapped { trusted, first_start })
}

async fn ensure_user(store: &Store, name: &str, display_name: &str, role: Role) -> Result<User, Error> {
    let command = AddUser {
        name: name.to_owned(),
        display_name: display_name.to_owned(),
        role,
        password_hash: None,
        actor: Actor::system(),
        idem: None,
        ensure: true,
    };
    store.write(command).await
}

async fn add_token(store: &Store, user: &User, name: &str, token: &Secret, prefix: String) -> Result<(), Error> {
    let command = AddToken {
        user_id: user.id,
        name: name.to_owned(),
        prefix,
        digest: digest(token.reveal()),
        expires_at: None,
        actor: Actor::system(),
        idem: None,
    };
    store.write(command).await.map(drop)
}

/// Ends the tokens of these names that an earlier configuration brought; the configured one takes their place.
async fn end_others(store: &Store, user: &User, names: &[&str], configured: Option<&Secret>) -> Result<(), Error> {
    let id = user.id;
    let kept = configured.map(|token| digest(token.reveal()));
    let known = store.read(move |db| users::tokens_with_digests(db, id)).await?;
    for (token, digest) in known {
        if Some(digest) == kept {
            if token.revoked_at.is_some() {
                store.write(ReviveToken { id: token.id, digest, actor: Actor::system() }).await?;
            }
        } else if names.contains(&token.name.as_str()) && token.revoked_at.is_none() {
            store.write(RevokeToken { id: token.id, actor: Actor::system() }).await?;
        }
    }
    Ok(())
}

/// Takes the configured token, or the one in the file, or makes one. The file is written before the token counts.
async fn ensure_admin_token(store: &Store, config: &Config, admin: &User) -> Result<bool, Error> {
    let path = config.app.data_dir.join(ADMIN_TOKEN_FILE);
    let unwritable = |error: std::io::Error| Error::internal(format!("`{}`: {error}", path.display()));
    if let Some(token) = &config.auth.admin_token {
        write_private(&path, token.reveal()).map_err(unwritable)?;
        add_token(store, admin, "CLAWBROKER_ADMIN_TOKEN", token, CONFIGURED.to_owned()).await?;
        end_others(store, admin, &["CLAWBROKER_ADMIN_TOKEN", "first start"], Some(token)).await?;
        return Ok(false);
    }
    let kept =
        std::fs::read_to_string(&path).ok().map(|text| Secret::new(text.trim())).filter(|token| !token.is_empty());
    let first_start = kept.is_none();
    let token = match kept {
        Some(token) => token,
        None => {
            let token = new_token()?;
            write_private(&path, token.reveal()).map_err(unwritable)?;
            token
        }
    };
    // Of a token that was revoked since, this changes nothing: its digest is known.
    add_token(store, admin, "first start", &token, prefix(token.reveal())).await?;
    Ok(first_start)
}

/// Goes on with the removal of a gateway's conversations until it is over.
async fn finish_purge(store: &Store, id: &GatewayId) -> Result<(), Error> {
    loop {
        let asked = id.clone();
        if !store.read(move |db| purge::is_under_way(db, &asked)).await? {
            return Ok(());
        }
        store.write_bulk(PurgeStep { gateway_id: Some(id.clone()) }).await?;
    }
}

/// Registers the configured gateway, or brings it up to date.
async fn ensure_gateway(store: &Store, config: &Config, vault: &Vault, url: &str) -> Result<(), Error> {
    let id: GatewayId = DEFAULT_GATEWAY.parse()?;
    let wanted = id.clone();
    let known = store.read(move |db| gateways::get(db, &wanted)).await?;
    let token = config.gateway.token.clone();
    match known {
        None => {
            // A removal that was not finished keeps the id taken, and nobody goes on with it before the node is active.
            finish_purge(store, &id).await?;
            let command = AddGateway::by_system(id, DEFAULT_GATEWAY, url, token, vault.clone());
            store.write(command).await.map(drop)
        }
        Some(gateway) => {
            let (wanted, unseal) = (id.clone(), vault.clone());
            let kept = match store.read(move |db| gateways::credentials(db, &unseal, &wanted)).await {
                Ok(kept) => kept,
                // It is left as it is (STO-3): its link tells an admin of it, who needs a node that works.
                Err(error) if error.is_unreadable() => {
                    log::error!("the configured gateway is left as it is, also its URL: {}", error.cause());
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if gateway.url == url && (token.is_none() || kept.token == token) {
                return Ok(());
            }
            let changes = Changes { url: Some(url.to_owned()), token: token.map(Some), ..Changes::default() };
            store.write(ChangeGateway { id, changes, actor: Actor::system(), vault: vault.clone() }).await.map(drop)
        }
    }
}

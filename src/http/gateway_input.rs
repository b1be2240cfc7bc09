//! Gateways as callers describe them: the same checks for the chat family and for the admin API.
use std::str::FromStr;

use actix_web::HttpResponse;
use serde::{Deserialize, Deserializer};
use utoipa::{IntoParams, ToSchema};

use super::call::Target;
use super::done::Done;
use super::state::AppState;
use crate::actors::directory::GatewayCard;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::gateway::{Gateway, GatewayUrl, Track};
use crate::domain::ids::GatewayId;
use crate::domain::secret::Secret;
use crate::domain::user::Caller;
use crate::store::audit::Actor;
use crate::store::gateways::{self, AddGateway, RemoveGateway};
use crate::store::messages::Idem;

/// Longest name in bytes: it stands in lists.
const NAME_BYTES_MAX: usize = 128;
/// Longest token or password in bytes; they go into one frame of the handshake.
const SECRET_BYTES_MAX: usize = 4_096;
/// Ids that are tried for a gateway that was given none.
const CANDIDATES: usize = 100;

/// A gateway that is to be registered.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewGateway {
    /// 1 to 64 of letters, digits, dot, underscore and hyphen. Made from the name if there is none.
    #[schema(value_type = Option<String>)]
    pub(super) id: Option<GatewayId>,
    #[schema(value_type = String)]
    pub(super) name: Name,
    /// `ws://` or `wss://`, without credentials.
    #[schema(value_type = String)]
    pub(super) url: GatewayUrl,
    #[schema(value_type = Option<String>, write_only)]
    pub(super) token: Option<GatewaySecret>,
    #[schema(value_type = Option<String>, write_only)]
    pub(super) password: Option<GatewaySecret>,
    /// `used` (the default): sessions that are opened or written to through us. `all`: every session.
    #[schema(value_type = Option<String>)]
    pub(super) track: Option<Track>,
    /// Asks for the scope `operator.admin`, too.
    #[serde(default)]
    pub(super) admin: bool,
}

/// Registers a gateway, under the id it was given or the next free one that its name suggests.
pub(super) async fn register(
    state: &AppState,
    new: NewGateway,
    actor: Actor,
    idem: Option<Idem>,
) -> Result<Gateway, Error> {
    let candidates = match &new.id {
        Some(id) => vec![id.clone()],
        None => candidates(&new.name.0),
    };
    let mut outcome = Err(Error::invalid("id", "no id can be made from this name; give one"));
    for id in candidates {
        outcome = state
            .store
            .write(AddGateway {
                id,
                name: new.name.0.clone(),
                url: new.url.to_string(),
                token: new.token.as_ref().and_then(GatewaySecret::given),
                password: new.password.as_ref().and_then(GatewaySecret::given),
                track: new.track.unwrap_or_default(),
                admin: new.admin,
                actor: actor.clone(),
                vault: state.vault.clone(),
                idem: idem.clone(),
                gateways_max: state.config.limits.gateways_max,
            })
            .await;
        let taken = outcome.as_ref().is_err_and(|error| error.code() == ErrorCode::AlreadyExists);
        if new.id.is_some() || !taken {
            break;
        }
    }
    // The supervisor does the same when it hears of it; the caller may ask before.
    outcome.inspect(|gateway| state.directory.set_gateway(gateway.clone()))
}

/// A gateway that is registered now. What cannot be an id cannot exist.
impl Target for GatewayCard {
    type Path = String;

    async fn find(state: &AppState, _: &Caller, path: String) -> Result<Self, Error> {
        let id = path.parse().map_err(|_| Error::new(ErrorCode::GatewayNotFound, "Gateway not found"))?;
        state.directory.known(|directory| directory.gateway(&id))?.ok_or_else(|| gateways::not_found(&id))
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// Removes its sessions and messages for good; else they stay readable.
    #[serde(default)]
    purge: bool,
}

/// Removes a gateway and its secrets.
pub(super) async fn remove(
    state: &AppState,
    card: &GatewayCard,
    removal: &Removal,
    actor: Actor,
) -> Result<HttpResponse, Error> {
    let id = card.gateway.id.clone();
    state.store.write(RemoveGateway { id: id.clone(), purge: removal.purge, actor }).await?;
    // The supervisor does the same when it hears of it; the caller may ask before.
    state.directory.remove_gateway(&id);
    Ok(HttpResponse::Ok().json(Done::OK))
}

/// Ids that a name suggests: itself in lower case with hyphens, then numbered.
fn candidates(name: &str) -> Vec<GatewayId> {
    let mut plain = String::new();
    for character in name.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => plain.push(character),
            _ if plain.ends_with('-') || plain.is_empty() => {}
            _ => plain.push('-'),
        }
        if plain.len() == 48 {
            break;
        }
    }
    let plain = plain.trim_end_matches('-');
    let base = if plain.is_empty() { "gateway" } else { plain };
    let numbered = (2..=CANDIDATES).map(|n| format!("{base}-{n}"));
    std::iter::once(base.to_owned()).chain(numbered).filter_map(|id| id.parse().ok()).collect()
}

/// A name that people read.
#[derive(Clone)]
pub(super) struct Name(pub(super) String);

impl FromStr for Name {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let name = value.trim();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "name",
                format!("must be 1 to {NAME_BYTES_MAX} bytes of text without control characters"),
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

/// A token or password of a gateway. An empty one counts as none: the ancestors' forms send it so.
#[derive(Clone)]
pub(super) struct GatewaySecret(Secret);

impl GatewaySecret {
    pub(super) fn given(&self) -> Option<Secret> {
        (!self.0.is_empty()).then(|| self.0.clone())
    }
}

impl FromStr for GatewaySecret {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        if value.len() > SECRET_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(Error::invalid(
                "token",
                format!("must be at most {SECRET_BYTES_MAX} bytes of text without control characters"),
            ));
        }
        Ok(Self(Secret::new(value)))
    }
}

macro_rules! read_as_text {
    ($($name:ident),+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
                value.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

read_as_text!(Name, GatewayUrl, GatewaySecret);

/// Tells a field that was sent as `null` from one that was not sent: `null` clears, nothing leaves it as it is.
pub(super) fn sent<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_from_the_name() {
        let first = |name: &str| candidates(name).into_iter().take(2).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(first("Ann's Lab (2)"), ["ann-s-lab-2", "ann-s-lab-2-2"]);
        assert_eq!(first("Büro"), ["b-ro", "b-ro-2"]);
        assert_eq!(first("федерация"), ["gateway", "gateway-2"]);
        // Reserved, so the next one is taken.
        assert_eq!(first("Federated"), ["federated-2", "federated-3"]);
        assert_eq!(candidates(&"x".repeat(200)).len(), CANDIDATES);
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert!("".parse::<GatewaySecret>().expect("fine").given().is_none());
        assert!("x".parse::<GatewaySecret>().expect("fine").given().is_some());
        assert!("x\ny".parse::<GatewaySecret>().is_err());
    }
}

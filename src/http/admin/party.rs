//! Parties, as the admin API shows and names them.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::error::Error;
use crate::domain::ids::PartyId;
use crate::domain::party::{Party, PartyKind};
use crate::http::fields;
use crate::store::{Db, parties};

/// Someone who speaks or receives.
#[derive(Serialize, ToSchema)]
#[schema(as = Party)]
pub(in crate::http) struct PartyView {
    /// `gateway`, `agent`, `user`, `member`, `channel` or `system`.
    kind: &'static str,
    id: String,
    name: String,
}

impl From<&Party> for PartyView {
    fn from(party: &Party) -> Self {
        Self { kind: party.kind.as_str(), id: party.reference.clone(), name: party.display_name.clone() }
    }
}

/// Whom a caller means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(super) enum PartyName {
    /// The party's own UUID.
    Id(PartyId),
    /// What it stands for, as [`PartyView`] shows it.
    Of { kind: PartyKind, id: String },
}

impl PartyName {
    /// Finds who is meant.
    pub(super) fn find(&self, db: &mut Db) -> Result<Option<Party>, Error> {
        match self {
            Self::Id(id) => parties::get(db, *id),
            Self::Of { kind, id } => parties::find(db, *kind, id),
        }
    }

    fn of(kind: &str, id: &str) -> Option<Self> {
        let kind = (0..=16).filter_map(PartyKind::from_code).find(|known| known.as_str() == kind)?;
        Some(Self::Of { kind, id: id.to_owned() })
    }

    /// Reads `kind:id` or a party's UUID.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some((kind, id)) => Self::of(kind, id),
            None => text.parse().ok().map(Self::Id),
        }
    }
}

/// A party as answers show it; its name may be left out and is not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    kind: String,
    id: String,
    #[expect(dead_code, reason = "known, so that a party can be sent back as it came")]
    name: Option<String>,
}

impl TryFrom<Value> for PartyName {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let named = match value {
            Value::String(text) => Self::of_text(&text),
            value => fields::of_value(value).ok().and_then(|Shown { kind, id, .. }| Self::of(&kind, &id)),
        };
        named.ok_or_else(|| {
            "must be a party: `kind:id`, for example `gateway:default`, its UUID, or `{kind, id}`".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_party_is_named_in_three_ways() {
        let gateway = PartyName::Of { kind: PartyKind::Gateway, id: "default".to_owned() };
        for value in [
            json!("gateway:default"),
            json!({ "kind": "gateway", "id": "default" }),
            json!({ "kind": "gateway", "id": "default", "name": "Any" }),
        ] {
            assert_eq!(PartyName::try_from(value), Ok(gateway.clone()));
        }
        let id = PartyId::new();
        assert_eq!(PartyName::try_from(json!(id)), Ok(PartyName::Id(id)));
        for wrong in [
            json!("default"),
            json!("robot:x"),
            json!(1),
            json!([]),
            json!(["gateway", "default", "x"]),
            json!({ "kind": "gateway" }),
            json!({ "kind": "robot", "id": "x" }),
            json!({ "kind": "gateway", "id": "x", "extra": 1 }),
        ] {
            assert!(PartyName::try_from(wrong.clone()).is_err(), "{wrong}");
        }
    }
}

//! Finds the agent that a sender names.
use serde_json::json;

use crate::domain::agent::{Agent, fold};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::AgentId;
use crate::domain::routing_target::{Candidate, Query, Resolved, resolve};
use crate::store::{Db, agents};

/// Longest name that is looked for, in characters; nobody has a longer one.
const CHARS_MAX: usize = 128;
/// Agents that are named where several are meant.
const NAMED_MAX: usize = 10;
/// Agents that are read: one may be the sender, and one more tells that there are too many to name.
const READ_MAX: i64 = NAMED_MAX as i64 + 2;

/// Whom a sender means.
#[derive(Debug)]
pub(super) enum Meant {
    One(AgentId),
    /// All of these fit equally well; nobody guesses.
    Several(Vec<Agent>),
    Nobody,
}

/// Finds whom `sender` means by `text`: by id, slug or exact name, and only where there is none such by a part of the
/// name, in any case.
pub(super) fn find(db: &mut Db, sender: AgentId, text: &str) -> Result<Meant, Error> {
    if text.chars().count() > CHARS_MAX {
        return Ok(Meant::Nobody);
    }
    let folded = fold(text);
    let exact = exact(db, text)?;
    let found =
        if exact.iter().any(|agent| agent.id != sender) { exact } else { agents::part_of_name(db, &folded, READ_MAX)? };
    Ok(chosen(sender, text, &folded, found))
}

fn exact(db: &mut Db, text: &str) -> Result<Vec<Agent>, Error> {
    let mut found = Vec::new();
    if let Ok(id) = text.parse() {
        found.extend(agents::get(db, id)?);
    }
    found.extend(agents::by_slug(db, text)?);
    found.extend(agents::by_name(db, text, READ_MAX)?);
    // One may be found in two ways.
    found.sort_by_key(|agent| agent.id);
    found.dedup_by_key(|agent| agent.id);
    Ok(found)
}

fn chosen(sender: AgentId, text: &str, folded: &str, found: Vec<Agent>) -> Meant {
    let candidates: Vec<Candidate<AgentId>> = found.iter().map(candidate).collect();
    let several: Vec<AgentId> = match resolve(&Query { text, folded, sender }, &candidates) {
        Resolved::Found(one) => return Meant::One(one.id),
        Resolved::Nobody => return Meant::Nobody,
        Resolved::Several(several) => several.iter().map(|one| one.id).collect(),
    };
    Meant::Several(found.into_iter().filter(|agent| several.contains(&agent.id)).collect())
}

fn candidate(agent: &Agent) -> Candidate<AgentId> {
    Candidate {
        id: agent.id,
        slug: agent.slug.clone(),
        name: agent.name.clone(),
        folded: fold(&agent.name),
        related: false,
    }
}

/// Refuses a name that means nobody, in the ancestor's words.
pub(super) fn nobody(text: &str) -> Error {
    let shown: String = text.chars().take(CHARS_MAX).collect();
    Error::new(ErrorCode::NotFound, format!("Target '{shown}' not found. Check your relationships list."))
}

/// Refuses a name that means several, and names them.
pub(super) fn several(text: &str, agents: &[Agent]) -> Error {
    let shown: Vec<serde_json::Value> = agents
        .iter()
        .take(NAMED_MAX)
        .map(|agent| json!({ "id": agent.id, "slug": agent.slug, "name": agent.name, "type": agent.kind }))
        .collect();
    Error::new(ErrorCode::AmbiguousTarget, format!("'{text}' may mean several; name one by its slug or its id"))
        .with_details(json!({ "candidates": shown }))
}

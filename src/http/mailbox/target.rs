//! Finds whom a sender names: another agent, or a person that it knows.
use serde_json::json;

use crate::config::Reach;
use crate::domain::agent::{Agent, fold};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{AgentId, MemberId};
use crate::domain::member::{HUMAN, Known, Member};
use crate::domain::routing_target::{Candidate, Query, Resolved, resolve};
use crate::store::relationships::{self, Called};
use crate::store::{Db, agents};

/// Longest name that is looked for, in characters; nobody has a longer one.
const CHARS_MAX: usize = 128;
/// Those that are named where several are meant.
const NAMED_MAX: usize = 10;
/// Those that are read: one may be the sender, and one more tells that there are too many to name.
const READ_MAX: i64 = NAMED_MAX as i64 + 2;

/// Who looks for somebody.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) id: AgentId,
    /// Which other agents it may write to.
    pub(super) reach: Reach,
    /// By which channel, in lower case; nothing if it did not say.
    pub(super) channel: String,
}

/// Whom a sender means.
#[derive(Debug)]
pub(super) enum Meant {
    One(AgentId),
    Person(Box<Member>),
    /// All of these fit equally well; nobody guesses.
    Several(Vec<Choice>),
    Nobody,
}

/// One of several.
#[derive(Debug)]
pub(super) struct Choice {
    id: String,
    /// People have none.
    slug: Option<String>,
    name: String,
    kind: &'static str,
}

/// Finds whom `asker` means by `text`. Where it did not ask for a channel to people, agents go before them; only where it
/// asked for none at all, whoever is called just so goes before an agent that has it in its name.
pub(super) fn find(db: &mut Db, asker: &Asker, text: &str) -> Result<Meant, Error> {
    if text.chars().count() > CHARS_MAX {
        return Ok(Meant::Nobody);
    }
    let folded = fold(text);
    if matches!(asker.channel.as_str(), "" | "agent") {
        let mut agents = exact(db, asker, text)?;
        if !agents.iter().any(|(agent, _)| agent.id != asker.id) {
            let people = if asker.channel.is_empty() { called_so(db, asker, text)? } else { Vec::new() };
            if !people.is_empty() {
                return Ok(person(text, &folded, people));
            }
            agents = by_part(db, asker, &folded)?;
        }
        match agent(asker, text, &folded, agents) {
            Meant::Nobody => {}
            found => return Ok(found),
        }
    }
    let mut people = called_so(db, asker, text)?;
    if people.is_empty() {
        people = known(relationships::people(db, asker.id, Called::Part(&folded), READ_MAX)?);
    }
    Ok(person(text, &folded, people))
}

/// Chooses among agents by id, slug or exact name, and only where there is none such by a part of the name, in any case.
fn agent(asker: &Asker, text: &str, folded: &str, found: Vec<(Agent, bool)>) -> Meant {
    let candidate = |(agent, related): &(Agent, bool)| Candidate {
        id: agent.id,
        slug: agent.slug.clone(),
        name: agent.name.clone(),
        folded: fold(&agent.name),
        related: *related,
    };
    let candidates: Vec<Candidate<AgentId>> = found.iter().map(candidate).collect();
    let several: Vec<AgentId> = match resolve(&Query { text, folded, sender: Some(asker.id) }, &candidates) {
        Resolved::Found(one) => return Meant::One(one.id),
        Resolved::Nobody => return Meant::Nobody,
        Resolved::Several(several) => several.iter().map(|one| one.id).collect(),
    };
    let fitting = found.into_iter().map(|(agent, _)| agent).filter(|agent| several.contains(&agent.id));
    Meant::Several(fitting.map(Choice::agent).collect())
}

/// Reads whoever is named exactly, each with whether the asker knows it: one by its id or slug, else those of the name,
/// and of them the others only where the asker knows none.
fn exact(db: &mut Db, asker: &Asker, text: &str) -> Result<Vec<(Agent, bool)>, Error> {
    let by_id = match text.parse() {
        Ok(id) => agents::get(db, id)?,
        Err(_) => None,
    };
    let addressed = if by_id.is_some() { by_id } else { agents::by_slug(db, text)? };
    if let Some(agent) = addressed.filter(|agent| agent.id != asker.id) {
        let is_known = relationships::knows(db, asker.id, &Known::Agent(agent.id))?;
        if is_known || asker.reach == Reach::All {
            return Ok(vec![(agent, is_known)]);
        }
    }
    // However many others have the name.
    let known = relationships::agents(db, asker.id, Called::Just(text), READ_MAX)?;
    if !known.is_empty() || asker.reach == Reach::Relationships {
        return Ok(known.into_iter().map(|(_, agent)| (agent, true)).collect());
    }
    let others = agents::by_name(db, text, READ_MAX)?;
    Ok(others.into_iter().map(|agent| (agent, false)).collect())
}

/// Reads those that have a text in their names: the others only where the asker knows none.
fn by_part(db: &mut Db, asker: &Asker, folded: &str) -> Result<Vec<(Agent, bool)>, Error> {
    let known = relationships::agents(db, asker.id, Called::Part(folded), READ_MAX)?;
    if !known.is_empty() || asker.reach == Reach::Relationships {
        return Ok(known.into_iter().map(|(_, agent)| (agent, true)).collect());
    }
    let others = agents::part_of_name(db, folded, READ_MAX)?;
    Ok(others.into_iter().map(|agent| (agent, false)).collect())
}

/// Reads the people whom the asker knows by just this id or name.
fn called_so(db: &mut Db, asker: &Asker, text: &str) -> Result<Vec<Member>, Error> {
    if let Ok(id) = text.parse()
        && let Some(person) = relationships::person(db, asker.id, id)?
    {
        return Ok(vec![person]);
    }
    Ok(known(relationships::people(db, asker.id, Called::Just(text), READ_MAX)?))
}

fn known<T>(related: Vec<(T, Member)>) -> Vec<Member> {
    related.into_iter().map(|(_, person)| person).collect()
}

/// Chooses among people as among agents.
fn person(text: &str, folded: &str, mut found: Vec<Member>) -> Meant {
    let candidate = |person: &Member| Candidate {
        id: person.id,
        slug: String::new(),
        name: person.name.clone(),
        folded: fold(&person.name),
        related: true,
    };
    let candidates: Vec<Candidate<MemberId>> = found.iter().map(candidate).collect();
    let fitting: Vec<MemberId> = match resolve(&Query { text, folded, sender: None }, &candidates) {
        Resolved::Found(one) => vec![one.id],
        Resolved::Several(several) => several.iter().map(|one| one.id).collect(),
        Resolved::Nobody => return Meant::Nobody,
    };
    found.retain(|person| fitting.contains(&person.id));
    match found.pop() {
        Some(person) if found.is_empty() => Meant::Person(Box::new(person)),
        Some(person) => Meant::Several(found.into_iter().chain([person]).map(Choice::person).collect()),
        None => Meant::Nobody,
    }
}

impl Choice {
    fn agent(agent: Agent) -> Self {
        Self { id: agent.id.to_string(), slug: Some(agent.slug), name: agent.name, kind: agent.kind.as_str() }
    }

    fn person(person: Member) -> Self {
        Self { id: person.id.to_string(), slug: None, name: person.name, kind: HUMAN }
    }
}

/// Refuses a name that means nobody, in the ancestor's words.
pub(super) fn nobody(text: &str) -> Error {
    let shown: String = text.chars().take(CHARS_MAX).collect();
    Error::new(ErrorCode::NotFound, format!("Target '{shown}' not found. Check your relationships list."))
}

/// Refuses a name that means several, and names them.
pub(super) fn several(text: &str, choices: &[Choice]) -> Error {
    let shown: Vec<serde_json::Value> = choices
        .iter()
        .take(NAMED_MAX)
        .map(|one| json!({ "id": one.id, "slug": one.slug, "name": one.name, "type": one.kind }))
        .collect();
    let names = if choices.iter().all(|one| one.slug.is_some()) { "its slug or its id" } else { "its id" };
    Error::new(ErrorCode::AmbiguousTarget, format!("'{text}' may mean several; name one by {names}"))
        .with_details(json!({ "candidates": shown }))
}

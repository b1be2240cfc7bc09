//! Asks the mailbox of an agent for messages, and waits for them if the caller does.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::actors::agent_mailbox::{Answer, Ask, Card, Leased, OpenMailbox, Place, Poll, Ticket};
use crate::actors::agent_session::Picked;
use crate::domain::agent::AgentFacts;
use crate::domain::error::{Error, ErrorCode};
use crate::http::middleware::not_answering;
use crate::http::state::AppState;

/// How often a mailbox that has gone is opened again for one call.
const OPENED_MAX: usize = 3;
/// Longest wait for the mailbox's answer of a poll that does not wait for a message.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a poll brought.
pub(super) struct Polled {
    /// The messages that are leased now, with the ticket that stands for them.
    pub(super) handed_out: Option<(Vec<Leased>, Ticket)>,
    pub(super) remaining: usize,
    pub(super) is_paused: bool,
}

impl Polled {
    fn nothing(remaining: usize, is_paused: bool) -> Self {
        Self { handed_out: None, remaining, is_paused }
    }
}

/// Polls for at most `wait`; a poll that does not wait is answered from the agent's card if nothing is there.
pub(super) async fn poll(state: &AppState, agent: &Arc<AgentFacts>, ask: Ask, wait: Duration) -> Result<Polled, Error> {
    let until = Instant::now() + if ask.waits { wait } else { ANSWER_MAX };
    let mut place = None;
    let mut opened = 0;
    loop {
        let card = card(state, agent).await?;
        if !ask.waits && card.is_quiet() {
            return Ok(Polled::nothing(0, card.is_paused()));
        }
        if ask.waits && place.is_none() {
            place = Some(take_place(state, &card)?);
        }
        let (reply, answer) = oneshot::channel();
        card.poll(Poll { ask, reply })?;
        let Some(answered) = in_time(answer, until).await else {
            check(state)?;
            // It is not known that nothing is there: the store could not be read, or the mailbox is overrun.
            if !ask.waits || !card.is_loaded() {
                return Err(Error::store_busy());
            }
            return Ok(Polled::nothing(0, card.is_paused()));
        };
        let Ok(answered) = answered else {
            check(state)?;
            if !state.directory.agents().knows(agent.id) {
                return Err(Error::new(ErrorCode::Unauthenticated, "Invalid API key"));
            }
            opened += 1;
            if opened == OPENED_MAX {
                return Err(Error::store_busy());
            }
            continue;
        };
        // What ended all keys may be that this node stands by now.
        let Answer { ticket, remaining, is_paused } = answered.or_else(|error| check(state).and(Err(error)))?;
        let Some(mut ticket) = ticket else {
            return Ok(Polled::nothing(remaining, is_paused));
        };
        let leased = ticket.leased().await?;
        if !leased.is_empty() {
            return Ok(Polled { handed_out: Some((leased, ticket)), remaining, is_paused });
        }
        // The writer knew better about all of it: the rest of the time is still the caller's.
        if !ask.waits || Instant::now() >= until {
            return Ok(Polled::nothing(remaining, is_paused));
        }
    }
}

/// Polls until there is something, however long that takes: for a socket, which has a place of its own. `picked` tells
/// while something is on its way.
pub(super) async fn stand(
    state: &AppState,
    agent: &Arc<AgentFacts>,
    ask: Ask,
    picked: &Picked,
) -> Result<(Vec<Leased>, Ticket), Error> {
    let mut opened = 0;
    loop {
        let card = card(state, agent).await?;
        let (reply, answer) = oneshot::channel();
        card.poll(Poll { ask, reply })?;
        let Ok(answered) = answer.await else {
            check(state)?;
            if !state.directory.agents().knows(agent.id) {
                return Err(Error::new(ErrorCode::Unauthenticated, "Invalid API key"));
            }
            opened += 1;
            if opened == OPENED_MAX {
                return Err(Error::store_busy());
            }
            continue;
        };
        // What ended all keys may be that this node stands by now.
        let Answer { ticket, .. } = answered.or_else(|error| check(state).and(Err(error)))?;
        let Some(mut ticket) = ticket else { return Err(Error::store_busy()) };
        picked.set(true);
        let leased = ticket.leased().await;
        picked.set(leased.as_ref().is_ok_and(|leased| !leased.is_empty()));
        let leased = leased?;
        if !leased.is_empty() {
            return Ok((leased, ticket));
        }
        // The writer knew better about all of it.
    }
}

/// Finds the mailbox, or has it opened.
pub(super) async fn card(state: &AppState, agent: &Arc<AgentFacts>) -> Result<Arc<Card>, Error> {
    let card = match state.directory.agents().cards().of(agent.id) {
        Some(card) => card,
        None => state.mailboxes.send(OpenMailbox(agent.clone())).await.map_err(|_| stopping())??,
    };
    card.note_call();
    Ok(card)
}

fn take_place(state: &AppState, card: &Arc<Card>) -> Result<Place, Error> {
    let limits = &state.config.limits;
    let (of_agent_max, max) = (limits.waiting_polls_per_agent_max, limits.waiting_polls_max);
    let place = state.directory.agents().cards().place(card, of_agent_max, max);
    place.ok_or_else(|| {
        Error::new(
            ErrorCode::RateLimited,
            format!("too many polls wait: {of_agent_max} of one agent are allowed, and {max} of all"),
        )
    })
}

type Answered = Result<Result<Answer, Error>, oneshot::error::RecvError>;

/// Waits for the mailbox until that time. `None`: it is over.
async fn in_time(mut answer: oneshot::Receiver<Result<Answer, Error>>, until: Instant) -> Option<Answered> {
    if let Ok(answered) = timeout_at(until, &mut answer).await {
        return Some(answered);
    }
    // What comes from now on is refused, and given back; what has come is the caller's.
    answer.close();
    answer.try_recv().ok().map(Ok)
}

/// Checks that this node may still answer: an answer from memory is only true while it does.
pub(super) fn check(state: &AppState) -> Result<(), Error> {
    not_answering(state).map_or(Ok(()), Err)
}

fn stopping() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the server is stopping; try again in a moment")
}

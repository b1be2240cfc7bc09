//! One-use tickets for WebSockets: browsers cannot send a bearer header there, and a URL is no place for a token.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::digest;
use crate::domain::error::Error;
use crate::domain::user::Caller;

type Digest = [u8; 32];

#[derive(Default)]
struct Issued {
    callers: HashMap<Digest, (Arc<Caller>, Instant)>,
    /// In order of issue, which is the order of expiry: all live equally long.
    order: VecDeque<(Instant, Digest)>,
}

/// The tickets that were issued and not yet used. Only their digests are kept.
pub struct Tickets {
    ttl: Duration,
    tickets_max: usize,
    issued: Mutex<Issued>,
}

impl Tickets {
    pub fn new(ttl: Duration, tickets_max: usize) -> Self {
        Self { ttl, tickets_max: tickets_max.max(1), issued: Mutex::default() }
    }

    /// How long a ticket lasts.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes a ticket of 256 random bits that stands for `caller` once.
    pub fn issue(&self, caller: Arc<Caller>) -> Result<String, Error> {
        let mut bits = [0_u8; 32];
        getrandom::fill(&mut bits).map_err(|_| Error::internal("no randomness"))?;
        let ticket = URL_SAFE_NO_PAD.encode(bits);
        let (key, now) = (digest(&ticket), Instant::now());
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let Issued { callers, order } = &mut *issued;
        while let Some((until, oldest)) = order.front().copied() {
            // A used ticket keeps its place in the order until it would have expired; that is bounded, too.
            if until > now && order.len() < self.tickets_max {
                break;
            }
            callers.remove(&oldest);
            order.pop_front();
        }
        callers.insert(key, (caller, now + self.ttl));
        order.push_back((now + self.ttl, key));
        Ok(ticket)
    }

    /// Takes a ticket; it is worth nothing afterwards.
    pub fn redeem(&self, ticket: &str) -> Option<Arc<Caller>> {
        let key = digest(ticket);
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let (caller, until) = issued.callers.remove(&key)?;
        (until > Instant::now()).then_some(caller)
    }

    /// Returns how many tickets wait to be used.
    pub fn waiting(&self) -> usize {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).callers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{PartyId, UserId};
    use crate::domain::user::Role;

    fn caller() -> Arc<Caller> {
        Arc::new(Caller {
            user_id: UserId::new(),
            party_id: PartyId::new(),
            name: "ann".into(),
            role: Role::Member,
            token_id: None,
            expires_at: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_works_once_and_not_for_long() {
        let tickets = Tickets::new(Duration::from_secs(30), 10);
        let ann = caller();
        let ticket = tickets.issue(ann.clone()).expect("issued");
        assert_eq!(ticket.len(), 43);
        assert_eq!(tickets.redeem(&ticket), Some(ann.clone()));
        assert_eq!(tickets.redeem(&ticket), None, "used");
        let late = tickets.issue(ann).expect("issued");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(tickets.redeem(&late), None, "expired");
        assert_eq!(tickets.redeem("nonsense"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_ticket_goes_when_there_are_too_many() {
        let tickets = Tickets::new(Duration::from_secs(30), 2);
        let issued: Vec<String> = (0..3).map(|_| tickets.issue(caller()).expect("issued")).collect();
        assert_eq!(tickets.waiting(), 2);
        assert!(tickets.redeem(&issued[0]).is_none());
        assert!(tickets.redeem(&issued[1]).is_some());
        assert!(tickets.redeem(&issued[2]).is_some());
    }
}

//! Sending one message: leased first, carried part by part, ended with what the provider said.
//!
//! Invariants
//! - DLV-1: nothing is sent without a lease, and a lease is taken once.
//! - D5: before each request the node's own lease is looked at; past it nothing is sent and nothing is written.
//! - What may have arrived is not sent again, unless the provider recognises it by our id.
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::carry::{Carried, Carrier};
use super::pace::Pace;
use crate::actors::channels::LiveChannel;
use crate::actors::directory::Directory;
use crate::channels::setup::Provider;
use crate::channels::{Answer, Outcome, Outgoing, Repeat, Step, Token};
use crate::domain::clock::Clock;
use crate::domain::delivery::{backoff_ms, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::DeliveryId;
use crate::store::channels::{Arrived, EndSend, LeaseSend, Letter, RetrySend, SendEnd, letter};
use crate::store::{Command, Store};

/// How often a part of a message is tried while the rest of it is out already.
const PART_TRIES: i32 = 5;
/// Wait before something is asked of a store again that could not do it.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Longest reason that is stored, in characters.
const REASON_CHARS_MAX: usize = 500;

/// What the sendings of one channel share.
pub(super) struct Desk {
    pub(super) live: Arc<LiveChannel>,
    pub(super) store: Store,
    pub(super) directory: Arc<Directory>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) carrier: Carrier,
    pub(super) pace: RefCell<Pace>,
    token: RefCell<Option<(Token, Instant)>>,
    /// Held by whoever asks for a token: the others wait and use it.
    asking: tokio::sync::Mutex<()>,
    pub(super) in_flight: Cell<usize>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Sent,
    /// Dead, in the provider's words.
    Failed(String),
    /// Dead: nobody knows whether it arrived.
    Unknown(String),
    /// Given back for a reason that passes.
    Passing(String),
    /// Somebody else has moved it, or it must wait; its events tell.
    NotNow,
    /// The store could not say; it is tried again.
    StoreFailed,
}

/// How the steps of a message ended.
enum Verdict {
    Sent,
    Permanent(String),
    /// Before anything was out; with how long the provider asks to wait.
    Passing(Option<u64>, String),
    Unknown(String),
    /// This node may not send any more.
    LostLease,
}

impl Desk {
    pub(super) fn new(
        live: Arc<LiveChannel>,
        store: Store,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        patience: Duration,
    ) -> Self {
        Self {
            pace: RefCell::new(Pace::new(live.provider.channel().limits())),
            live,
            store,
            directory,
            clock,
            carrier: Carrier::new(patience),
            token: RefCell::new(None),
            asking: tokio::sync::Mutex::new(()),
            in_flight: Cell::new(0),
        }
    }

    /// Tells whether this node may still act for the database.
    pub(super) fn may_act(&self) -> bool {
        self.directory.lease_holds(self.clock.now_ms())
    }

    /// For how long the provider recognises a repeat, in milliseconds; 0 if it does not.
    pub(super) fn repeat_ms(&self) -> i64 {
        match self.live.provider.channel().repeat() {
            Repeat::Never => 0,
            Repeat::WithinMs(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
            Repeat::Always => i64::MAX,
        }
    }

    /// Sends one message.
    pub(super) async fn send(&self, id: DeliveryId) -> Done {
        let channel = self.live.channel.clone();
        let letter = match self.store.read(move |db| letter(db, &channel, id)).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Done::NotNow,
            Err(error) => {
                log::warn!("a message to a person cannot be read: {}", error.cause());
                return Done::StoreFailed;
            }
        };
        let Some(first) = letter.to.first() else {
            let words = format!("the person has no address for {}", self.live.channel.kind.as_str());
            let end = self.end(id, letter.delivery.attempt, Vec::new(), SendEnd::Dead(words.clone()));
            return if end.await { Done::Failed(words) } else { Done::NotNow };
        };
        self.wait_for_turn(first.as_str()).await;
        if !self.may_act() {
            return Done::NotNow;
        }
        let attempt = match self.store.write(LeaseSend { channel_id: self.live.channel.id, id }).await {
            Ok(Some(attempt)) => attempt,
            Ok(None) => return Done::NotNow,
            Err(_) => return Done::StoreFailed,
        };
        let first_leased_at = letter.first_leased_at.unwrap_or_else(|| self.clock.now_ms());
        let again_until = first_leased_at.saturating_add(self.repeat_ms());
        let mut arrived = Vec::new();
        let verdict = self.steps(&letter, again_until, &mut arrived).await;
        self.settle(&letter, attempt, again_until, arrived, verdict).await
    }

    /// Writes down how it ended.
    async fn settle(
        &self,
        letter: &Letter,
        attempt: i32,
        again_until: i64,
        arrived: Vec<Arrived>,
        verdict: Verdict,
    ) -> Done {
        let id = letter.delivery.id;
        let nothing_is_out = arrived.is_empty();
        let retry = |after_ms: Option<u64>, why: String| {
            let asked = after_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0);
            let wait_ms = backoff_ms(attempt).max(asked);
            RetrySend { channel_id: self.live.channel.id, id, attempt, wait_ms, why: bounded(&why) }
        };
        let (written, done) = match verdict {
            Verdict::LostLease => return Done::NotNow,
            Verdict::Sent => (self.end(id, attempt, arrived, SendEnd::Sent).await, Done::Sent),
            Verdict::Permanent(why) => {
                (self.end(id, attempt, arrived, SendEnd::Dead(bounded(&why))).await, Done::Failed(why))
            }
            Verdict::Passing(after_ms, why) => (self.write(|| retry(after_ms, why.clone())).await, Done::Passing(why)),
            Verdict::Unknown(why)
                if nothing_is_out && self.clock.now_ms() < again_until && attempt < letter.delivery.attempts_max =>
            {
                (self.write(|| retry(None, why.clone())).await, Done::Passing(why))
            }
            Verdict::Unknown(why) => {
                log::warn!(channel:% = self.live.channel.id, delivery:% = id; "whether a message arrived is not known: {why}");
                let end = SendEnd::Dead(reason::OUTCOME_UNKNOWN.to_owned());
                (self.end(id, attempt, arrived, end).await, Done::Unknown(why))
            }
        };
        if written { done } else { Done::NotNow }
    }

    /// Carries the parts over, one after the other, each to the first address that takes it.
    async fn steps(&self, letter: &Letter, again_until: i64, arrived: &mut Vec<Arrived>) -> Verdict {
        let channel = self.live.provider.channel();
        let subject = format!("Message from {}", letter.from);
        let parts = channel.parts(&letter.text);
        let mut step = Step::default();
        let mut tries = 0;
        while step.part < parts {
            if step != Step::default() {
                let address = letter.to.get(step.address).map_or("", |address| address.as_str());
                self.wait_for_turn(address).await;
            }
            if !self.may_act() {
                return Verdict::LostLease;
            }
            let token = match self.token().await {
                Ok(token) => token,
                Err(Outcome::Permanent { why }) => return Verdict::Permanent(why),
                Err(outcome) if arrived.is_empty() => {
                    let (after_ms, why) = passing(outcome);
                    return Verdict::Passing(after_ms, why);
                }
                Err(outcome) => match self.rest(&mut tries, passing(outcome)).await {
                    Some(verdict) => return verdict,
                    None => continue,
                },
            };
            if !self.may_act() {
                return Verdict::LostLease;
            }
            let out = Outgoing {
                id: letter.delivery.id,
                to: &letter.to,
                text: &letter.text,
                from: &letter.from,
                subject: &subject,
                conversation_id: letter.conversation_id,
                created_at: letter.created_at,
                now_ms: self.clock.now_ms(),
                reply_to: letter.reply_to.as_deref(),
            };
            let request = match channel.request(&out, step, token.as_ref()) {
                Ok(request) => request,
                Err(why) => return Verdict::Permanent(why),
            };
            let answer = match self.carrier.carry(request, self.reach()).await {
                Carried::Answer(answer) => answer,
                Carried::Refused(why) => return Verdict::Permanent(why),
            };
            match channel.outcome(&out, step, &answer) {
                Outcome::Sent { external_id, chat } => {
                    arrived.push(Arrived { chat, external_id });
                    step = step.next_part();
                    tries = 0;
                }
                Outcome::RenewToken { .. } => {
                    *self.token.borrow_mut() = None;
                    step = step.renewed();
                }
                Outcome::NextAddress { .. } => step = step.next_address(),
                Outcome::Permanent { why } => return Verdict::Permanent(why),
                Outcome::Retry { after_ms, why } if arrived.is_empty() => return Verdict::Passing(after_ms, why),
                Outcome::Retry { after_ms, why } => {
                    if let Some(verdict) = self.rest(&mut tries, (after_ms, why)).await {
                        return verdict;
                    }
                }
                Outcome::Unknown { why } if arrived.is_empty() || self.clock.now_ms() >= again_until => {
                    return Verdict::Unknown(why);
                }
                Outcome::Unknown { why } => {
                    if self.rest(&mut tries, (None, why.clone())).await.is_some() {
                        return Verdict::Unknown(why);
                    }
                }
            }
        }
        Verdict::Sent
    }

    /// Waits before a part is tried again of which others are out already; after some tries it is given up.
    async fn rest(&self, tries: &mut i32, (after_ms, why): (Option<u64>, String)) -> Option<Verdict> {
        *tries += 1;
        if *tries >= PART_TRIES {
            return Some(Verdict::Permanent(format!("a part of it was sent, the rest was not: {why}")));
        }
        let wait = u64::try_from(backoff_ms(*tries)).unwrap_or(0).max(after_ms.unwrap_or(0));
        sleep(Duration::from_millis(wait)).await;
        None
    }

    /// Waits until the provider allows one more message to this address.
    async fn wait_for_turn(&self, address: &str) {
        loop {
            let taken = self.pace.borrow_mut().take(address, Instant::now());
            match taken {
                Ok(()) => return,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    /// Returns the token that counts now, asked for if there is none. A failure is `Retry` or `Permanent`.
    async fn token(&self) -> Result<Option<Token>, Outcome> {
        let channel = self.live.provider.channel();
        let Some(request) = channel.token_request() else { return Ok(None) };
        let _turn = self.asking.lock().await;
        let known = self.token.borrow().clone();
        if let Some((token, until)) = known
            && Instant::now() < until
        {
            return Ok(Some(token));
        }
        let asked = Instant::now();
        let answer: Answer = self.carrier.http(request, None).await;
        let token = channel.token(&answer)?;
        let until = asked + Duration::from_secs(token.expires_in_s);
        *self.token.borrow_mut() = Some((token.clone(), until));
        Ok(Some(token))
    }

    /// Where this channel may go, if its addresses were written by anybody.
    fn reach(&self) -> Option<crate::channels::ssrf::Reach> {
        match &self.live.provider {
            Provider::Webhook(webhook) => Some(webhook.reach),
            Provider::Feishu(_) | Provider::Telegram { .. } | Provider::WhatsApp(_) | Provider::Email(_) => None,
        }
    }

    async fn end(&self, id: DeliveryId, attempt: i32, arrived: Vec<Arrived>, end: SendEnd) -> bool {
        let channel_id = self.live.channel.id;
        self.write(|| EndSend { channel_id, id, attempt, arrived: arrived.clone(), end: end.clone() }).await
    }

    /// Writes until it is on disk: what was sent must not be forgotten. Tells whether it is; this node may have lost its
    /// lease, and then the next one settles it.
    pub(super) async fn write<C: Command>(&self, command: impl Fn() -> C) -> bool {
        loop {
            match self.store.write(command()).await {
                Ok(_) => return true,
                Err(error) if passes(&error) && self.may_act() => sleep(STORE_RETRY).await,
                Err(error) => {
                    log::error!(channel:% = self.live.channel.id; "the end of a sending was not written: {}", error.cause());
                    return false;
                }
            }
        }
    }
}

fn passes(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::StoreBusy | ErrorCode::StorageFull)
}

/// Reads a failure that passes.
fn passing(outcome: Outcome) -> (Option<u64>, String) {
    match outcome {
        Outcome::Retry { after_ms, why } => (after_ms, why),
        Outcome::Sent { .. } => (None, String::new()),
        Outcome::RenewToken { why }
        | Outcome::NextAddress { why }
        | Outcome::Permanent { why }
        | Outcome::Unknown { why } => (None, why),
    }
}

fn bounded(why: &str) -> String {
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}

//! Sending one message: leased first, carried part by part, ended with what the provider said.
//!
//! Invariants
//! - DLV-1: nothing is sent without a lease, and a lease is taken once.
//! - D5: before each request the node's own lease is looked at; past it nothing is sent, and whoever is on the way
//!   waits: the lease comes back, or this outbox is stopped.
//! - What may have arrived is not sent again, unless the provider recognises it by our id. That is looked at before
//!   each request: the time for which it does so may end while a message waits.
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::carry::{Carried, Carrier};
use super::pace::Pace;
use super::places::{Place, Places};
use super::token::Shared;
use super::window::Window;
use crate::actors::channels::LiveChannel;
use crate::actors::directory::Directory;
use crate::channels::setup::Provider;
use crate::channels::{Answer, Outcome, Outgoing, Repeat, Step, Token};
use crate::domain::clock::Clock;
use crate::domain::delivery::{backoff_ms, reason};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::DeliveryId;
use crate::store::channels::{Arrived, EndSend, LeaseSend, Letter, RetrySend, SendEnd, letter};
use crate::store::{Command, Store, deliveries};

/// How often a part of a message is tried while the rest of it is out already.
const PART_TRIES: i32 = 5;
/// Wait before something is asked of a store again that could not do it.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often whoever waits looks at what it waits for.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a turn that is waited out where this outbox leaves: a stop waits a little longer.
const TURN_WHEN_LEAVING: Duration = Duration::from_secs(2);
/// Why a message ends that cannot be read.
const UNREADABLE: &str = "what is stored of it cannot be read";
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
    token: RefCell<Shared>,
    /// Held by whoever asks for a token: the others wait and use it.
    asking: tokio::sync::Mutex<()>,
    /// Messages that are on their way.
    pub(super) in_flight: Cell<usize>,
    pub(super) places: Places,
    /// Nothing new is sent, and what is on its way comes to an end soon.
    pub(super) leaving: Cell<bool>,
    /// Something could not be written down: what is leased must be settled as at a start.
    pub(super) broken: Cell<bool>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Sent,
    /// Dead, in the provider's words.
    Failed(String),
    /// Dead, for a reason of ours: it was not asked of the provider.
    Refused(String),
    /// Dead: nobody knows whether it arrived.
    Unknown(String),
    /// The same, and the provider was not asked again.
    Lapsed(String),
    /// Given back for a reason that passes; with how long the provider asks to wait, in milliseconds.
    Passing(Option<u64>, String),
    /// It is not the turn of its address yet.
    NotYet(String),
    /// Somebody else has moved it, or it must wait; its events tell.
    NotNow,
    /// The store could not say; it is tried again.
    StoreFailed,
}

/// How the steps of a message ended.
enum Verdict {
    Sent,
    Permanent(String),
    /// It cannot be asked of the provider.
    Refused(String),
    /// Before anything was out; with how long the provider asks to wait.
    Passing(Option<u64>, String),
    /// The same with a part that is out.
    Partly(Option<u64>, String),
    Unknown(String),
}

impl Desk {
    pub(super) fn new(
        live: Arc<LiveChannel>,
        store: Store,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        patience: Duration,
        in_flight_max: usize,
    ) -> Self {
        Self {
            pace: RefCell::new(Pace::new(live.provider.channel().limits())),
            live,
            store,
            directory,
            clock,
            carrier: Carrier::new(patience),
            token: RefCell::default(),
            asking: tokio::sync::Mutex::new(()),
            in_flight: Cell::new(0),
            places: Places::new(in_flight_max),
            leaving: Cell::new(false),
            broken: Cell::new(false),
        }
    }

    /// Tells whether this node may still act for the database.
    pub(super) fn may_act(&self) -> bool {
        self.directory.lease_holds(self.clock.now_ms())
    }

    /// Waits until it may. A node whose lease is lost stops this outbox meanwhile.
    async fn until_may_act(&self) {
        while !self.may_act() {
            sleep(LOOK).await;
        }
    }

    /// For how long the provider recognises a repeat, in milliseconds; 0 if it does not.
    pub(super) fn repeat_ms(&self) -> i64 {
        match self.live.provider.channel().repeat() {
            Repeat::Never => 0,
            Repeat::WithinMs(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
            Repeat::Always => i64::MAX,
        }
    }

    /// Sends one message, which holds a place.
    pub(super) async fn send(&self, id: DeliveryId, mut place: Place) -> Done {
        let channel = self.live.channel.clone();
        let letter = match self.store.read(move |db| letter(db, &channel, id)).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Done::NotNow,
            Err(error) if error.is_unreadable() => return self.give_up(id, &error).await,
            Err(error) => {
                log::warn!("a message to a person cannot be read: {}", error.cause());
                return Done::StoreFailed;
            }
        };
        let Some(first) = letter.to.first() else {
            let words = format!("the person has no address for {}", self.live.channel.kind.as_str());
            let end = self.end(id, letter.delivery.attempt, Vec::new(), SendEnd::Dead(words.clone()));
            return if end.await { Done::Refused(words) } else { Done::NotNow };
        };
        self.until_may_act().await;
        if self.leaving.get() {
            // The next one reads it.
            return Done::NotNow;
        }
        let first_leased_at = letter.first_leased_at.unwrap_or_else(|| self.clock.now_ms());
        let window = Window::new(first_leased_at, self.repeat_ms());
        if letter.may_have_arrived && window.is_over(self.clock.now_ms()) {
            let end = SendEnd::Dead(reason::OUTCOME_UNKNOWN.to_owned());
            let written = self.end(id, letter.delivery.attempt, Vec::new(), end).await;
            return if written { Done::Lapsed(lapsed()) } else { Done::NotNow };
        }
        let turn = self.pace.borrow_mut().take(first.as_str(), Instant::now());
        if turn.is_err() {
            return Done::NotYet(first.as_str().to_owned());
        }
        let attempt = match self.store.write(LeaseSend { channel_id: self.live.channel.id, id }).await {
            Ok(Some(attempt)) => attempt,
            Ok(None) => return Done::NotNow,
            Err(_) => return Done::StoreFailed,
        };
        let mut arrived = Vec::new();
        let verdict = self.steps(&letter, window, &mut place, &mut arrived).await;
        self.settle(&letter, attempt, window, arrived, verdict).await
    }

    /// Ends a message that cannot be read: it would hold up its conversation for ever.
    async fn give_up(&self, id: DeliveryId, error: &Error) -> Done {
        log::error!(delivery:% = id; "a message to a person cannot be read and is given up: {}", error.cause());
        let stored = match self.store.read(move |db| deliveries::get(db, id)).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Done::NotNow,
            // It is its own row: that is left as it is (STO-3).
            Err(error) if error.is_unreadable() => return Done::NotNow,
            Err(_) => return Done::StoreFailed,
        };
        let end = SendEnd::Dead(UNREADABLE.to_owned());
        let written = self.end(id, stored.delivery.attempt, Vec::new(), end).await;
        if written { Done::Refused(UNREADABLE.to_owned()) } else { Done::NotNow }
    }

    /// Writes down how it ended.
    async fn settle(
        &self,
        letter: &Letter,
        attempt: i32,
        window: Window,
        arrived: Vec<Arrived>,
        verdict: Verdict,
    ) -> Done {
        let id = letter.delivery.id;
        let wait_ms = |after_ms: Option<u64>| {
            let asked = after_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0);
            backoff_ms(attempt).max(asked)
        };
        let retry = |after_ms: Option<u64>, why: &str| {
            let wait_ms = wait_ms(after_ms);
            RetrySend { channel_id: self.live.channel.id, id, attempt, wait_ms, why: bounded(why) }
        };
        // Whether it may be repeated when it comes again.
        let again = |after_ms: Option<u64>| {
            window.may_come_again(self.clock.now_ms(), wait_ms(after_ms), attempt, letter.delivery.attempts_max)
        };
        let unknown = |why: &str| format!("{}: {why}", reason::OUTCOME_UNKNOWN);
        let is_partly_out = !arrived.is_empty();
        let told = |why: String| {
            if is_partly_out { format!("a part of it was sent, the rest was not: {why}") } else { why }
        };
        let (written, done) = match verdict {
            Verdict::Sent => (self.end(id, attempt, arrived, SendEnd::Sent).await, Done::Sent),
            Verdict::Permanent(why) => {
                let words = told(why);
                (self.end(id, attempt, arrived, SendEnd::Dead(bounded(&words))).await, Done::Failed(words))
            }
            Verdict::Refused(why) => {
                let words = told(why);
                (self.end(id, attempt, arrived, SendEnd::Dead(bounded(&words))).await, Done::Refused(words))
            }
            Verdict::Passing(after_ms, why) => {
                (self.write(|| retry(after_ms, &why)).await, Done::Passing(after_ms, why))
            }
            Verdict::Partly(after_ms, why) if again(after_ms) => {
                (self.write(|| retry(after_ms, &unknown(&why))).await, Done::Passing(after_ms, why))
            }
            Verdict::Partly(_, why) => {
                let words = told(why);
                (self.end(id, attempt, arrived, SendEnd::Dead(bounded(&words))).await, Done::Refused(words))
            }
            Verdict::Unknown(why) if again(None) => {
                (self.write(|| retry(None, &unknown(&why))).await, Done::Passing(None, why))
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
    async fn steps(&self, letter: &Letter, window: Window, place: &mut Place, arrived: &mut Vec<Arrived>) -> Verdict {
        let channel = self.live.provider.channel();
        let subject = format!("Message from {}", letter.from);
        let parts = channel.parts(&letter.text);
        let mut step = Step::default();
        let mut tries = 0;
        // The next request may repeat one that has arrived.
        let mut may_repeat = letter.may_have_arrived;
        while step.part < parts {
            let address = letter.to.get(step.address).map_or("", |address| address.as_str());
            if step != Step::default() && !self.wait_for_turn(address, place).await {
                let why = "the channel was changed or stopped before it was its turn".to_owned();
                return if arrived.is_empty() { Verdict::Passing(None, why) } else { Verdict::Partly(None, why) };
            }
            self.until_may_act().await;
            let token = match self.token().await {
                Ok(token) => token,
                Err(Outcome::Permanent { why }) => return Verdict::Permanent(why),
                Err(outcome) if arrived.is_empty() => {
                    let (after_ms, why) = passing(outcome);
                    return Verdict::Passing(after_ms, why);
                }
                Err(outcome) => {
                    let (after_ms, why) = passing(outcome);
                    if self.rest(&mut tries, after_ms, place).await {
                        continue;
                    }
                    return Verdict::Partly(after_ms, why);
                }
            };
            self.until_may_act().await;
            if may_repeat && window.is_over(self.clock.now_ms()) {
                return Verdict::Unknown(lapsed());
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
                Err(why) => return Verdict::Refused(why),
            };
            let answer = match self.carrier.carry(request, self.reach()).await {
                Carried::Answer(answer) => answer,
                Carried::Refused(why) => return Verdict::Refused(why),
            };
            self.pace.borrow_mut().on_answer(address, Instant::now());
            match self.live.provider.outcome(&out, step, token.as_ref(), &answer) {
                Outcome::Sent { external_id, chat } => {
                    arrived.push(Arrived { chat, external_id });
                    step = step.next_part();
                    tries = 0;
                    may_repeat = letter.may_have_arrived;
                }
                Outcome::RenewToken { .. } => {
                    self.token.borrow_mut().forget(token.as_ref());
                    step = step.renewed();
                }
                Outcome::NextAddress { .. } => step = step.next_address(),
                Outcome::Permanent { why } => return Verdict::Permanent(why),
                Outcome::Retry { after_ms, why } if arrived.is_empty() => return Verdict::Passing(after_ms, why),
                Outcome::Retry { after_ms, why } => {
                    if !self.rest(&mut tries, after_ms, place).await {
                        return Verdict::Partly(after_ms, why);
                    }
                }
                Outcome::Unknown { why } if arrived.is_empty() || window.is_over(self.clock.now_ms()) => {
                    return Verdict::Unknown(why);
                }
                Outcome::Unknown { why } => {
                    may_repeat = true;
                    if !self.rest(&mut tries, None, place).await {
                        return Verdict::Unknown(why);
                    }
                }
            }
        }
        Verdict::Sent
    }

    /// Waits before a part is tried again of which others are out already. Tells whether it may be: after some tries it
    /// may not, nor once this outbox leaves.
    async fn rest(&self, tries: &mut i32, after_ms: Option<u64>, place: &mut Place) -> bool {
        *tries += 1;
        let wait = u64::try_from(backoff_ms(*tries)).unwrap_or(0).max(after_ms.unwrap_or(0));
        *tries < PART_TRIES && place.lend(self.sleep_until_leaving(Duration::from_millis(wait))).await
    }

    /// Waits so long; false as soon as this outbox leaves.
    async fn sleep_until_leaving(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        while !self.leaving.get() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            sleep(left.min(LOOK)).await;
        }
        false
    }

    /// Waits for the turn of another part of a message that is on its way; false if that takes long and this outbox leaves.
    async fn wait_for_turn(&self, address: &str, place: &mut Place) -> bool {
        loop {
            let turn = self.pace.borrow_mut().take(address, Instant::now());
            match turn {
                Ok(()) => return true,
                Err(wait) if wait <= TURN_WHEN_LEAVING => place.lend(sleep(wait)).await,
                Err(_) if self.leaving.get() => return false,
                // What is left of the wait then is looked at anew.
                Err(wait) => drop(place.lend(self.sleep_until_leaving(wait)).await),
            }
        }
    }

    /// Returns the token that counts now, asked for if there is none. A failure is `Retry` or `Permanent`.
    async fn token(&self) -> Result<Option<Token>, Outcome> {
        let channel = self.live.provider.channel();
        let Some(request) = channel.token_request() else { return Ok(None) };
        let _turn = self.asking.lock().await;
        let asked = Instant::now();
        let known = self.token.borrow().get(asked);
        if known.is_some() {
            return Ok(known);
        }
        let answer: Answer = self.carrier.http(request, None).await;
        let token = self.live.provider.token(&answer)?;
        self.token.borrow_mut().keep(&token, asked);
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

    /// Writes until it is on disk: what was sent must not be forgotten. Tells whether it is; this node may stand by
    /// now, or stop, and then the next start settles it.
    pub(super) async fn write<C: Command>(&self, command: impl Fn() -> C) -> bool {
        loop {
            let error = match self.store.write(command()).await {
                Ok(_) => return true,
                Err(error) => error,
            };
            if passes(&error) {
                sleep(STORE_RETRY).await;
                continue;
            }
            log::error!(channel:% = self.live.channel.id; "the end of a sending was not written: {}", error.cause());
            // A start would not read it either.
            let stays = error.is_unreadable() || matches!(error.code(), ErrorCode::Standby | ErrorCode::ShuttingDown);
            if !stays {
                self.broken.set(true);
            }
            return false;
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

fn lapsed() -> String {
    "the provider would not recognise a repeat any more".to_owned()
}

fn bounded(why: &str) -> String {
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}

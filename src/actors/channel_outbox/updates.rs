//! Asks Telegram for what people wrote, where no call of Telegram can reach us.
//!
//! Invariants
//! - A page is confirmed to Telegram only when its lines are on disk or refused for good; what comes again is known by its
//!   id. So nothing is kept of where we are: Telegram begins with what was not confirmed.
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::carry::Carrier;
use super::sending::Desk;
use crate::actors::channels::{self, Intake};
use crate::channels::telegram::{PAGE, Telegram};
use crate::channels::{Inbound, Outcome};
use crate::domain::error::{Error, ErrorCode};
use crate::store::channels::HeardAs;

/// How long Telegram waits for something to come, in seconds.
const WAIT_S: u32 = 25;
/// How long its answer may take beyond that.
const GRACE: Duration = Duration::from_secs(15);
/// Waits after failures in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Wait before a line is offered again that could not be taken in.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the lines of a page may hold up those behind them, where what stops them may never pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the actor ends, or the channel is closed: what is heard then is left with Telegram.
pub(super) async fn ask(desk: Rc<Desk>, bot: Telegram, intake: Intake) {
    let carrier = Carrier::new(Duration::from_secs(u64::from(WAIT_S)) + GRACE);
    let mut from = None;
    let mut limit = PAGE;
    let mut pause = PAUSE_MIN;
    loop {
        if !desk.may_act() {
            sleep(PAUSE_MIN).await;
            continue;
        }
        let asked = Instant::now();
        let answer = carrier.http(bot.updates_request(from, limit, WAIT_S), None).await;
        match bot.updates(&answer) {
            Ok(page) => {
                pause = PAUSE_MIN;
                limit = limit.saturating_mul(2).min(PAGE);
                let until = Instant::now() + PATIENCE;
                for line in page.lines {
                    if !hear(&desk, line, intake, until).await {
                        return;
                    }
                }
                // After an empty page all is confirmed. Telegram may begin its numbers anew, and an old one above them
                // would confirm what nobody has seen.
                from = page.offset;
                if from.is_none() {
                    // A server that does not wait must not be asked without end.
                    sleep(PAUSE_MIN.saturating_sub(asked.elapsed())).await;
                }
            }
            Err(outcome) => {
                // The page may have been too long to be read; one line is not.
                limit = 1;
                let (after_ms, why) = match outcome {
                    Outcome::Retry { after_ms, why } => (after_ms, why),
                    Outcome::Sent { .. } => (None, String::new()),
                    // A wrong token is mended by an operator, whose change begins this anew.
                    Outcome::RenewToken { why }
                    | Outcome::NextAddress { why }
                    | Outcome::Permanent { why }
                    | Outcome::Unknown { why } => (Some(60_000), why),
                };
                let why = desk.live.provider.without_secrets(&why);
                log::warn!(channel:% = desk.live.channel.id; "Telegram does not tell what people wrote: {why}");
                sleep(pause.max(Duration::from_millis(after_ms.unwrap_or(0)))).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Takes a line in; waits while the store is busy, and until then while its agent's mailbox is full or something else
/// stops it. Tells whether the channel is open.
async fn hear(desk: &Desk, line: Inbound, intake: Intake, until: Instant) -> bool {
    let id = desk.live.channel.id;
    loop {
        match desk.store.write(channels::hear(id, line.clone(), intake)).await {
            Ok(HeardAs::Closed) => return false,
            Ok(heard) => {
                desk.live.counts.count_heard(&heard);
                return true;
            }
            // What cannot be read cannot be read later, either.
            Err(error) if passes(&error) || (!error.is_unreadable() && Instant::now() < until) => {
                log::warn!(channel:% = id; "a line of a person is not taken in yet: {}", error.cause());
                sleep(AGAIN).await;
            }
            Err(error) => {
                log::error!(channel:% = id; "a line of a person is given up: {}", error.cause());
                desk.live.counts.refused.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
    }
}

/// Tells whether the store can do it when this has passed, whatever the line is.
fn passes(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::StoreBusy | ErrorCode::StorageFull | ErrorCode::Standby | ErrorCode::ShuttingDown)
}

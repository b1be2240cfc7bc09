//! Asks Telegram for what people wrote, where no call of Telegram can reach us.
//!
//! Invariants
//! - A page is asked for no more only when its lines are on disk; what comes again is known by its id.
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::carry::Carrier;
use super::sending::Desk;
use crate::actors::channels;
use crate::channels::telegram::Telegram;
use crate::channels::{Inbound, Outcome};
use crate::store::channels::KeepUpdatesFrom;
use crate::store::mailbox::MailLimits;

/// How long Telegram waits for something to come, in seconds.
const WAIT_S: u32 = 25;
/// How long its answer may take beyond that.
const GRACE: Duration = Duration::from_secs(15);
/// Waits after failures in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Wait before a line is offered again that could not be taken in.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks until the actor ends.
pub(super) async fn ask(desk: Rc<Desk>, bot: Telegram, limits: MailLimits, senders_max: usize) {
    let carrier = Carrier::new(Duration::from_secs(u64::from(WAIT_S)) + GRACE);
    let mut from = desk.live.channel.updates_from;
    let mut pause = PAUSE_MIN;
    loop {
        if !desk.may_act() {
            sleep(PAUSE_MIN).await;
            continue;
        }
        let asked = Instant::now();
        let answer = carrier.http(bot.updates_request(from, WAIT_S), None).await;
        match bot.updates(&answer) {
            Ok(page) => {
                pause = PAUSE_MIN;
                for line in page.lines {
                    hear(&desk, line, limits, senders_max).await;
                }
                let Some(next) = page.offset else {
                    // A server that does not wait must not be asked without end.
                    sleep(PAUSE_MIN.saturating_sub(asked.elapsed())).await;
                    continue;
                };
                from = Some(next);
                let channel_id = desk.live.channel.id;
                desk.write(|| KeepUpdatesFrom { channel_id, from: next }).await;
            }
            Err(outcome) => {
                let (after_ms, why) = match outcome {
                    Outcome::Retry { after_ms, why } => (after_ms, why),
                    // A wrong token is mended by an operator, whose change begins this anew.
                    other => (Some(60_000), format!("{other:?}")),
                };
                log::warn!(channel:% = desk.live.channel.id; "Telegram does not tell what people wrote: {why}");
                sleep(pause.max(Duration::from_millis(after_ms.unwrap_or(0)))).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Takes a line in; waits while its agent's mailbox is full or the store is busy.
async fn hear(desk: &Desk, line: Inbound, limits: MailLimits, senders_max: usize) {
    loop {
        let command = channels::hear(desk.live.channel.id, line.clone(), limits, senders_max);
        match desk.store.write(command).await {
            Ok(heard) => return desk.live.counts.count_heard(&heard),
            Err(error) => {
                log::warn!(channel:% = desk.live.channel.id; "a line of a person is not taken in yet: {}", error.cause());
                sleep(AGAIN).await;
            }
        }
    }
}

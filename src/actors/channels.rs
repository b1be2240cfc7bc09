//! The channels to people as this node knows them: their providers with the secrets in memory, what was counted, and who
//! waits to hear that a message was sent.
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use tokio::sync::oneshot;

use super::directory::{read, write};
use crate::channels::Inbound;
use crate::channels::setup::{self, Provider};
use crate::channels::ssrf::Reach;
use crate::config::{ChannelsConfig, Config};
use crate::domain::channel::{Channel, ChannelKind};
use crate::domain::delivery::Delivery;
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, DeliveryId};
use crate::domain::member::Way;
use crate::store::Db;
use crate::store::channels::{self, Hear, HeardAs};
use crate::store::mailbox::{LoopGuards, MailLimits};
use crate::store::vault::Vault;

/// A channel that is enabled, with its provider.
#[derive(Debug)]
pub struct LiveChannel {
    pub channel: Channel,
    pub provider: Provider,
    pub counts: Arc<ChannelCounts>,
}

impl LiveChannel {
    /// Takes a place for the body of a provider's call; `None` if too many are on their way to this channel.
    pub fn reading(&self, max: usize) -> Option<CallPlace<'_>> {
        CallPlace::take(&self.counts.reading, max)
    }
}

/// What happened on a channel since the process started.
#[derive(Debug, Default)]
pub struct ChannelCounts {
    pub sent: AtomicU64,
    /// Dead with the provider's words.
    pub failed: AtomicU64,
    /// Dead because nobody knows whether they arrived.
    pub unknown: AtomicU64,
    /// Taken by the provider, which then could not deliver them.
    pub undelivered: AtomicU64,
    /// Given back for a reason that passes.
    pub retried: AtomicU64,
    /// Lines of people.
    pub heard: AtomicU64,
    /// Lines that had come before.
    pub repeated: AtomicU64,
    /// Lines of unknown people, of people whom nobody could answer, and of those who write too fast.
    pub refused: AtomicU64,
    /// Calls that were not believed.
    pub unproven: AtomicU64,
    /// Calls whose bodies are on their way.
    pub reading: AtomicUsize,
    /// Messages that wait.
    pub waiting: AtomicUsize,
    /// It pauses after failures.
    pub paused: AtomicBool,
}

impl ChannelCounts {
    /// Counts what became of a line that came in.
    pub fn count_heard(&self, heard: &HeardAs) {
        let counter = match heard {
            HeardAs::Line(_) => &self.heard,
            HeardAs::Repeated => &self.repeated,
            HeardAs::Unknown | HeardAs::ForNobody | HeardAs::TooMany | HeardAs::Closed => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

type Waiting = HashMap<DeliveryId, Vec<oneshot::Sender<Arc<Delivery>>>>;

/// The channels of this node.
#[derive(Default)]
pub struct Channels {
    live: RwLock<BTreeMap<ChannelId, Arc<LiveChannel>>>,
    /// Numbers readings of channels.
    readings: AtomicU64,
    /// By which reading each channel is known, or known not to be there.
    known_by: RwLock<HashMap<ChannelId, u64>>,
    counts: RwLock<HashMap<ChannelId, Arc<ChannelCounts>>>,
    waiting: RwLock<Waiting>,
    /// Calls of providers that are worked on.
    calls: AtomicUsize,
}

impl Channels {
    /// Returns a channel that is enabled.
    pub fn get(&self, id: ChannelId) -> Option<Arc<LiveChannel>> {
        read(&self.live).get(&id).cloned()
    }

    /// Returns all channels that are enabled, oldest first.
    pub fn all(&self) -> Vec<Arc<LiveChannel>> {
        read(&self.live).values().cloned().collect()
    }

    /// Returns the ids of all channels that are enabled and whose providers could be made.
    pub fn working(&self) -> Vec<ChannelId> {
        read(&self.live).keys().copied().collect()
    }

    /// Returns the ways to people that can be used now.
    pub fn usable(&self) -> Vec<Way> {
        let live = read(&self.live);
        let is_there = |kind: &ChannelKind| live.values().any(|one| one.channel.kind == *kind);
        ChannelKind::BY_PREFERENCE.into_iter().filter(is_there).map(Way::from).collect()
    }

    /// Numbers a reading that begins now: it finds whatever was committed before.
    pub fn begin_reading(&self) -> u64 {
        self.readings.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Keeps a channel as a reading found it, or takes it out that is removed or disabled; changes nothing if a later
    /// reading has told of it already.
    pub fn set(&self, id: ChannelId, reading: u64, found: Option<(Channel, Provider)>) {
        // Held to the end: what is written below goes by the order of the numbers.
        let mut known_by = write(&self.known_by);
        let known = known_by.entry(id).or_default();
        if reading < *known {
            return;
        }
        *known = reading;
        let Some((channel, provider)) = found else {
            write(&self.live).remove(&id);
            return;
        };
        let counts = write(&self.counts).entry(id).or_default().clone();
        write(&self.live).insert(id, Arc::new(LiveChannel { channel, provider, counts }));
    }

    /// Forgets all of them: this node may not use them any more.
    pub fn forget(&self) {
        write(&self.live).clear();
        write(&self.waiting).clear();
    }

    /// Is told when a delivery has ended. Whoever waits must look at it once after this call: it may have ended before.
    pub fn watch(&self, id: DeliveryId) -> oneshot::Receiver<Arc<Delivery>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = write(&self.waiting);
        // Those that have gone are swept by the way, as often as their number has doubled.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
        }
        waiting.entry(id).or_default().push(sender);
        receiver
    }

    /// Tells whoever waits for it that a delivery has ended.
    pub fn on_delivery(&self, delivery: &Arc<Delivery>) {
        if delivery.state.is_open() {
            return;
        }
        let told = write(&self.waiting).remove(&delivery.id).unwrap_or_default();
        for sender in told {
            // Whoever waited may have gone.
            let _ = sender.send(delivery.clone());
        }
    }

    /// Takes a place for a call of a provider; `None` if too many are worked on.
    pub fn call(&self, calls_max: usize) -> Option<CallPlace<'_>> {
        CallPlace::take(&self.calls, calls_max)
    }
}

/// A place of a provider's call; it is free again when this is dropped.
pub struct CallPlace<'a>(&'a AtomicUsize);

impl<'a> CallPlace<'a> {
    /// Takes one of so many.
    fn take(taken: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(taken);
        (taken.fetch_add(1, Ordering::SeqCst) < max).then_some(place)
    }
}

impl Drop for CallPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where webhooks may go.
pub fn reach(config: &ChannelsConfig) -> Reach {
    Reach { plain: config.webhook_plain, private: config.webhook_private }
}

/// Reads a channel with its secrets and makes its provider; `None` if it is gone or disabled.
pub fn load(db: &mut Db, vault: &Vault, reach: Reach, id: ChannelId) -> Result<Option<(Channel, Provider)>, Error> {
    let Some(channel) = channels::get(db, id)?.filter(|channel| channel.enabled) else { return Ok(None) };
    let secrets = channels::secrets(db, vault, id)?;
    let provider = setup::build(channel.kind, &channel.config, &secrets, channel.base_url.as_deref(), reach)?;
    Ok(Some((channel, provider)))
}

/// Reads all channels that are enabled. One that cannot be read is left out, and said in the log: the others work.
pub fn load_all(db: &mut Db, vault: &Vault, reach: Reach) -> Result<Vec<(Channel, Provider)>, Error> {
    let mut loaded = Vec::new();
    for channel in channels::list(db)? {
        match load(db, vault, reach, channel.id) {
            Ok(found) => loaded.extend(found),
            Err(error) => log::error!("channel `{}` cannot be used: {}", channel.id, error.cause()),
        }
    }
    Ok(loaded)
}

/// How much of what people write is taken in.
#[derive(Clone, Copy, Debug)]
pub struct Intake {
    pub limits: MailLimits,
    pub guards: LoopGuards,
    /// Unknown senders that are noted for one channel.
    pub senders_max: usize,
}

impl Intake {
    /// As the settings have it.
    pub fn of(config: &Config) -> Self {
        Self {
            limits: MailLimits {
                messages_max: config.limits.mailbox_messages_max,
                attempts_max: i32::try_from(config.mailbox.attempts_max).unwrap_or(i32::MAX),
            },
            guards: LoopGuards {
                hops_max: i32::try_from(config.mailbox.hops_max).unwrap_or(i32::MAX),
                pair_requests_max: config.mailbox.pair_requests_max,
                pair_window_ms: i64::try_from(config.mailbox.pair_window_s).unwrap_or(i64::MAX).saturating_mul(1_000),
            },
            senders_max: config.channels.senders_max,
        }
    }
}

/// Makes the command that takes in what a person wrote.
pub fn hear(id: ChannelId, line: Inbound, intake: Intake) -> Hear {
    Hear {
        channel_id: id,
        external_id: line.external_id,
        chat: line.chat,
        sender_ref: line.sender_ref,
        sender_alias: line.sender_alias,
        sender_name: line.sender_name,
        text: line.text,
        reply_to: line.reply_to_external_id,
        said_at: line.sent_at,
        limits: intake.limits,
        guards: intake.guards,
        senders_max: intake.senders_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::PartyId;
    use crate::domain::secret::Secret;

    #[test]
    fn no_more_calls_are_taken_than_there_are_places() {
        let channels = Channels::default();
        let (one, two) = (channels.call(2), channels.call(2));
        assert!(one.is_some() && two.is_some() && channels.call(2).is_none());
        drop(one);
        assert!(channels.call(2).is_some(), "a place that was refused is free as well");
    }

    #[test]
    fn what_was_read_earlier_changes_nothing_later() {
        let (channels, id) = (Channels::default(), ChannelId::new());
        let channel = |name: &str| Channel {
            id,
            party_id: PartyId::new(),
            kind: ChannelKind::Webhook,
            name: name.to_owned(),
            agent_id: None,
            config: serde_json::Map::new(),
            secrets: vec!["secret".to_owned()],
            base_url: None,
            enabled: true,
            created_at: 0,
            updated_at: 0,
        };
        let secrets = BTreeMap::from([("secret".to_owned(), Secret::new("s"))]);
        let reach = Reach { plain: false, private: false };
        let provider = setup::build(ChannelKind::Webhook, &serde_json::Map::new(), &secrets, None, reach);
        let provider = provider.expect("all that it asks for");
        let name = || channels.get(id).map(|live| live.channel.name.clone());
        let readings: Vec<u64> = (0..3).map(|_| channels.begin_reading()).collect();
        channels.set(id, readings[1], Some((channel("new"), provider.clone())));
        channels.set(id, readings[0], Some((channel("old"), provider.clone())));
        assert_eq!(name().as_deref(), Some("new"));
        channels.set(id, readings[2], None);
        channels.set(id, readings[1], Some((channel("new"), provider.clone())));
        assert_eq!(name(), None, "it was disabled since");
        channels.set(id, channels.begin_reading(), Some((channel("newest"), provider)));
        assert_eq!(name().as_deref(), Some("newest"));
    }

    #[test]
    fn whoever_has_gone_is_forgotten() {
        let channels = Channels::default();
        let id = DeliveryId::new();
        let _held = channels.watch(id);
        for _ in 0..1_000 {
            drop(channels.watch(DeliveryId::new()));
        }
        let waiting = read(&channels.waiting);
        assert!(waiting.contains_key(&id) && waiting.len() < 8, "{}", waiting.len());
    }
}

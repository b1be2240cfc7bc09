//! The text that Prometheus reads. What others count is copied into it at each scrape; labels are few and bounded.
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::state::AppState;
use crate::domain::error::Error;
use crate::domain::message::MessageKind;
use crate::store::retention::Kept;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabels {
    gateway: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabel {
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    lane: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeptLabel {
    rows: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabels {
    channel: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelOutcomeLabels {
    channel: String,
    outcome: &'static str,
}

/// Encodes everything as it is now.
pub(super) async fn encode(state: &AppState) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("clawbroker");
    registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    gauge(&mut registry, "active", "1 while this node is the active one", i64::from(state.directory.is_active()));
    gauge(&mut registry, "start_time_seconds", "When the process started", state.started_at / 1_000);
    gauge(&mut registry, "sockets", "Open sockets of browsers and agents", wide(state.directory.sockets()));
    gauge(&mut registry, "runs", "Answers under way", wide(state.directory.runs() as u64));
    gauge(
        &mut registry,
        "counted_addresses",
        "Addresses with wrong credentials",
        wide(state.limiter.addresses() as u64),
    );
    registry.register("requests", "Answered requests", state.edge.requests.clone());
    registry.register("request_seconds", "How long answers took", state.edge.durations.clone());
    counter(&mut registry, "hub_events_published", "Events handed to the sockets' hubs", state.hubs.published_total());
    counter(
        &mut registry,
        "hub_batches_lagged",
        "Batches a hub was too slow for; its sockets caught up",
        state.hubs.lagged_total(),
    );
    writer(&mut registry, state);
    mailboxes(&mut registry, state);
    channels(&mut registry, state);
    retention(&mut registry, state);
    gateways(&mut registry, state);
    deliveries(&mut registry, state).await;
    let mut text = String::new();
    encode_text(&mut text, &registry).map_err(Error::internal)?;
    Ok(text)
}

fn writer(registry: &mut Registry, state: &AppState) {
    let stats = state.store.writer().stats();
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    for (name, help, value) in [
        ("writer_commits", "Committed batches", of(&stats.commits_total)),
        ("writer_commands", "Commands that were run", of(&stats.commands_total)),
        ("writer_batches_failed", "Batches that failed as a whole", of(&stats.failed_total)),
        ("writer_batches_replayed", "Batches repeated with savepoints", of(&stats.replays_total)),
        ("writer_commands_refused", "Commands refused because the queue was full", of(&stats.refused_total)),
        ("writer_connections_opened", "Connections opened", of(&stats.opened_total)),
        ("hop_limit", "Requests of agents that were one too many in a row", of(&stats.hop_limit_total)),
        ("pair_rate_limited", "Requests of agents that came too fast", of(&stats.pair_rate_limited_total)),
    ] {
        counter(registry, name, help, value);
    }
    let dead = Family::<KindLabel, Counter>::default();
    for (kind, total) in [
        (MessageKind::Request, &stats.dead_requests_total),
        (MessageKind::Reply, &stats.dead_replies_total),
        (MessageKind::Notice, &stats.dead_notices_total),
    ] {
        dead.get_or_create(&KindLabel { kind: kind.as_str() }).inc_by(of(total));
    }
    registry.register("dead", "Messages to agents and people that nobody handled", dead);
    gauge(registry, "writer_batch_max", "Largest batch so far", wide(of(&stats.batch_max_seen)));
    gauge(registry, "writer_broken", "1 while the database cannot be written to", wide(of(&stats.broken)));
    gauge(
        registry,
        "writer_last_commit_seconds",
        "When the last commit was",
        stats.last_commit_at.load(Relaxed) / 1_000,
    );
    let queued = Family::<LaneLabel, Gauge>::default();
    let (interactive, bulk) = state.store.writer().queued();
    queued.get_or_create(&LaneLabel { lane: "interactive" }).set(wide(interactive as u64));
    queued.get_or_create(&LaneLabel { lane: "bulk" }).set(wide(bulk as u64));
    registry.register("writer_queued", "Commands that wait", queued);
    let (open, idle) = state.store.readers().state();
    gauge(registry, "reader_connections", "Open read connections", i64::from(open));
    gauge(registry, "reader_connections_idle", "Idle read connections", i64::from(idle));
}

fn mailboxes(registry: &mut Registry, state: &AppState) {
    let agents = state.directory.agents();
    let cards = agents.cards();
    gauge(registry, "mailboxes_active", "Agents whose mailbox is in memory", wide(cards.len() as u64));
    gauge(registry, "polls_waiting", "Polls that wait for a message", wide(cards.waiting() as u64));
    let online = agents.online(state.clock.now_ms());
    gauge(registry, "agents_online", "Agents that called in the last five minutes", wide(online as u64));
    counter(registry, "handed_out", "Messages handed out to agents", cards.handed_out_total());
    counter(registry, "given_back", "Hand-outs that nobody took", cards.given_back_total());
}

fn channels(registry: &mut Registry, state: &AppState) {
    let sendings = Family::<ChannelOutcomeLabels, Counter>::default();
    let lines = Family::<ChannelOutcomeLabels, Counter>::default();
    let waiting = Family::<ChannelLabels, Gauge>::default();
    let paused = Family::<ChannelLabels, Gauge>::default();
    for live in state.directory.channels().all() {
        let (channel, counts) = (live.channel.id.to_string(), &live.counts);
        let labels = |outcome: &'static str| ChannelOutcomeLabels { channel: channel.clone(), outcome };
        for (outcome, total) in [
            ("sent", &counts.sent),
            ("failed", &counts.failed),
            ("unknown", &counts.unknown),
            ("retried", &counts.retried),
            ("undelivered", &counts.undelivered),
        ] {
            sendings.get_or_create(&labels(outcome)).inc_by(total.load(Relaxed));
        }
        for (outcome, total) in [
            ("taken", &counts.heard),
            ("repeated", &counts.repeated),
            ("refused", &counts.refused),
            ("unproven", &counts.unproven),
        ] {
            lines.get_or_create(&labels(outcome)).inc_by(total.load(Relaxed));
        }
        let labels = ChannelLabels { channel: channel.clone(), kind: live.channel.kind.as_str() };
        waiting.get_or_create(&labels).set(wide(counts.waiting.load(Relaxed) as u64));
        paused.get_or_create(&labels).set(i64::from(counts.paused.load(Relaxed)));
    }
    registry.register("channel_sendings", "What became of messages to people", sendings);
    registry.register("channel_lines", "What became of what people wrote, and of calls that were not believed", lines);
    registry.register("channel_waiting", "Messages that wait for a channel or are on their way", waiting);
    registry.register("channel_paused", "1 while a channel pauses after failures", paused);
}

fn retention(registry: &mut Registry, state: &AppState) {
    let removed = Family::<KeptLabel, Counter>::default();
    for kept in Kept::ALL {
        removed.get_or_create(&KeptLabel { rows: kept.as_str() }).inc_by(state.store.removed().of(kept));
    }
    registry.register("retention_rows_removed", "Rows removed because they were old enough", removed);
}

fn gateways(registry: &mut Registry, state: &AppState) {
    let states = Family::<GatewayLabels, Gauge>::default();
    let latencies = Family::<GatewayLabel, Gauge>::default();
    let reconnects = Family::<GatewayLabel, Counter>::default();
    for card in state.directory.gateways() {
        let gateway = card.gateway.id.to_string();
        states.get_or_create(&GatewayLabels { gateway: gateway.clone(), state: card.status.state.as_str() }).set(1);
        let label = GatewayLabel { gateway };
        if let Some(latency) = card.status.latency_ms {
            latencies.get_or_create(&label).set(i64::from(latency));
        }
        reconnects.get_or_create(&label).inc_by(card.status.reconnects);
    }
    registry.register("gateway_state", "1 for the state that a gateway's connection is in", states);
    registry.register("gateway_latency_ms", "How long a gateway took to answer last", latencies);
    registry.register("gateway_reconnects", "How often a gateway was connected again", reconnects);
}

/// Leaves them out when the store does not answer: the rest is what tells why.
async fn deliveries(registry: &mut Registry, state: &AppState) {
    let Ok(counts) = state.edge.deliveries(&state.store).await else { return };
    let open = Family::<StateLabel, Gauge>::default();
    for (state, count) in counts {
        open.get_or_create(&StateLabel { state: state.as_str() }).set(count);
    }
    registry.register("deliveries", "Deliveries that are open or dead", open);
}

fn gauge(registry: &mut Registry, name: &'static str, help: &'static str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &'static str, help: &'static str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn wide(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

//! Load for long: kills first, then gateways and browsers that break at random; what the broker holds comes back to where it
//! was.
//!
//! `CLAWBROKER_TEST_SOAK_S` says for how many seconds (16; `./test --soak` sets two hours), `CLAWBROKER_TEST_SOAK_CHATS` how
//! many browsers chat (4): the share of the processors that the broker took is printed.
use std::collections::VecDeque;
use std::time::Duration;

use clawbroker::sample_gateway::Running;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::Broker as Target;
use super::pressure::Mix;
use super::{Pressure, check, number_from, seeded};
use crate::harness::{Broker, Database, Kind, Seeded};
use crate::hostile::gateway::{BREAKS, OF_THE_LINK};
use crate::hostile::middle::{Middle, Step};
use crate::hostile::raw::{Raw, frame, text, upgrade};
use crate::ws::sample_gateway;

on_both_databases!(what_a_broker_holds_comes_back_to_where_it_was);

/// Without load for so long, everything that belonged to it is gone, idle threads as well.
const CALM: Duration = Duration::from_secs(11);
/// How much longer that may take at the end: the runs that the load has begun go on, and a thread is idle ten seconds later.
const CALM_MORE: Duration = Duration::from_secs(60);
/// From so long on pools and caches are full by the middle: pools must not grow any more, and memory is compared as well.
const MEMORY_FROM: Duration = Duration::from_secs(1_200);
/// Longest pause between two notes: so few that they can be read at once after two hours.
const PAUSE_MS: u64 = 400;
/// How long one trouble may take until the gateway is connected again; the clients of the load wait for 45 seconds.
const TROUBLE_MAX: Duration = Duration::from_secs(40);
/// When a connection that was cut is still there, it is cut again: it may not have been passed on yet.
const CUT_AGAIN: Duration = Duration::from_secs(2);
/// Browsers that have stopped reading, at a time.
const STALLED_MAX: usize = 3;
/// Ticks of a second in which Linux counts processor time.
const TICKS: f64 = 100.0;

/// The steps of a question that every question comes to.
const OF_A_QUESTION: [Step; 5] =
    [Step::Asked("chat.send"), Step::Taken("chat.send"), Step::Streaming(1), Step::Streaming(4), Step::Ending];

/// What a process holds.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    files: usize,
    threads: usize,
}

/// How much more than before is still the same, where 5 % are less.
#[derive(Clone, Copy, Debug)]
struct Slack {
    files: usize,
    threads: usize,
    with_memory: bool,
}

impl Slack {
    /// A connection of a pool or two may come and go. In a short run the pool is not full in the middle: all that it makes,
    /// and the threads that use it, may be made behind that.
    fn of(time: Duration, kind: Kind) -> Self {
        if time >= MEMORY_FROM {
            return Self { files: 4, threads: 2, with_memory: true };
        }
        let pool = match kind {
            // Four readers, each with the file, its log and the memory that is shared.
            Kind::Sqlite => 4 * 3,
            Kind::Postgres => 20,
        };
        Self { files: 4 + pool, threads: 20, with_memory: false }
    }
}

impl Held {
    fn now(broker: &Broker) -> Self {
        Self { memory_kib: broker.resident_kib(), files: broker.count("fd"), threads: broker.count("task") }
    }

    /// Returns what is held without load.
    async fn by(broker: &Broker, target: &Target) -> Self {
        target.down();
        tokio::time::sleep(CALM).await;
        let held = Self::now(broker);
        target.up(broker);
        held
    }

    /// The same; waits, for a bounded time, until it is no more than was held before.
    async fn by_the_end(broker: &Broker, target: &Target, before: &Self, slack: Slack) -> Self {
        target.down();
        tokio::time::sleep(CALM).await;
        let began = Instant::now();
        let held = loop {
            let held = Self::now(broker);
            if held.is_no_more_than(before, slack) || began.elapsed() > CALM_MORE {
                break held;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        target.up(broker);
        held
    }

    /// Tells whether this is no more than 5 % above what was held before, or than the slack.
    fn is_no_more_than(&self, before: &Self, slack: Slack) -> bool {
        let most = |before: usize, few: usize| before + few.max(before / 20);
        self.files <= most(before.files, slack.files)
            && self.threads <= most(before.threads, slack.threads)
            && (!slack.with_memory || self.memory_kib <= before.memory_kib + before.memory_kib / 20)
    }
}

/// Returns how many seconds the processors have worked for the broker of this data directory since its start.
fn processor_seconds(database: &Database) -> f64 {
    let file = std::fs::read_to_string(database.data_dir().join("server.json")).expect("the broker wrote it");
    let file: Value = serde_json::from_str(&file).expect("it is JSON");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", file["pid"])).expect("the broker lives");
    // The name in brackets may hold blanks. Behind it are the state as the third field, utime as the 14th and stime.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / TICKS
}

/// What is done to a broker under load when it is not killed.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    GatewayRestarts,
    GatewayBreaks,
    ReaderStops,
    BrowserMisbehaves,
}

const TROUBLES: [Trouble; 4] =
    [Trouble::GatewayRestarts, Trouble::GatewayBreaks, Trouble::ReaderStops, Trouble::BrowserMisbehaves];

/// Who makes trouble.
struct Troublemaker {
    gateway: Running,
    /// Stands before the gateway.
    middle: Middle,
    /// Browsers that do not read, and some that have said half a handshake.
    stalled: VecDeque<Raw>,
    random: Seeded,
    chats: u64,
    boots: usize,
    breaks: usize,
}

impl Troublemaker {
    async fn make(&mut self, trouble: Trouble, broker: &Broker, target: &Target) {
        match trouble {
            Trouble::GatewayRestarts => {
                self.boots += 1;
                self.gateway.restart(&format!("boot-{}", self.boots)).await.expect("the port is free again");
            }
            Trouble::GatewayBreaks => self.break_the_gateway(broker).await,
            Trouble::ReaderStops => {
                let mut raw = Raw::opened(Raw::connect_narrow, broker, "/ws/chat/gw").await;
                for chat in 0..self.chats.min(16) {
                    let subscribe = json!({ "type": "subscribe", "sessionKey": target.session_of(chat) });
                    raw.write(&text(&subscribe.to_string())).await;
                }
                self.stall(raw);
            }
            Trouble::BrowserMisbehaves => self.misbehave(broker).await,
        }
    }

    /// Breaks the connection to the gateway at some step, and waits until there is a new one.
    async fn break_the_gateway(&mut self, broker: &Broker) {
        let at = self.random.below((OF_THE_LINK.len() + OF_A_QUESTION.len()) as u64) as usize;
        let step = *OF_THE_LINK.iter().chain(&OF_A_QUESTION).nth(at).expect("one of both");
        let how = BREAKS[self.random.below(BREAKS.len() as u64) as usize];
        // What is cut has to be passed on.
        while !is_connected(broker).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.breaks += 1;
        self.middle.breaks(step, how);
        let mut cut: Option<Instant> = None;
        loop {
            let is_played = self.middle.played() == self.breaks;
            if is_connected(broker).await {
                if is_played {
                    return;
                }
                if OF_THE_LINK.contains(&step) && cut.is_none_or(|at| at.elapsed() > CUT_AGAIN) {
                    self.middle.cut();
                    cut = Some(Instant::now());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Half a handshake, a bad frame or a flood of frames.
    async fn misbehave(&mut self, broker: &Broker) {
        let (bad, closed) = match self.random.below(3) {
            0 => {
                let whole = upgrade(broker, "/ws/chat/gw");
                let until = self.random.below(whole.len() as u64) as usize;
                let mut raw = Raw::connect(broker).await;
                raw.write(&whole.as_bytes()[..until]).await;
                match self.random.below(3) {
                    0 => drop(raw),
                    1 => raw.reset(),
                    _ => self.stall(raw),
                }
                return;
            }
            1 => (frame(0xC1, b"{}"), 4400),
            _ => (text("{\"type\":\"ping\"}").repeat(300), 1000),
        };
        let mut raw = Raw::opened(Raw::connect, broker, "/ws/chat/gw").await;
        raw.write(&bad).await;
        if closed == 1000 {
            raw.until(|frame| frame["code"] == "rate_limited").await;
            raw.write(&frame(0x88, &1000_u16.to_be_bytes())).await;
        }
        let (code, frames) = raw.closed().await;
        assert_eq!(code, Some(closed), "{frames:?}");
    }

    /// Keeps a connection that is not read, and resets the one that was kept longest.
    fn stall(&mut self, raw: Raw) {
        self.stalled.push_back(raw);
        if self.stalled.len() > STALLED_MAX
            && let Some(oldest) = self.stalled.pop_front()
        {
            oldest.reset();
        }
    }
}

/// Tells whether the gateway is connected; a link that would wait longer than a person is told to dial now.
async fn is_connected(broker: &Broker) -> bool {
    let (_, gateway) = broker.get("/api/admin/gateways/gw").await;
    if gateway["state"] == "waiting" {
        broker.post("/api/admin/gateways/gw/test", json!({})).await;
    }
    gateway["state"] == "connected"
}

async fn what_a_broker_holds_comes_back_to_where_it_was(database: Database) {
    let time = Duration::from_secs(number_from("CLAWBROKER_TEST_SOAK_S", 16));
    let chats = number_from("CLAWBROKER_TEST_SOAK_CHATS", 4);
    let mut random = seeded(0x50A6);
    let gateway = sample_gateway(|_| {});
    let middle = Middle::before(&gateway.url).await;
    let mut broker = Broker::start(&database, &[], &[]).await;
    let body = json!({ "id": "gw", "name": "Sample", "url": middle.url, "token": "sample-token" });
    let (status, answer) = broker.post("/api/gateways", body).await;
    assert_eq!(status, 200, "{answer}");
    let mix = Mix { chats: chats as usize, pause_ms: PAUSE_MS, agents: None };
    let pressure = Pressure::of(mix, &broker, Target::new(), &mut random).await;
    let began = Instant::now();
    while began.elapsed() < time / 4 {
        tokio::time::sleep(random.ms(200, 4_000)).await;
        pressure.target.down();
        broker.kill();
        broker.start_again().await;
        pressure.target.up(&broker);
    }
    let stalled = VecDeque::new();
    let mut maker = Troublemaker { gateway, middle, stalled, random: random.part(), chats, boots: 0, breaks: 0 };
    let (since, worked) = (Instant::now(), processor_seconds(&database));
    let (mut troubles, mut caches_full) = (0, None);
    while began.elapsed() < time || caches_full.is_none() || troubles < TROUBLES.len() {
        if caches_full.is_none() && began.elapsed() > time / 2 {
            maker.stalled.clear();
            caches_full = Some(Held::by(&broker, &pressure.target).await);
        }
        tokio::time::sleep(random.ms(200, 4_000)).await;
        // Each of them once, then at random.
        let any = random.below(TROUBLES.len() as u64) as usize;
        let trouble = *TROUBLES.get(troubles).unwrap_or(&TROUBLES[any]);
        troubles += 1;
        let made = tokio::time::timeout(TROUBLE_MAX, maker.make(trouble, &broker, &pressure.target)).await;
        assert!(made.is_ok(), "{trouble:?} took too long: {}\n{}", maker.middle.plan(), broker.log());
    }
    let (time_passed, worked) = (since.elapsed().as_secs_f64(), processor_seconds(&database) - worked);
    maker.stalled.clear();
    broker.gateway_is("gw", "connected").await;
    let before = caches_full.expect("the middle has come by");
    let slack = Slack::of(time, database.kind());
    let after = Held::by_the_end(&broker, &pressure.target, &before, slack).await;
    let (boots, breaks) = (maker.boots, maker.breaks);
    println!("{troubles} troubles, {boots} restarts and {breaks} breaks of the gateway among them");
    println!("in the middle {before:?}, at the end {after:?}");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = 100.0 * worked / time_passed;
    println!(
        "{chats} chats: {worked:.1} s of processor time in {time_passed:.0} s, {share:.0} % of one of {cores} cores"
    );
    let told = pressure.end(&broker).await;
    told.check(&broker).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(&database, told.asked());
    // Last: what was said is checked, whatever is held.
    assert!(after.is_no_more_than(&before, slack), "{before:?} {after:?} {slack:?}");
}

//! Fan-out: events go once to each worker thread, and from there to the sockets of that thread.
//!
//! Owner: the process; one [`Hub`] a thread, made when its first socket comes. A hub takes everything that waits, hands
//! each socket one shared batch, and lets the sockets write before the next round.
//!
//! Invariants
//! - CNV-1: a hub never drops an event silently: when its queue was full, its sockets are told to catch up from the store.
//! - LIM-1: the queue of a hub is bounded (`limits.hub_queue_max` batches).
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::mpsc;

use super::directory::Directory;
use super::messages::{Report, Reports};
use super::supervisor::StoreEvents;
use crate::domain::event::{Event, Publish, TurnEnd};
use crate::domain::ids::{ConversationId, SocketId};
use crate::domain::turn::TurnState;

/// Least time between two rounds of a hub under load; a lone event goes out at once.
const ROUND: Duration = Duration::from_millis(5);
/// Sockets in a round from which on rounds are paced.
const PACED_FROM: usize = 64;
/// Reports that may wait to be gathered; more sockets than that are not all shown.
const REPORTS_MAX: usize = 65_536;
/// Batches taken in one round.
const BATCHES_MAX: usize = 512;

/// What a socket gets.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum HubMessage {
    /// Events of conversations it watches, or of everybody's concern, in order.
    Events(Arc<Vec<Arc<Event>>>),
    /// Events were lost: catch up from the store.
    CatchUp,
    /// Tell of yourself.
    Observe(Reports),
}

type Batch = Arc<Vec<Arc<Event>>>;

/// What a hub gets.
enum Work {
    Events(Batch),
    Observe(Reports),
}

struct Lane {
    queue: mpsc::Sender<Work>,
    lagged: Arc<AtomicBool>,
    watchers: Arc<AtomicUsize>,
}

/// All hubs of the process; what is published here reaches every thread that has sockets, and the supervisor.
pub struct Hubs {
    lanes: RwLock<Vec<Lane>>,
    directory: Arc<Directory>,
    supervisor: OnceLock<Recipient<StoreEvents>>,
    queue_max: usize,
    lagged_total: AtomicU64,
    published_total: AtomicU64,
}

impl Hubs {
    pub fn new(directory: Arc<Directory>, queue_max: usize) -> Self {
        Self {
            lanes: RwLock::new(Vec::new()),
            directory,
            supervisor: OnceLock::new(),
            queue_max,
            lagged_total: AtomicU64::new(0),
            published_total: AtomicU64::new(0),
        }
    }

    /// Tells where events go besides the sockets; once, at start.
    pub fn set_supervisor(&self, supervisor: Recipient<StoreEvents>) {
        // A second call would be a mistake of the start-up code; the first one stands.
        let _ = self.supervisor.set(supervisor);
    }

    pub fn lagged_total(&self) -> u64 {
        self.lagged_total.load(Ordering::Relaxed)
    }

    pub fn published_total(&self) -> u64 {
        self.published_total.load(Ordering::Relaxed)
    }

    /// Publishes a live event of a link: to the sockets only, and to whoever joins later.
    pub fn publish_live(&self, event: Event) {
        if let Event::Live { topic, live } = &event {
            self.directory.set_run(topic.conversation_id, live.clone());
        }
        self.fan_out(Arc::new(vec![Arc::new(event)]));
    }

    /// Gives an aborted run without an answer the part that came: the store has no more of it than its last checkpoint.
    fn with_part(&self, event: Event) -> Event {
        let Event::TurnEnded { topic, end } = event else { return event };
        let run = self.directory.run(topic.conversation_id);
        let end = match run.filter(|run| run.turn_id == end.turn_id && end.state == TurnState::Aborted) {
            Some(run) => Arc::new(TurnEnd { text: run.text.clone(), ..TurnEnd::clone(&end) }),
            None => end,
        };
        Event::TurnEnded { topic, end }
    }

    fn fan_out(&self, batch: Batch) {
        self.published_total.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for lane in self.lanes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if lane.watchers.load(Ordering::SeqCst) > 0 && lane.queue.try_send(Work::Events(batch.clone())).is_err() {
                lane.lagged.store(true, Ordering::SeqCst);
                self.lagged_total.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Asks every hub, session and transport about itself. One that does not answer in time is left out: a transport
    /// that is frozen by its browser cannot.
    pub async fn observe(&self, wait: Duration) -> Vec<Report> {
        let (reports, mut told) = mpsc::channel(REPORTS_MAX);
        for lane in self.lanes.read().unwrap_or_else(PoisonError::into_inner).iter() {
            // A hub whose queue is full has more pressing work.
            let _ = lane.queue.try_send(Work::Observe(reports.clone()));
        }
        drop(reports);
        let mut found = Vec::new();
        let until = tokio::time::Instant::now() + wait;
        while let Ok(Some(report)) = tokio::time::timeout_at(until, told.recv()).await {
            found.push(report);
        }
        found
    }

    fn join(&self) -> (mpsc::Receiver<Work>, Arc<AtomicBool>, Arc<AtomicUsize>) {
        let (queue, receiver) = mpsc::channel(self.queue_max);
        let lane = Lane { queue, lagged: Arc::default(), watchers: Arc::default() };
        let (lagged, watchers) = (lane.lagged.clone(), lane.watchers.clone());
        self.lanes.write().unwrap_or_else(PoisonError::into_inner).push(lane);
        (receiver, lagged, watchers)
    }
}

impl Publish for Hubs {
    /// Called by the writer's thread after each commit, in the order of commitment.
    fn publish(&self, events: Vec<Event>) {
        let events: Vec<Event> = events.into_iter().map(|event| self.with_part(event)).collect();
        for event in &events {
            self.directory.on_event(event);
        }
        self.directory.agents().publish(&events);
        let batch: Batch = Arc::new(events.into_iter().map(Arc::new).collect());
        self.fan_out(batch.clone());
        if let Some(supervisor) = self.supervisor.get() {
            // Bounded by the writer, which waits for the disk between two batches.
            supervisor.do_send(StoreEvents(batch));
        }
    }
}

/// The hub of this thread.
#[derive(Clone)]
pub struct Hub {
    state: Rc<RefCell<State>>,
    watchers: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    sockets: HashMap<SocketId, (Recipient<HubMessage>, HashSet<ConversationId>)>,
    watched: HashMap<ConversationId, Vec<SocketId>>,
}

thread_local! {
    static LOCAL: RefCell<Vec<(usize, Hub)>> = const { RefCell::new(Vec::new()) };
}

impl Hub {
    /// Returns the hub of this thread, made at the first call.
    pub fn local(hubs: &Arc<Hubs>) -> Self {
        // The address tells the hubs of one server from those of another in the same process (tests).
        let key = Arc::as_ptr(hubs) as usize;
        LOCAL.with(|local| {
            let mut local = local.borrow_mut();
            if let Some((_, hub)) = local.iter().find(|(known, _)| *known == key) {
                return hub.clone();
            }
            let (receiver, lagged, watchers) = hubs.join();
            let hub = Self { state: Rc::default(), watchers };
            actix::spawn(run(hub.state.clone(), receiver, lagged));
            local.push((key, hub.clone()));
            hub
        })
    }

    /// Adds a socket; it gets what concerns everybody from now on.
    pub fn enter(&self, id: SocketId, socket: Recipient<HubMessage>) {
        self.state.borrow_mut().sockets.insert(id, (socket, HashSet::new()));
        self.watchers.fetch_add(1, Ordering::SeqCst);
    }

    /// Has a socket get the events of a conversation from now on.
    pub fn watch(&self, id: SocketId, conversation: ConversationId) {
        let mut state = self.state.borrow_mut();
        let State { sockets, watched } = &mut *state;
        if let Some((_, its)) = sockets.get_mut(&id)
            && its.insert(conversation)
        {
            watched.entry(conversation).or_default().push(id);
        }
    }

    pub fn unwatch(&self, id: SocketId, conversation: ConversationId) {
        let mut state = self.state.borrow_mut();
        if let Some((_, its)) = state.sockets.get_mut(&id) {
            its.remove(&conversation);
        }
        state.forget(id, conversation);
    }

    pub fn leave(&self, id: SocketId) {
        let mut state = self.state.borrow_mut();
        let Some((_, its)) = state.sockets.remove(&id) else { return };
        for conversation in its {
            state.forget(id, conversation);
        }
        self.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    fn forget(&mut self, id: SocketId, conversation: ConversationId) {
        if let Some(ids) = self.watched.get_mut(&conversation) {
            ids.retain(|watching| *watching != id);
            if ids.is_empty() {
                self.watched.remove(&conversation);
            }
        }
    }
}

async fn run(state: Rc<RefCell<State>>, mut queue: mpsc::Receiver<Work>, lagged: Arc<AtomicBool>) {
    let mut work = Vec::new();
    let mut last_round = tokio::time::Instant::now() - ROUND;
    let mut last_size = 0;
    while queue.recv_many(&mut work, BATCHES_MAX).await > 0 {
        if last_size >= PACED_FROM {
            let since = last_round.elapsed();
            if since < ROUND {
                tokio::time::sleep(ROUND - since).await;
                while work.len() < BATCHES_MAX
                    && let Ok(next) = queue.try_recv()
                {
                    work.push(next);
                }
            }
        }
        last_round = tokio::time::Instant::now();
        last_size = round(&state, &work);
        for reports in
            work.drain(..).filter_map(|work| if let Work::Observe(reports) = work { Some(reports) } else { None })
        {
            observe(&state, queue.len(), reports);
        }
        if lagged.swap(false, Ordering::SeqCst) {
            for (socket, _) in state.borrow().sockets.values() {
                // On the same thread and handled before the next round.
                socket.do_send(HubMessage::CatchUp);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Hands out what waited; returns how many sockets got something.
fn round(state: &Rc<RefCell<State>>, work: &[Work]) -> usize {
    let state = state.borrow();
    // Events of one conversation are one shared list for all who watch it. What concerns everybody ends the lists
    // before it, so that no socket sees it too early.
    let mut by_conversation: HashMap<ConversationId, Vec<Arc<Event>>> = HashMap::new();
    let mut told = 0;
    let batches = work.iter().filter_map(|work| if let Work::Events(batch) = work { Some(batch) } else { None });
    for event in batches.flat_map(|batch| batch.iter()) {
        match event.topic() {
            Some(topic) if state.watched.contains_key(&topic.conversation_id) => {
                by_conversation.entry(topic.conversation_id).or_default().push(event.clone());
            }
            Some(_) => {}
            None => {
                told += hand_out(&state, &mut by_conversation);
                let shared = Arc::new(vec![event.clone()]);
                for (socket, _) in state.sockets.values() {
                    socket.do_send(HubMessage::Events(shared.clone()));
                }
                told += state.sockets.len();
            }
        }
    }
    told + hand_out(&state, &mut by_conversation)
}

/// Tells of this hub and has its sockets tell of themselves.
fn observe(state: &Rc<RefCell<State>>, queued: usize, reports: Reports) {
    let state = state.borrow();
    let own = Report {
        actor: "hub",
        id: std::thread::current().name().unwrap_or_default().to_owned(),
        state: serde_json::json!({
            "sockets": state.sockets.len(),
            "conversations_watched": state.watched.len(),
            "batches_waiting": queued,
        }),
    };
    // Whoever asked may have gone.
    let _ = reports.try_send(own);
    for (socket, _) in state.sockets.values() {
        socket.do_send(HubMessage::Observe(reports.clone()));
    }
}

fn hand_out(state: &State, by_conversation: &mut HashMap<ConversationId, Vec<Arc<Event>>>) -> usize {
    let mut told = 0;
    for (conversation, events) in by_conversation.drain() {
        let shared = Arc::new(events);
        for id in state.watched.get(&conversation).into_iter().flatten() {
            if let Some((socket, _)) = state.sockets.get(id) {
                socket.do_send(HubMessage::Events(shared.clone()));
                told += 1;
            }
        }
    }
    told
}

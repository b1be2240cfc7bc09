//! A session against a small gateway with its own will: questions, connections, crashes and delays in any order.
//!
//! Checked: one key in flight at a time; a key that a page has shown is not sent again; first sends in order of lines;
//! answers go to the questions they belong to; and in the end each question has exactly one end.
use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use self::upstream::{Upstream, Work, answer_to};
use super::*;
use crate::store::turns::BeginForeignTurn;

mod upstream;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Ask,
    Foreign,
    /// The gateway takes a request.
    Take,
    /// The gateway is too busy for it.
    Refuse,
    Work(Work),
    /// A frame of the gateway arrives.
    Arrive,
    Store,
    StoreBusy,
    LinkDown,
    LinkUp,
    Hole,
    /// From now on the link has no room for requests, or has room again.
    Full(bool),
    Crash,
    Start,
    Resume,
    Wait(u16),
    Abort(bool),
    Touch,
}

#[derive(Debug)]
enum ToGateway {
    Send(DeliveryId),
    Abort(String),
    History(Purpose, u32),
}

#[derive(Debug)]
enum FromGateway {
    Sent(Result<SendStatus, ()>),
    Page(Purpose, Value),
    Event(Box<ChatEvent>),
}

#[derive(Debug)]
enum Write {
    Begin(BeginTurn),
    BeginForeign(BeginForeignTurn),
    End(Box<EndTurn>),
    Import(usize),
    Map(Box<HistoryPage>),
}

struct World {
    session: Session,
    upstream: Upstream,
    now: i64,
    link_up: bool,
    is_full: bool,
    requests: VecDeque<ToGateway>,
    frames: VecDeque<FromGateway>,
    store: VecDeque<Write>,
    timers: Vec<(i64, Wake)>,
    keys: Vec<DeliveryId>,
    /// Our keys that were sent and whose turns are open, or over.
    sent: HashMap<DeliveryId, bool>,
    first_sends: Vec<usize>,
    seen: HashSet<DeliveryId>,
    /// Turns that were begun: whose, and whether they are over.
    turns: HashMap<TurnId, (Option<DeliveryId>, String, bool)>,
    ended: HashMap<DeliveryId, u32>,
    cancelled: HashSet<DeliveryId>,
    /// Turns that ended without a text and for whose answer the log was asked; with `true` a page has shown it in time.
    bare: HashMap<TurnId, bool>,
    foreign: u32,
    looks: u32,
}

impl World {
    fn new(contacted: bool, protocol: u32, tells_ids: bool) -> Self {
        let upstream = Upstream::new(protocol, tells_ids);
        Self {
            session: Session::new(conversation(contacted), Arc::new(Options { history_rows: 6, ..options() })),
            upstream,
            now: START_MS,
            link_up: false,
            is_full: false,
            requests: VecDeque::new(),
            frames: VecDeque::new(),
            store: VecDeque::new(),
            timers: Vec::new(),
            keys: Vec::new(),
            sent: HashMap::new(),
            first_sends: Vec::new(),
            seen: HashSet::new(),
            turns: HashMap::new(),
            ended: HashMap::new(),
            cancelled: HashSet::new(),
            bare: HashMap::new(),
            foreign: 0,
            looks: 0,
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { delivery_id, text } => self.check_send(delivery_id, &text),
                Effect::Abort { run_id } if self.link_up && !self.is_full => {
                    self.requests.push_back(ToGateway::Abort(run_id))
                }
                Effect::History { purpose, limit, .. } => {
                    assert!(self.link_up, "nobody is there to answer");
                    if matches!(purpose, Purpose::Reconcile(_)) {
                        self.looks += 1;
                        if let Some(turn) = self.over_bare() {
                            self.bare.entry(turn).or_insert(false);
                        }
                    }
                    if self.is_full {
                        let effects = self.session.on_history(purpose, Err(RequestError::Busy), self.now);
                        self.perform(effects);
                    } else {
                        self.requests.push_back(ToGateway::History(purpose, limit));
                    }
                }
                Effect::Begin(command) => self.store.push_back(Write::Begin(command)),
                Effect::BeginForeign(command) => self.store.push_back(Write::BeginForeign(command)),
                Effect::End(command) => self.store.push_back(Write::End(command)),
                Effect::Import(command) => self.store.push_back(Write::Import(command.rows.len())),
                Effect::Map(page) => self.store.push_back(Write::Map(page)),
                Effect::WakeIn { ms, wake } => {
                    self.timers.push((self.now + i64::try_from(ms).expect("a time"), wake));
                    assert!(self.timers.len() < 64, "timers multiply");
                }
                Effect::Cancel(ids) => self.cancelled.extend(ids),
                Effect::Claim(_) => unreachable!("the session is nobody's"),
                Effect::Abort { .. }
                | Effect::NoteContact(_)
                | Effect::Checkpoint(_)
                | Effect::Tell(_)
                | Effect::RunId(_) => {}
            }
        }
    }

    /// The turn whose answer is being looked for in the log.
    fn over_bare(&self) -> Option<TurnId> {
        let is_over = |run: &&Run| run.is_over_bare(self.session.protocol) && !matches!(run.stage, Stage::Ending(_));
        self.session.run.as_ref().filter(is_over).map(|run| run.turn_id)
    }

    /// A page comes: the answer that it shows must not be passed over.
    fn note_shown(&mut self, purpose: Purpose, page: &HistoryPage) {
        let is_awaited = |look: Look| self.session.looking == Some(look) && self.over_bare() == Some(look.turn_id);
        if let Purpose::Reconcile(look) = purpose
            && is_awaited(look)
            && let Some((delivery, run_id, _)) = self.turns.get(&look.turn_id)
        {
            let answer = answer_to(&delivery.map_or(run_id.clone(), |delivery| delivery.to_string()));
            if page.rows.iter().any(|row| row.text == answer) {
                self.bare.insert(look.turn_id, true);
            }
        }
    }

    fn check_send(&mut self, delivery: DeliveryId, text: &str) {
        assert!(self.link_up, "sent to nobody");
        assert!(!self.seen.contains(&delivery), "D4: a key that the log has shown is not sent again");
        let others = self.sent.iter().filter(|(other, over)| **other != delivery && !**over).count();
        assert_eq!(others, 0, "D4: one question in flight");
        assert!(self.turns.values().any(|(of, _, over)| *of == Some(delivery) && !over), "D4: its lease is on disk");
        let index = self.keys.iter().position(|key| *key == delivery).expect("a question of ours");
        assert_eq!(text, format!("question {delivery}"));
        if self.sent.insert(delivery, false).is_none() {
            assert!(self.first_sends.last().is_none_or(|last| *last < index), "DLV-4: in order of lines");
            self.first_sends.push(index);
        }
        if self.is_full {
            let effects = self.session.on_sent(Err(RequestError::Busy), self.now);
            self.perform(effects);
        } else {
            self.requests.push_back(ToGateway::Send(delivery));
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Ask => {
                let delivery = DeliveryId::new();
                let seq = i64::try_from(self.keys.len()).expect("few");
                self.keys.push(delivery);
                let question =
                    Question { delivery_id: delivery, text: format!("question {delivery}").into(), ..question(seq) };
                let effects = self.session.on_question(question, self.now);
                self.perform(effects);
            }
            Happening::Foreign if self.upstream.is_alive && self.upstream.protocol >= 4 => {
                self.foreign += 1;
                let key = format!("foreign-{}", self.foreign);
                let _ = self.upstream.send(&key);
            }
            Happening::Take => self.take(false),
            Happening::Refuse => self.take(true),
            Happening::Work(how) if self.upstream.is_alive => {
                let event = self.upstream.work(how);
                self.tell(event);
            }
            Happening::Arrive => self.arrive(),
            Happening::Store => self.write(false),
            Happening::StoreBusy => self.write(true),
            Happening::LinkDown => self.cut(),
            Happening::LinkUp if self.upstream.is_alive => {
                self.link_up = true;
                let effects = self.session.on_link_up(self.upstream.protocol, self.now);
                self.perform(effects);
            }
            Happening::Hole if self.link_up => {
                let before = self.frames.len();
                self.frames.retain(|frame| !matches!(frame, FromGateway::Event(_)));
                if self.frames.len() < before {
                    let effects = self.session.on_link_up(self.upstream.protocol, self.now);
                    self.perform(effects);
                }
            }
            Happening::Full(is_full) => self.is_full = is_full,
            Happening::Crash => {
                self.cut();
                self.upstream.crash();
            }
            Happening::Start => self.upstream.is_alive = true,
            Happening::Resume => self.upstream.resume(),
            Happening::Wait(ms) => self.wait(i64::from(ms)),
            Happening::Abort(queued) => {
                let effects = self.session.abort(None, queued);
                self.perform(effects);
            }
            Happening::Touch => {
                let effects = self.session.on_touched(self.now);
                self.perform(effects);
            }
            Happening::Foreign | Happening::Work(_) | Happening::LinkUp | Happening::Hole => {}
        }
    }

    fn tell(&mut self, event: Option<ChatEvent>) {
        if self.link_up {
            self.frames.extend(event.map(|event| FromGateway::Event(Box::new(event))));
        }
    }

    fn cut(&mut self) {
        if !std::mem::replace(&mut self.link_up, false) {
            return;
        }
        self.session.on_link_down();
        // Requests that the gateway has not read are lost, and so are its answers; the link tells the session of both.
        let lost = self.requests.drain(..).map(|request| match request {
            ToGateway::Send(_) => None,
            ToGateway::Abort(_) => None,
            ToGateway::History(purpose, _) => Some(purpose),
        });
        let answers = self.frames.drain(..).map(|frame| match frame {
            FromGateway::Page(purpose, _) => Some(purpose),
            FromGateway::Sent(_) | FromGateway::Event(_) => None,
        });
        let purposes: Vec<Purpose> = lost.chain(answers).flatten().collect();
        for purpose in purposes {
            let effects = self.session.on_history(purpose, Err(RequestError::Closed), self.now);
            self.perform(effects);
        }
        let effects = self.session.on_sent(Err(RequestError::Closed), self.now);
        self.perform(effects);
    }

    fn take(&mut self, busy: bool) {
        if !self.upstream.is_alive || !self.link_up {
            return;
        }
        match self.requests.pop_front() {
            Some(ToGateway::Send(_)) if busy => self.frames.push_back(FromGateway::Sent(Err(()))),
            Some(ToGateway::Send(delivery)) => {
                let status = self.upstream.send(&delivery.to_string());
                self.frames.push_back(FromGateway::Sent(Ok(status)));
            }
            Some(ToGateway::Abort(run_id)) => {
                let event = self.upstream.abort(&run_id);
                self.tell(event);
            }
            Some(ToGateway::History(purpose, limit)) => {
                let page = self.upstream.page(limit);
                self.frames.push_back(FromGateway::Page(purpose, page));
            }
            None => {}
        }
    }

    fn arrive(&mut self) {
        let Some(frame) = self.frames.pop_front() else { return };
        let effects = match frame {
            FromGateway::Sent(Ok(status)) => {
                self.session.on_sent(Ok(SendAck { run_id: String::new(), status }), self.now)
            }
            FromGateway::Sent(Err(())) => {
                self.session.on_sent(Err(RequestError::Refused(refusal("UNAVAILABLE", true))), self.now)
            }
            FromGateway::Page(purpose, value) => {
                let page = page(value);
                self.seen.extend(self.keys.iter().filter(|key| page.question(&key.to_string()).is_some()));
                self.note_shown(purpose, &page);
                self.session.on_history(purpose, Ok(page), self.now)
            }
            FromGateway::Event(event) => self.session.on_event(*event, self.now),
        };
        self.perform(effects);
    }

    fn write(&mut self, busy: bool) {
        let Some(write) = self.store.pop_front() else { return };
        let refused = || Err(error(ErrorCode::StoreBusy));
        let effects = match write {
            Write::Begin(_) | Write::BeginForeign(_) if busy => self.session.on_begun(refused(), self.now),
            Write::End(_) if busy => self.session.on_ended(Err(error(ErrorCode::StoreBusy)), self.now),
            Write::Import(_) if busy => self.session.on_imported(Err(error(ErrorCode::StoreBusy))),
            Write::Map(_) if busy => self.session.on_mapped(Err(error(ErrorCode::StoreBusy))),
            Write::Begin(command) => {
                let result = if self.cancelled.contains(&command.delivery_id) {
                    Err(error(ErrorCode::DeliveryEnded))
                } else {
                    Ok(self.begun(command.turn_id, Some(command.delivery_id), command.delivery_id.to_string()))
                };
                self.session.on_begun(result, self.now)
            }
            Write::BeginForeign(command) => {
                let turn = self.begun(command.turn_id, None, command.run_id);
                self.session.on_begun(Ok(turn), self.now)
            }
            Write::End(end) => {
                self.check_end(&end);
                self.session.on_ended(Ok(!end.text.is_empty()), self.now)
            }
            Write::Import(rows) => self.session.on_imported(Ok(rows)),
            Write::Map(page) => {
                let up_to = page.rows.iter().filter_map(|row| row.seq).max().unwrap_or(0);
                let mapped = Mapped { up_to, upstream_session: "log".to_owned(), answers: 1 };
                self.session.on_mapped(Ok(mapped))
            }
        };
        self.perform(effects);
    }

    /// Begins a turn; a run that has one keeps it.
    fn begun(&mut self, id: TurnId, delivery_id: Option<DeliveryId>, run_id: String) -> Turn {
        let known = self.turns.iter().find(|(_, (.., run, _))| *run == run_id).map(|(id, (.., over))| (*id, *over));
        let (id, over) = known.unwrap_or((id, false));
        self.turns.entry(id).or_insert((delivery_id, run_id.clone(), false));
        Turn {
            id,
            conversation_id: self.session.conversation.id,
            delivery_id,
            message_id: None,
            answer_id: None,
            run_id,
            state: if over { TurnState::Final } else { TurnState::Started },
            text: String::new(),
            started_at: self.now,
        }
    }

    fn check_end(&mut self, end: &EndTurn) {
        let (delivery, run_id, over) = self.turns.get_mut(&end.turn_id).expect("a turn that was begun");
        assert!(!std::mem::replace(over, true), "a turn ends once");
        let key = delivery.map_or(run_id.clone(), |delivery| delivery.to_string());
        // A run that resumes what somebody else asked answers that.
        if !key.starts_with("resumed-") {
            let expected = answer_to(&key);
            assert!(expected.starts_with(&end.text) || end.text == "failed", "{} is no answer to {key}", end.text);
            // The log was asked, and was out of reach for as long as it is waited for.
            let was_out_of_reach = self.bare.get(&end.turn_id) == Some(&false);
            let may_be_empty = end.text.is_empty() && self.upstream.hushed.contains(&key) && was_out_of_reach;
            if end.state == TurnState::Final && !may_be_empty {
                assert_eq!(end.text, expected, "a whole answer");
            }
        }
        let Some(delivery) = *delivery else { return };
        *self.ended.entry(delivery).or_default() += 1;
        self.sent.entry(delivery).and_modify(|over| *over = true);
        if let DeliveryEnd::Dead { started: false, .. } = end.delivery {
            assert!(!self.upstream.started.contains(&key), "D4: it may be started afresh");
        }
    }

    fn wait(&mut self, ms: i64) {
        self.now += ms;
        self.upstream.now = self.now;
        self.timers.sort_by_key(|(at, _)| *at);
        let due: Vec<Wake> = self.timers.extract_if(.., |(at, _)| *at <= self.now).map(|(_, wake)| wake).collect();
        for wake in due {
            let effects = self.session.on_wake(wake, self.now);
            self.perform(effects);
        }
        let effects = self.session.on_tick(self.now);
        self.perform(effects);
    }

    /// Everything works from now on, and half an hour passes.
    fn settle(&mut self) {
        self.happen(Happening::Start);
        self.happen(Happening::Full(false));
        if !self.link_up {
            self.happen(Happening::LinkUp);
        }
        for _ in 0..(1_800_000 / 700) {
            for _ in 0..4 {
                self.happen(Happening::Take);
                self.happen(Happening::Store);
                self.happen(Happening::Arrive);
            }
            self.happen(Happening::Work(Work::Grow));
            self.happen(Happening::Wait(700));
        }
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Ask),
        2 => Just(Happening::Foreign),
        10 => Just(Happening::Take),
        1 => Just(Happening::Refuse),
        8 => Just(Happening::Work(Work::Grow)),
        2 => Just(Happening::Work(Work::Finish)),
        2 => Just(Happening::Work(Work::Hush)),
        1 => Just(Happening::Work(Work::Fail)),
        12 => Just(Happening::Arrive),
        10 => Just(Happening::Store),
        2 => Just(Happening::StoreBusy),
        2 => Just(Happening::LinkDown),
        4 => Just(Happening::LinkUp),
        1 => Just(Happening::Hole),
        2 => any::<bool>().prop_map(Happening::Full),
        1 => Just(Happening::Crash),
        2 => Just(Happening::Start),
        2 => Just(Happening::Resume),
        6 => prop_oneof![Just(200_u16), Just(1_000), Just(6_000), Just(60_000)].prop_map(Happening::Wait),
        1 => any::<bool>().prop_map(Happening::Abort),
        1 => Just(Happening::Touch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn questions_end_once_whatever_happens(
        happenings in prop::collection::vec(happening(), 0..120),
        contacted: bool,
        tells_ids: bool,
        is_old in prop::bool::weighted(0.25),
    ) {
        let mut world = World::new(contacted, if is_old { 3 } else { 4 }, tells_ids);
        for what in &happenings {
            world.happen(*what);
        }
        let looks = world.looks;
        world.settle();
        prop_assert!(world.looks - looks < 450, "{} looks in half an hour", world.looks - looks);
        for (index, key) in world.keys.iter().enumerate() {
            let ends = world.ended.get(key).copied().unwrap_or(0);
            let expected = u32::from(!world.cancelled.contains(key));
            prop_assert_eq!(ends, expected, "question {} of {}: {:?}", index, world.keys.len(), world.session.run);
        }
        prop_assert!(world.session.is_idle(), "{:?}", world.session);
    }
}

//! The picture beside a store with its own will: messages, polls, moves, time and word that comes late, in any order.
//!
//! Checked: a pick takes exactly what the rules say, by a second and naive reading of them; nothing is picked that is
//! leased or on its way; the writer's first leases of a conversation are in the order of its lines; what becomes ready is
//! told; and in the end each delivery has been handed out or has ended.
use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::domain::delivery::{Applied, Outcome};

const TALKS: usize = 3;
/// Room for a few texts, so that some are missing.
const TEXTS: usize = 60;
const LEASE_MS: i64 = 1_000;

/// What may happen next. A number names a delivery.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Send {
        talk: usize,
        priority: i32,
        wait_ms: i64,
        ttl_ms: Option<i64>,
        bytes: usize,
    },
    Hear(usize),
    Poll(Want),
    /// The writer takes the next hand-out.
    Write,
    /// The newest hand-out does not come to the writer.
    Drop,
    Move(usize, By),
    Pass(i64),
    /// Word that was heard before comes again.
    Again(usize),
}

/// Who moves a delivery in the store, and how.
#[derive(Clone, Copy, Debug)]
enum By {
    Report,
    Nack(i64),
    Extend,
    Fail,
    Cancel,
    Redrive,
    /// Another actor of the same agent.
    OtherLease,
}

#[derive(Debug)]
enum News {
    Is(Box<Delivery>, Option<Arc<Line>>),
    Refused(Vec<DeliveryId>),
}

struct World {
    state: State,
    now: i64,
    talks: [ConversationId; TALKS],
    /// The rows.
    store: Vec<Delivery>,
    redriven: HashSet<DeliveryId>,
    hand_outs: VecDeque<Vec<DeliveryId>>,
    news: VecDeque<News>,
    /// What the mailbox has heard, and when it may ask again for what was refused.
    heard: HashMap<DeliveryId, Delivery>,
    told: Vec<Delivery>,
    refused_until: HashMap<DeliveryId, i64>,
    on_way: HashSet<DeliveryId>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(TEXTS),
            now: 0,
            talks: std::array::from_fn(|_| ConversationId::new()),
            store: Vec::new(),
            redriven: HashSet::new(),
            hand_outs: VecDeque::new(),
            news: VecDeque::new(),
            heard: HashMap::new(),
            told: Vec::new(),
            refused_until: HashMap::new(),
            on_way: HashSet::new(),
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Send { talk, priority, wait_ms, ttl_ms, bytes } => {
                let n = i64::try_from(self.store.len()).expect("few") + 1;
                let sent = Delivery {
                    priority,
                    attempts_max: 3,
                    available_at: self.now + wait_ms,
                    expires_at: ttl_ms.map(|ms| self.now + ms),
                    created_at: self.now,
                    // The lines of a conversation have gaps: not each is for this agent.
                    ..delivery(self.talks[talk], n, 2 * n)
                };
                let line = line_of(&sent, &"x".repeat(bytes));
                self.news.push_back(News::Is(Box::new(sent.clone()), Some(line)));
                self.store.push(sent);
            }
            Happening::Hear(count) => {
                for _ in 0..count {
                    self.hear();
                }
            }
            Happening::Poll(want) => self.poll(want),
            Happening::Write => self.write(),
            Happening::Drop => {
                if let Some(ids) = self.hand_outs.pop_back() {
                    self.check_told(|world| {
                        world.on_way.retain(|id| !ids.contains(id));
                        world.state.taken_back(&ids, world.now)
                    });
                }
            }
            Happening::Move(which, by) => self.move_by(which, by),
            Happening::Pass(ms) => {
                self.now += ms;
                self.fire_due();
                if ms % 2 == 0 {
                    self.check_told(|world| world.state.on_time(world.now));
                }
            }
            Happening::Again(which) => {
                if let Some(old) = pick_of(&self.told, which).cloned()
                    && old.state.is_open()
                    && self.heard[&old.id].state.is_open()
                {
                    self.check_told(|world| world.state.on_delivery(&old, None, world.now));
                }
            }
        }
        self.check();
    }

    fn hear(&mut self) {
        match self.news.pop_front() {
            None => {}
            Some(News::Is(delivery, line)) => self.check_told(|world| {
                let id = delivery.id;
                if world.heard.get(&id).is_none_or(|before| before.state != delivery.state) {
                    world.on_way.remove(&id);
                    world.refused_until.remove(&id);
                }
                world.heard.insert(id, (*delivery).clone());
                world.told.push((*delivery).clone());
                world.state.on_delivery(&delivery, line, world.now)
            }),
            Some(News::Refused(ids)) => self.check_told(|world| {
                for id in &ids {
                    if world.on_way.remove(id) {
                        world.refused_until.insert(*id, world.now + REFUSED_WAIT_MS);
                    }
                }
                world.state.refused(&ids, world.now)
            }),
        }
    }

    /// Runs a step and checks that it tells what becomes ready by it.
    fn check_told(&mut self, step: impl FnOnce(&mut Self) -> bool) {
        let before: Vec<DeliveryId> = self.ready(&[]).iter().map(|d| d.id).collect();
        let is_current = self.state.next_at().is_none_or(|at| at > self.now);
        let told = step(self);
        let is_more = self.ready(&[]).iter().any(|d| !before.contains(&d.id));
        assert!(told || !is_more, "something became ready and nobody was told");
        // What time let in may have been taken away by the same step.
        assert!(!(told && is_current) || self.state.has_ready(), "told of nothing");
    }

    fn write(&mut self) {
        let Some(ids) = self.hand_outs.pop_front() else { return };
        let mut refused = Vec::new();
        for id in ids {
            let index = self.store.iter().position(|d| d.id == id).expect("it is in the store");
            let before = self.store[index].clone();
            match self.store[index].apply(&Move::Lease { until: Some(self.now + LEASE_MS) }, self.now) {
                Ok(_) => {
                    if before.attempt == 0 {
                        self.check_order(&before);
                    }
                    self.tell(index);
                }
                Err(_) => refused.push(id),
            }
        }
        if !refused.is_empty() {
            self.news.push_back(News::Refused(refused));
        }
    }

    /// DLV-4, by the rows: nothing that was never handed out stands before the one that is now.
    fn check_order(&self, leased: &Delivery) {
        let overtaken = self.store.iter().find(|d| {
            d.conversation_id == leased.conversation_id
                && d.seq < leased.seq
                && d.state == DeliveryState::Pending
                && d.attempt == 0
                && !self.redriven.contains(&d.id)
                && d.expires_at.is_none_or(|at| at > self.now)
        });
        assert!(overtaken.is_none(), "{overtaken:?} was overtaken by {leased:?}");
    }

    fn move_by(&mut self, which: usize, by: By) {
        let Some(index) = which.checked_rem(self.store.len()) else { return };
        let now = self.now;
        let delivery = &mut self.store[index];
        let action = match by {
            By::Report => Move::Complete { outcome: Outcome::Reported, attempt: None, result_hash: None },
            By::Nack(wait_ms) => nack(now + wait_ms),
            By::Extend => Move::Extend { attempt: None, until: now + LEASE_MS },
            By::Fail => Move::Fail { attempt: None, reason: "no".to_owned() },
            By::Cancel => Move::Cancel { reason: None },
            By::OtherLease => Move::Lease { until: Some(now + LEASE_MS) },
            By::Redrive => {
                if delivery.state == DeliveryState::Dead {
                    delivery.state = DeliveryState::Pending;
                    delivery.reason = None;
                    delivery.ended_at = None;
                    delivery.expires_at = None;
                    delivery.available_at = now;
                    delivery.attempts_max = delivery.attempt + 3;
                    self.redriven.insert(delivery.id);
                    self.tell(index);
                }
                return;
            }
        };
        if matches!(delivery.apply(&action, now), Ok(Applied::Changed)) {
            self.tell(index);
        }
    }

    /// What the scheduler has the store do.
    fn fire_due(&mut self) {
        for index in 0..self.store.len() {
            if let Some(action) = self.store[index].due_move(self.now, self.now) {
                self.store[index].apply(&action, self.now).expect("a due move is legal");
                self.tell(index);
            }
        }
    }

    fn tell(&mut self, index: usize) {
        self.news.push_back(News::Is(Box::new(self.store[index].clone()), None));
    }

    fn poll(&mut self, want: Want) {
        let expected: Vec<Delivery> = self.expected(want).into_iter().cloned().collect();
        let picked: Vec<DeliveryId> = self.state.pick(want, self.now).items.iter().map(|item| item.delivery).collect();
        let found: Vec<Delivery> = picked.iter().map(|id| self.heard[id].clone()).collect();
        let talks = |of: &[Delivery]| of.iter().map(|d| d.conversation_id).collect::<Vec<_>>();
        let ids = |of: &[Delivery]| of.iter().map(|d| d.id).collect::<HashSet<_>>();
        assert_eq!((talks(&found), ids(&found)), (talks(&expected), ids(&expected)), "{found:?}, not {expected:?}");
        for (index, one) in found.iter().enumerate() {
            let later = &found[index + 1..];
            assert!(later.iter().all(|d| d.conversation_id != one.conversation_id || d.seq > one.seq));
        }
        for id in &picked {
            assert!(self.on_way.insert(*id), "it is on its way already");
        }
        if !picked.is_empty() {
            self.hand_outs.push_back(picked);
        }
        self.check_remaining();
    }

    /// The rules once more: takes the best of what is ready, one by one.
    fn expected(&self, want: Want) -> Vec<&Delivery> {
        let (mut picked, mut picked_ids) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while picked.len() < want.rows
            && let Some(next) = self.ready(&picked_ids).into_iter().min_by_key(|d| (Reverse(d.priority), d.n))
        {
            let size = text_bytes(self.state.slots[&next.id].line.as_ref());
            if !picked.is_empty() && bytes + size > want.bytes {
                break;
            }
            bytes += size;
            picked.push(next);
            picked_ids.push(next.id);
        }
        picked
    }

    /// What may be handed out after `picked`, by what was heard.
    fn ready(&self, picked: &[DeliveryId]) -> Vec<&Delivery> {
        self.waiting()
            .filter(|d| !picked.contains(&d.id) && self.is_available(d) && d.expires_at.is_none_or(|at| at > self.now))
            .filter(|d| d.attempt > 0 || !self.is_held_back(d, picked))
            .collect()
    }

    fn is_held_back(&self, first: &Delivery, picked: &[DeliveryId]) -> bool {
        let is_on_way = |d: &Delivery| self.on_way.contains(&d.id);
        let is_before = |d: &Delivery| d.seq < first.seq && !picked.contains(&d.id);
        self.heard
            .values()
            .filter(|d| d.conversation_id == first.conversation_id)
            .filter(|d| d.state == DeliveryState::Pending && d.attempt == 0)
            .any(|d| is_on_way(d) || is_before(d))
    }

    fn waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.heard.values().filter(|d| d.state == DeliveryState::Pending && !self.on_way.contains(&d.id))
    }

    fn is_available(&self, delivery: &Delivery) -> bool {
        let refused_until = self.refused_until.get(&delivery.id).copied().unwrap_or(i64::MIN);
        delivery.available_at.max(refused_until) <= self.now
    }

    /// What must hold at any time.
    fn check(&self) {
        assert_eq!(self.state.handing_out(), self.on_way.len());
        let texts: usize = self.state.slots.values().map(|slot| text_bytes(slot.line.as_ref())).sum();
        assert!(texts == self.state.text_bytes && texts <= TEXTS, "{texts}");
        let open = self.heard.values().filter(|d| d.state.is_open()).count();
        assert_eq!(self.state.slots.len(), open, "of what ended nothing is kept");
    }

    fn check_remaining(&mut self) {
        if self.waiting().any(|d| d.expires_at.is_some_and(|at| at <= self.now)) {
            // It is counted until its end is heard.
            return;
        }
        let bars: Vec<&Delivery> = self.waiting().filter(|d| d.attempt == 0 && !self.is_available(d)).collect();
        let remaining = self
            .waiting()
            .filter(|d| self.is_available(d))
            .filter(|d| {
                let is_bar = |bar: &&Delivery| bar.conversation_id == d.conversation_id && bar.seq < d.seq;
                d.attempt > 0 || !bars.iter().any(is_bar)
            })
            .count();
        assert_eq!(self.state.remaining(self.now), remaining);
    }

    /// Lets everything that is open come to its end, through the mailbox only.
    fn settle(&mut self) {
        for _ in 0..60 {
            while !self.hand_outs.is_empty() {
                self.write();
            }
            while !self.news.is_empty() {
                self.hear();
            }
            self.check();
            for index in 0..self.store.len() {
                if self.store[index].state == DeliveryState::Leased {
                    self.move_by_report(index);
                }
            }
            self.happen(Happening::Poll(ALL));
            self.happen(Happening::Pass(500));
        }
        let lost: Vec<&Delivery> = self.store.iter().filter(|d| d.state.is_open()).collect();
        assert!(lost.is_empty(), "never handed out: {lost:?}");
    }

    fn move_by_report(&mut self, index: usize) {
        let report = Move::Complete { outcome: Outcome::Reported, attempt: None, result_hash: None };
        self.store[index].apply(&report, self.now).expect("what is leased can be reported");
        self.tell(index);
    }
}

/// Any number names one of those that are there.
fn pick_of(all: &[Delivery], which: usize) -> Option<&Delivery> {
    all.get(which.checked_rem(all.len())?)
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        3 => Just(By::Report),
        3 => prop_oneof![Just(0_i64), 1..2_000_i64].prop_map(By::Nack),
        1 => Just(By::Extend),
        1 => Just(By::Fail),
        1 => Just(By::Cancel),
        2 => Just(By::Redrive),
        1 => Just(By::OtherLease),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let wait_ms = prop_oneof![3 => Just(0_i64), 1 => 1..2_000_i64];
    let ttl_ms = prop_oneof![4 => Just(None), 1 => (1..3_000_i64).prop_map(Some)];
    let send = (0..TALKS, 0..3_i32, wait_ms, ttl_ms, 0..30_usize);
    let want = (1..6_usize, 0..80_usize).prop_map(|(rows, bytes)| Want { rows, bytes });
    prop_oneof![
        6 => send.prop_map(|(talk, priority, wait_ms, ttl_ms, bytes)| {
            Happening::Send { talk, priority, wait_ms, ttl_ms, bytes }
        }),
        6 => (1..5_usize).prop_map(Happening::Hear),
        5 => want.prop_map(Happening::Poll),
        4 => Just(Happening::Write),
        1 => Just(Happening::Drop),
        4 => (any::<usize>(), by()).prop_map(|(which, by)| Happening::Move(which, by)),
        3 => (1..1_500_i64).prop_map(Happening::Pass),
        2 => any::<usize>().prop_map(Happening::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_handed_out_in_its_order_whatever_happens(
        happenings in prop::collection::vec(happening(), 0..120),
    ) {
        let mut world = World::new();
        for what in happenings {
            world.happen(what);
        }
        world.settle();
    }
}

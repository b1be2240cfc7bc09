//! Agents that live through crashes: askers send with a key until it is acknowledged, workers poll with a short lease, and
//! report or forget what they had.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{Broker, PAUSE, Place};
use crate::harness::{self, Seeded};

/// The settings that this load needs: leases that are soon over, and no guards against agents that never stop talking.
const SETTINGS: &str = "[mailbox]\nlease_min_s = 1\nhops_max = 0\npair_requests_max = 0\n";
/// How long a call may take before it is made again.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Seconds for which an agent has what it polled.
const LEASE_S: u64 = 1;
/// Questions of one asker that have not ended; then it waits, so that no more gather than are soon answered.
const OPEN_MAX: usize = 20;
/// Hand-outs that a forgetful agent gets; its messages die at times.
const FEW: u32 = 2;
/// As many as there may be: lost answers use them up.
const MANY: u32 = 100;

/// Writes these settings, and more, to a file of the test's own.
pub(crate) fn settings_for_agents(more: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary folder");
    std::fs::write(&file, format!("{SETTINGS}{more}")).expect("room on the disk");
    file
}

/// An agent and its key.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    name: String,
    key: String,
}

/// A message that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) message_id: String,
    pub(crate) text: String,
    /// Its sender says when it has a reply, so that none is lost.
    pub(crate) is_acknowledged: bool,
}

/// A report that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) message_id: String,
    pub(crate) result: String,
}

/// A reply that was handed out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) message_id: String,
    pub(crate) in_reply_to: String,
    pub(crate) content: String,
}

/// What agents were told.
#[derive(Debug, Default)]
pub(crate) struct MailJournal {
    pub(crate) sent: Vec<Sent>,
    pub(crate) reported: Vec<Reported>,
    pub(crate) seen: BTreeSet<Seen>,
}

impl MailJournal {
    fn add(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.reported.extend(other.reported);
        self.seen.extend(other.seen);
    }
}

/// How many agents there are of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agents {
    pub(crate) askers: usize,
    /// Clients that work, each for its share of the mailboxes.
    pub(crate) workers: usize,
    /// Mailboxes that are asked.
    pub(crate) asked: usize,
}

/// Agents at work.
pub(crate) struct Correspondence {
    askers: Vec<tokio::task::JoinHandle<MailJournal>>,
    workers: Vec<tokio::task::JoinHandle<MailJournal>>,
    /// Nobody waits for an answer any more.
    is_over: Rc<Cell<bool>>,
}

impl Correspondence {
    /// Registers agents with a broker, and sets them to work on it.
    pub(crate) async fn on(agents: Agents, broker: &harness::Broker, target: &Broker, random: &mut Seeded) -> Self {
        let mut asked = Vec::with_capacity(agents.asked);
        for n in 0..agents.asked {
            asked.push(register(broker, &format!("worker-{n}"), if n % 2 == 0 { MANY } else { FEW }).await);
        }
        let is_over = Rc::new(Cell::new(false));
        let names: Rc<Vec<String>> = Rc::new(asked.iter().map(|agent| agent.name.clone()).collect());
        let mut askers = Vec::with_capacity(agents.askers);
        for n in 0..agents.askers {
            let me = register(broker, &format!("asker-{n}"), MANY).await;
            // Half of them as the ancestor's clients do.
            let caller = Caller::of(target.clone());
            let asker = Asker { caller, me, acknowledges: n % 2 == 0, asked: names.clone() };
            askers.push(actix::spawn(asker.run(random.part())));
        }
        let share = agents.asked.div_ceil(agents.workers.max(1)).max(1);
        let workers = asked
            .chunks(share)
            .map(|mine| {
                let caller = Caller::of(target.clone());
                actix::spawn(work(caller, mine.to_vec(), is_over.clone(), random.part()))
            })
            .collect();
        Self { askers, workers, is_over }
    }

    /// Waits until all that was asked has ended, and returns what the agents were told.
    pub(crate) async fn end(self) -> MailJournal {
        let mut told = MailJournal::default();
        for asker in self.askers {
            told.add(asker.await.expect("an asker does not panic"));
        }
        self.is_over.set(true);
        for worker in self.workers {
            told.add(worker.await.expect("a worker does not panic"));
        }
        told
    }
}

async fn register(broker: &harness::Broker, name: &str, attempts: u32) -> Agent {
    let (status, agent) = broker.post("/api/admin/agents", json!({ "name": name, "max_attempts": attempts })).await;
    assert_eq!(status, 201, "{agent}");
    let keys = format!("/api/admin/agents/{}/keys", agent["id"].as_str().expect("an id"));
    let (status, made) = broker.post(&keys, json!({})).await;
    assert_eq!(status, 201, "{made}");
    Agent { name: name.to_owned(), key: made["api_key"].as_str().expect("a key").to_owned() }
}

/// Calls a broker over connections that are kept for as long as it lives.
struct Caller {
    broker: Broker,
    /// The address, and what is connected with it.
    kept: RefCell<(String, awc::Client)>,
}

impl Caller {
    fn of(broker: Broker) -> Self {
        Self { broker, kept: RefCell::new((String::new(), awc::Client::new())) }
    }

    /// Waits until it is up.
    async fn place(&self) -> (Place, awc::Client) {
        let place = self.broker.place().await;
        let mut kept = self.kept.borrow_mut();
        if kept.0 != place.address {
            *kept = (place.address.clone(), awc::Client::new());
        }
        (place, kept.1.clone())
    }

    /// Polls once; whatever goes wrong, nothing has come.
    async fn poll(&self, agent: &Agent, query: &str) -> Vec<Value> {
        let (place, client) = self.place().await;
        let request = client
            .get(format!("http://{}/api/gateway/poll{query}", place.address))
            .timeout(CALL_MAX)
            .insert_header(("X-Api-Key", agent.key.as_str()));
        let Ok(mut answer) = request.send().await else { return Vec::new() };
        let status = answer.status().as_u16();
        let Ok(body) = answer.json::<Value>().await else { return Vec::new() };
        if status != 200 {
            self.refused(status, &body);
            return Vec::new();
        }
        body["messages"].as_array().unwrap_or_else(|| panic!("messages: {body}")).clone()
    }

    /// Calls once; `None`: nobody knows what came of it, or it was refused for now.
    async fn once(&self, agent: &Agent, path: &str, body: &Value) -> Option<Value> {
        let (place, client) = self.place().await;
        let request = client
            .post(format!("http://{}{path}", place.address))
            .timeout(CALL_MAX)
            .insert_header(("X-Api-Key", agent.key.as_str()));
        let mut answer = request.send_json(body).await.ok()?;
        let status = answer.status().as_u16();
        let said = answer.json::<Value>().await.ok()?;
        let is_stale = status == 409 && said["error"]["code"] == "stale_attempt" && !body["delivery_attempt"].is_null();
        if status == 200 || is_stale {
            return Some(said);
        }
        self.refused(status, &said);
        None
    }

    /// Says the same again and again until it is answered.
    async fn until_done(&self, agent: &Agent, path: &str, body: &Value) -> Value {
        loop {
            if let Some(answer) = self.once(agent, path, body).await {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the admin's receipt for the state of a request; `None`: not now.
    async fn state_of(&self, id: &str) -> Option<String> {
        let (place, client) = self.place().await;
        let request = client
            .get(format!("http://{}/api/admin/messages/{id}", place.address))
            .timeout(CALL_MAX)
            .insert_header(("Authorization", format!("Bearer {}", place.token)));
        let mut answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let receipt = answer.json::<Value>().await.ok()?;
        if status != 200 {
            self.refused(status, &receipt);
            return None;
        }
        let state = receipt["deliveries"][0]["state"].as_str().unwrap_or_else(|| panic!("a state: {receipt}"));
        Some(state.to_owned())
    }

    /// Takes note of a refusal, which must be one for now.
    fn refused(&self, status: u16, answer: &Value) {
        assert!([503, 507].contains(&status), "{status}: {answer}");
        self.broker.refused(answer, &answer["error"]["code"]);
    }
}

/// One who asks others, and waits for what they say.
struct Asker {
    caller: Caller,
    me: Agent,
    /// Says which replies it has; the others come again.
    acknowledges: bool,
    asked: Rc<Vec<String>>,
}

impl Asker {
    /// Asks one question after another until told to finish, and one at least; then waits until each has ended.
    async fn run(self, mut random: Seeded) -> MailJournal {
        let mut told = MailJournal::default();
        let mut open = BTreeSet::new();
        while told.sent.is_empty() || !self.caller.broker.is_finishing() {
            if open.len() < OPEN_MAX {
                let sent = self.ask(told.sent.len(), &mut random).await;
                open.insert(sent.message_id.clone());
                told.sent.push(sent);
            } else {
                self.settle(&mut open, &told.seen).await;
            }
            self.listen(&mut told.seen).await;
            tokio::time::sleep(random.ms(0, 40)).await;
        }
        while !open.is_empty() {
            self.listen(&mut told.seen).await;
            self.settle(&mut open, &told.seen).await;
            tokio::time::sleep(PAUSE).await;
        }
        told
    }

    async fn ask(&self, n: usize, random: &mut Seeded) -> Sent {
        let to = &self.asked[random.below(self.asked.len() as u64) as usize];
        let text = format!("question {n} of {}", self.me.name);
        let body = json!({ "target": to, "content": text, "message_id": format!("q-{n}") });
        let answer = self.caller.until_done(&self.me, "/api/gateway/send-message", &body).await;
        Sent { message_id: text_of(&answer, "message_id"), text, is_acknowledged: self.acknowledges }
    }

    /// Takes what has come, and says so.
    async fn listen(&self, seen: &mut BTreeSet<Seen>) {
        let ack = if self.acknowledges { "&ack=explicit" } else { "" };
        let messages = self.caller.poll(&self.me, &format!("?lease={LEASE_S}{ack}")).await;
        for message in messages.iter().filter(|message| message["kind"] == "reply") {
            seen.insert(Seen {
                message_id: text_of(message, "id"),
                in_reply_to: text_of(message, "in_reply_to"),
                content: text_of(message, "content"),
            });
        }
        if self.acknowledges && !messages.is_empty() {
            let ids: Vec<String> = messages.iter().map(|message| text_of(message, "id")).collect();
            // If nobody hears it, they come again.
            self.caller.once(&self.me, "/api/gateway/ack", &json!({ "message_ids": ids })).await;
        }
    }

    /// Leaves of the open requests those that have not ended.
    async fn settle(&self, open: &mut BTreeSet<String>, seen: &BTreeSet<Seen>) {
        for answered in seen {
            open.remove(&answered.in_reply_to);
        }
        for id in std::mem::take(open) {
            let is_over = match self.caller.state_of(&id).await.as_deref() {
                // A reply of which nobody says that he has it may have gone to one who had gone.
                Some("completed") => !self.acknowledges,
                Some("dead") => true,
                _ => false,
            };
            if !is_over {
                open.insert(id);
            }
        }
    }
}

/// Works for some mailboxes, one after the other, until nobody waits any more.
async fn work(caller: Caller, agents: Vec<Agent>, is_over: Rc<Cell<bool>>, mut random: Seeded) -> MailJournal {
    let mut told = MailJournal::default();
    while !is_over.get() {
        for agent in &agents {
            for message in caller.poll(agent, &format!("?lease={LEASE_S}&limit=5")).await {
                if message["kind"] != "request" || random.below(6) == 0 {
                    // It dies over it: it comes again, to the one that is started in its place.
                    continue;
                }
                if random.below(50) == 0 {
                    // Slower than its lease.
                    tokio::time::sleep(Duration::from_millis(1_050 * LEASE_S)).await;
                }
                told.reported.extend(report(&caller, agent, &message, &mut random).await);
            }
        }
        tokio::time::sleep(random.ms(5, 30)).await;
    }
    told
}

/// Reports until it is acknowledged, at times once more; `None`: another hand-out has come in between.
async fn report(caller: &Caller, agent: &Agent, message: &Value, random: &mut Seeded) -> Option<Reported> {
    let result = format!("answer to {}", text_of(message, "content"));
    let mut body = json!({ "message_id": message["id"], "result": result });
    if random.below(2) == 0 {
        body["delivery_attempt"] = message["delivery_attempt"].clone();
    }
    let times = if random.below(3) == 0 { 2 } else { 1 };
    for _ in 0..times {
        if caller.until_done(agent, "/api/gateway/report", &body).await["status"] != "ok" {
            return None;
        }
    }
    Some(Reported { message_id: text_of(message, "id"), result })
}

fn text_of(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field}: {value}")).to_owned()
}

/// What is told of them all, for the report of a run.
impl std::fmt::Display for MailJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut reports: BTreeMap<&str, usize> = BTreeMap::new();
        for reported in &self.reported {
            *reports.entry(&reported.message_id).or_default() += 1;
        }
        let again = reports.values().filter(|count| **count > 1).count();
        let (sent, seen) = (self.sent.len(), self.seen.len());
        write!(f, "{sent} messages of agents, {} reported ({again} of them again), {seen} replies seen", reports.len())
    }
}

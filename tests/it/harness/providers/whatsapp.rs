//! WhatsApp's Cloud API: `/{phone number id}/messages`.
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clawbroker::channels::hmac_sha256_hex;
use clawbroker::domain::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::{Asked, Reply, Rules};

pub(crate) const NUMBER: &str = "106540352242922";
pub(crate) const TOKEN: &str = "EAAJB";

/// How often a failure is told: Meta tells a thing more than once.
pub(crate) const TELLS: usize = 3;

/// Tells by calls what could not be delivered.
#[derive(Clone)]
pub(crate) struct Teller {
    hook: String,
    app_secret: String,
    /// How often a failure was heard.
    pub(crate) heard: Arc<AtomicUsize>,
}

impl Teller {
    /// `hook` is the whole URL.
    pub(crate) fn new(hook: String, app_secret: &str) -> Self {
        Self { hook, app_secret: app_secret.to_owned(), heard: Arc::default() }
    }

    /// Calls until it was heard so often; what is not answered with 200 is told again.
    async fn tell(self, to: String, id: String) {
        let now_s = SystemClock.now_ms() / 1_000;
        let (body, signature) = failed(&to, &[(&id, now_s)], &self.app_secret);
        for _ in 0..1_000 {
            if self.heard.load(Ordering::SeqCst) >= TELLS {
                return;
            }
            let call = awc::Client::new().post(&self.hook).insert_header(("X-Hub-Signature-256", signature.as_str()));
            match call.send_body(body.clone()).await {
                Ok(answer) if answer.status().as_u16() == 200 => {
                    self.heard.fetch_add(1, Ordering::SeqCst);
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// A call that tells which messages to a number could not be delivered, each with its time in epoch seconds, and its
/// signature.
pub(crate) fn failed(to: &str, ids: &[(&str, i64)], app_secret: &str) -> (String, String) {
    let details = "Message failed to send because more than 24 hours have passed since the customer last replied.";
    let errors = json!([{ "code": 131_047, "title": "Re-engagement message", "message": "Re-engagement message",
        "error_data": { "details": details } }]);
    let statuses: Vec<Value> = ids
        .iter()
        .map(|(id, at)| {
            json!({ "id": id, "status": "failed", "timestamp": at.to_string(), "recipient_id": to, "errors": errors })
        })
        .collect();
    event("statuses", &statuses, app_secret)
}

/// A call with lines of people (`messages`), or with what became of messages (`statuses`), and its signature.
pub(crate) fn event(what: &str, items: &[Value], app_secret: &str) -> (String, String) {
    let mut value = json!({ "messaging_product": "whatsapp", "metadata": { "phone_number_id": NUMBER } });
    value[what] = json!(items);
    let event = json!({ "object": "whatsapp_business_account",
        "entry": [{ "id": "1", "changes": [{ "field": "messages", "value": value }] }] });
    let body = event.to_string();
    let signature = format!("sha256={}", hmac_sha256_hex(app_secret.as_bytes(), &[body.as_bytes()]));
    (body, signature)
}

/// The rules, for one number.
pub(crate) struct WhatsAppRules {
    /// Who wrote within the last 24 hours.
    pub(crate) open: HashSet<String>,
    /// Who has WhatsApp.
    pub(crate) members: HashSet<String>,
    /// Number and text of what was sent.
    pub(crate) sent: Vec<(String, String)>,
    /// Tells those who have not written that it is too late, after their messages were taken; without it these are
    /// refused at once.
    pub(crate) teller: Option<Teller>,
    taken: usize,
}

impl WhatsAppRules {
    /// All of them wrote just now.
    pub(crate) fn new(members: &[&str]) -> Self {
        let members: HashSet<String> = members.iter().map(|id| (*id).to_owned()).collect();
        Self { open: members.clone(), members, sent: Vec::new(), teller: None, taken: 0 }
    }
}

/// An answer with one of the Graph's codes.
pub(crate) fn refused(status: u16, code: i64, message: &str) -> Reply {
    let error = json!({ "message": format!("(#{code}) {message}"), "type": "OAuthException", "code": code,
        "error_data": { "messaging_product": "whatsapp", "details": message }, "fbtrace_id": "A1" });
    Reply::new(status, json!({ "error": error }))
}

impl Rules for WhatsAppRules {
    fn answer(&mut self, asked: &Asked) -> Reply {
        let is_good = asked.header("authorization") == format!("Bearer {TOKEN}");
        if asked.method == "GET" && asked.path == format!("/v23.0/{NUMBER}") && is_good {
            return Reply::new(200, json!({ "id": NUMBER, "verified_name": "A business" }));
        }
        if asked.method != "POST" || asked.path != format!("/v23.0/{NUMBER}/messages") {
            return refused(400, 100, "Unsupported post request");
        }
        if !is_good {
            return refused(401, 190, "Invalid OAuth access token");
        }
        let body = asked.json();
        let to = body["to"].as_str().unwrap_or_default().to_owned();
        let text = body["text"]["body"].as_str().unwrap_or_default().to_owned();
        if body["messaging_product"] != "whatsapp" || body["type"] != "text" || text.is_empty() {
            return refused(400, 100, "Invalid parameter");
        }
        if text.chars().count() > 4_096 {
            return refused(400, 100, "Param text['body'] must be at most 4096 characters long.");
        }
        if !self.members.contains(&to) {
            return refused(400, 131_026, "Message undeliverable");
        }
        self.taken += 1;
        let id = format!("wamid.{}", self.taken);
        match &self.teller {
            _ if self.open.contains(&to) => self.sent.push((to.clone(), text)),
            Some(teller) => {
                actix::spawn(teller.clone().tell(to.clone(), id.clone()));
            }
            None => return refused(400, 131_047, "Re-engagement message"),
        }
        let contacts = json!([{ "input": to, "wa_id": to }]);
        Reply::new(200, json!({ "messaging_product": "whatsapp", "contacts": contacts, "messages": [{ "id": id }] }))
    }
}

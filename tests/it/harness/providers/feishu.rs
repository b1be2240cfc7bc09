//! Feishu's `tenant_access_token` and `im/v1/messages`.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Asked, Pace, Reply, Rules};

pub(crate) const APP: (&str, &str) = ("cli_1", "app secret");

/// The rules, for one app.
pub(crate) struct FeishuRules {
    /// Tokens that were given out.
    pub(crate) tokens: u32,
    /// The token that counts now; none after it ended.
    pub(crate) token: Option<String>,
    /// For how many seconds a token is good, as is told with it.
    pub(crate) expire: u64,
    /// How long it takes to give one out.
    pub(crate) token_takes: Duration,
    /// `user_id:…`, `open_id:…`, `chat_id:…` of whom the app may write to.
    pub(crate) known: HashSet<String>,
    /// As `known`, of whom it may not (230013).
    pub(crate) out_of_range: HashSet<String>,
    /// 5 a second for one recipient.
    pub(crate) pace: Pace,
    /// Recipient and text of what was sent.
    pub(crate) sent: Vec<(String, String)>,
    /// Requests for a message with a good token, repeats too.
    pub(crate) asked: usize,
    /// Requests for a message with another token than the one that counts.
    pub(crate) unauthorized: usize,
    /// Messages that came too fast for their recipient.
    pub(crate) too_fast: usize,
    by_uuid: HashMap<String, String>,
}

impl FeishuRules {
    pub(crate) fn new(known: &[&str]) -> Self {
        Self {
            tokens: 0,
            token: None,
            expire: 7_200,
            token_takes: Duration::ZERO,
            known: known.iter().map(|id| (*id).to_owned()).collect(),
            out_of_range: HashSet::new(),
            pace: Pace::new(5, Duration::from_secs(1)),
            sent: Vec::new(),
            asked: 0,
            unauthorized: 0,
            too_fast: 0,
            by_uuid: HashMap::new(),
        }
    }

    fn give_token(&mut self, body: &Value) -> Reply {
        if body["app_id"] != APP.0 {
            return refused(200, 10_003, "invalid param");
        }
        if body["app_secret"] != APP.1 {
            return refused(200, 10_014, "app secret invalid");
        }
        self.tokens += 1;
        let token = format!("t-{}", self.tokens);
        self.token = Some(token.clone());
        let body = json!({ "code": 0, "msg": "ok", "tenant_access_token": token, "expire": self.expire });
        Reply { after: self.token_takes, ..Reply::new(200, body) }
    }

    fn send(&mut self, id_type: &str, asked: &Asked) -> Reply {
        let bearer = asked.header("authorization").strip_prefix("Bearer ");
        if bearer.is_none() || bearer != self.token.as_deref() {
            self.unauthorized += 1;
            return refused(400, 99_991_663, "Invalid access token for authorization. Please make a test attempt");
        }
        self.asked += 1;
        let body = asked.json();
        let content: Value =
            body["content"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let (Some(id), Some(text), "text") = (
            body["receive_id"].as_str(),
            content["text"].as_str().filter(|text| !text.is_empty()),
            body["msg_type"].as_str().unwrap_or_default(),
        ) else {
            return refused(400, 230_001, "Your request contains an invalid request parameter");
        };
        if asked.body.len() > 150_000 {
            return refused(400, 230_025, "The length of the message content reaches its limit");
        }
        let uuid = body["uuid"].as_str().unwrap_or_default();
        if uuid.len() > 50 {
            return refused(400, 99_992_402, "field validation failed");
        }
        let to = format!("{id_type}:{id}");
        if self.out_of_range.contains(&to) {
            return refused(400, 230_013, "Bot has NO availability to this user.");
        }
        if !self.known.contains(&to) {
            return refused(400, 230_001, "Your request contains an invalid request parameter, ext=invalid receive_id");
        }
        if let Some(id) = self.by_uuid.get(uuid) {
            return sent(id);
        }
        if !self.pace.allows(&to) {
            self.too_fast += 1;
            return refused(400, 230_020, "This operation triggers the frequency limit.");
        }
        self.sent.push((to, text.to_owned()));
        let id = format!("om_{}", self.sent.len());
        if !uuid.is_empty() {
            self.by_uuid.insert(uuid.to_owned(), id.clone());
        }
        sent(&id)
    }
}

fn sent(id: &str) -> Reply {
    Reply::new(
        200,
        json!({ "code": 0, "msg": "success", "data": { "message_id": id, "chat_id": "oc_1", "msg_type": "text" } }),
    )
}

/// An answer with one of Feishu's codes.
pub(crate) fn refused(status: u16, code: i64, message: &str) -> Reply {
    Reply::new(status, json!({ "code": code, "msg": message }))
}

impl Rules for FeishuRules {
    fn is_message(&self, asked: &Asked) -> bool {
        asked.path.starts_with("/open-apis/im/")
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        let id_type = asked.path.strip_prefix("/open-apis/im/v1/messages?receive_id_type=");
        match (asked.method.as_str(), asked.path.as_str(), id_type) {
            ("POST", "/open-apis/auth/v3/tenant_access_token/internal", _) => self.give_token(&asked.json()),
            ("POST", _, Some(id_type @ ("user_id" | "open_id" | "chat_id"))) => self.send(id_type, asked),
            _ => Reply::new(404, json!("404 page not found")),
        }
    }
}

//! A receiver of webhooks that believes our signature and knows repeats.
use std::collections::HashSet;

use clawbroker::channels::webhook;
use clawbroker::domain::secret::Secret;
use serde_json::{Value, json};

use super::{Asked, Reply, Rules};

pub(crate) const SECRET: &str = "a shared secret of both sides";

/// The rules, for one receiver.
#[derive(Default)]
pub(crate) struct HookRules {
    /// Bodies, each message once.
    pub(crate) got: Vec<Value>,
    /// Calls, repeats too.
    pub(crate) calls: usize,
    ids: HashSet<String>,
}

impl Rules for HookRules {
    fn answer(&mut self, asked: &Asked) -> Reply {
        self.calls += 1;
        let time = asked.header("x-clawbroker-timestamp");
        let expected = webhook::signature(&Secret::new(SECRET), time, &asked.body);
        if asked.method != "POST" || asked.header("x-clawbroker-signature") != expected {
            return Reply::new(401, json!("the signature is wrong"));
        }
        let body = asked.json();
        let id = asked.header("x-clawbroker-id");
        if body["id"] != id {
            return Reply::new(400, json!("two ids"));
        }
        if self.ids.insert(id.to_owned()) {
            self.got.push(body);
        }
        Reply::new(200, json!({}))
    }
}

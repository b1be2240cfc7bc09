//! WhatsApp's Cloud API: `/{phone number id}/messages`.
use std::collections::HashSet;

use serde_json::json;

use super::{Asked, Reply, Rules};

pub(crate) const NUMBER: &str = "106540352242922";
pub(crate) const TOKEN: &str = "EAAJB";

/// The rules, for one number.
pub(crate) struct WhatsAppRules {
    /// Who wrote within the last 24 hours.
    pub(crate) open: HashSet<String>,
    /// Who has WhatsApp.
    pub(crate) members: HashSet<String>,
    /// Number and text of what was sent.
    pub(crate) sent: Vec<(String, String)>,
}

impl WhatsAppRules {
    /// All of them wrote just now.
    pub(crate) fn new(members: &[&str]) -> Self {
        let members: HashSet<String> = members.iter().map(|id| (*id).to_owned()).collect();
        Self { open: members.clone(), members, sent: Vec::new() }
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
        if !self.open.contains(&to) {
            return refused(400, 131_047, "Re-engagement message");
        }
        self.sent.push((to.clone(), text));
        let id = format!("wamid.{}", self.sent.len());
        let contacts = json!([{ "input": to, "wa_id": to }]);
        Reply::new(200, json!({ "messaging_product": "whatsapp", "contacts": contacts, "messages": [{ "id": id }] }))
    }
}

//! Channels to people: how each provider wants a message, what its answers mean, and how to believe its calls.
//!
//! Everything here is pure: no actor, no store, no clock, and but for [`email::post`] no socket. Whoever owns a channel
//! carries a [`Request`] over, brings the [`Answer`] back to [`Channel::outcome`] and does what that says.
//!
//! One message goes out in steps ([`Step`]): `parts` of the text one after the other, each to the first address that
//! takes it.
//! ```text
//! step = Step::default()
//! loop: token = cached, or token_request() -> token()
//!       request(out, step, token) -> carry it -> outcome(out, step, answer)
//!         Sent        write down (chat, external id); step = step.next_part(), ready after parts(text)
//!         RenewToken  forget the token; step = step.renewed()           at most once a step
//!         NextAddress step = step.next_address()
//!         Retry       wait, same step: `after_ms`, else the owner's back-off
//!         Permanent   dead with these words
//!         Unknown     repeat() says whether the same step may be sent again; else dead(outcome_unknown)
//! ```
//! Invariants
//! - A provider that cannot recognise a repeat is never asked twice when it may have acted. So once a part is out
//!   (`step.part > 0`) the owner keeps the step through retries and does not give the delivery back.
//! - SEC-1: tokens, keys and the URLs and bodies that hold them show in no `Debug`; where a provider repeats one of
//!   them, its words reach nobody as they are (`hidden.rs`). Bodies of answers are never told, only what stands in a field
//!   that the provider documents for it.
//! - No answer and no call, whatever it holds, makes this code panic; what it keeps of them is bounded.
use std::fmt;

use bytes::Bytes;

use crate::domain::channel::{Address, ChannelKind};
use crate::domain::ids::{ConversationId, DeliveryId};
use crate::domain::secret::Secret;

pub mod email;
pub mod feishu;
mod hidden;
mod inbound;
mod json;
mod judge;
pub mod setup;
mod signature;
pub mod ssrf;
pub mod telegram;
mod text;
pub mod webhook;
pub mod whatsapp;

pub use inbound::{Heard, INBOUND_BYTES_MAX, Inbound, InboundCall, Refused, Undelivered};
pub use signature::{hmac_sha256_hex, is_hmac_sha256, same_secret};
pub use text::PARTS_MAX;

/// Bytes of a provider's answer that are read; the owner stops there and hands over what it has.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A message on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Our name for it: what a provider recognises a repeat by, where one can.
    pub id: DeliveryId,
    /// The recipient's addresses for this kind of channel, in the order in which they are tried; never empty.
    pub to: &'a [Address],
    pub text: &'a str,
    /// Who speaks; shown by e-mail and told to webhooks. Elsewhere the text must say it.
    pub from: &'a str,
    /// Subject of an e-mail.
    pub subject: &'a str,
    pub conversation_id: ConversationId,
    /// Epoch milliseconds.
    pub created_at: i64,
    /// When this is sent, in epoch milliseconds; webhooks get it signed.
    pub now_ms: i64,
    /// The provider's id of the message that this one answers, on the same chat. Feishu and webhooks do not use it.
    pub reply_to: Option<&'a str>,
}

/// How far a message has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Index of the part of the text, below [`Channel::parts`].
    pub part: usize,
    /// Index of the address.
    pub address: usize,
    /// The token was renewed for this step already.
    pub renewed: bool,
}

impl Step {
    /// The next part, to the address that took this one.
    pub fn next_part(self) -> Self {
        Self { part: self.part + 1, address: self.address, renewed: false }
    }

    pub fn next_address(self) -> Self {
        Self { address: self.address + 1, ..self }
    }

    /// The same with a new token.
    pub fn renewed(self) -> Self {
        Self { renewed: true, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// A request to a provider. Redirects are not followed: a secret would go with them.
#[derive(Clone)]
pub struct HttpRequest {
    pub method: Method,
    /// Telegram's holds the bot's token.
    pub url: Secret,
    pub headers: Vec<(&'static str, Secret)>,
    pub body: Bytes,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &names)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// What is to be carried over.
#[derive(Clone, Debug)]
pub enum Request {
    Http(HttpRequest),
    /// By [`email::post`].
    Mail(email::Letter),
}

/// A whole answer over HTTP.
#[derive(Clone, Debug, Default)]
pub struct HttpAnswer {
    pub status: u16,
    /// Names are matched in any case.
    pub headers: Vec<(String, String)>,
    /// At most [`ANSWER_BYTES_MAX`] of it.
    pub body: Bytes,
}

impl HttpAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Http(HttpAnswer),
    Smtp(email::SmtpAnswer),
    /// No answer, or not all of one.
    None {
        /// False only where it is certain that the provider has not seen a whole request, for example when no
        /// connection was made.
        may_have_arrived: bool,
        /// Shown to people.
        why: String,
    },
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took it. Where it names neither, both are empty.
    Sent { external_id: String, chat: String },
    /// It did not, for a reason that passes.
    Retry { after_ms: Option<u64>, why: String },
    /// The token is no longer good.
    RenewToken { why: String },
    /// This address is none; the recipient has another.
    NextAddress { why: String },
    /// It never will, in the provider's words.
    Permanent { why: String },
    /// It may have taken it.
    Unknown { why: String },
}

impl Outcome {
    /// The words of a failure.
    fn why_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Sent { .. } => None,
            Self::Retry { why, .. }
            | Self::RenewToken { why }
            | Self::NextAddress { why }
            | Self::Permanent { why }
            | Self::Unknown { why } => Some(why),
        }
    }
}

/// Whether the provider recognises a message that it got before by our id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It does not: a message that may have arrived is not sent again.
    Never,
    /// For so long after it was sent first, in milliseconds.
    WithinMs(u64),
    Always,
}

/// So many in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per_ms: u64,
}

/// What a provider allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the whole channel, all of them at once.
    pub channel: &'static [Rate],
    /// For each address.
    pub address: Option<Rate>,
}

/// A credential that ends.
#[derive(Clone, Debug)]
pub struct Token {
    pub value: Secret,
    /// Seconds that it is good for from now on, some of them held back.
    pub expires_in_s: u64,
}

/// A provider with one channel's settings.
pub trait Channel: fmt::Debug + Send + Sync {
    fn kind(&self) -> ChannelKind;

    fn limits(&self) -> Limits;

    fn repeat(&self) -> Repeat {
        Repeat::Never
    }

    /// Tells in how many parts a text goes out: at least one, at most [`PARTS_MAX`].
    fn parts(&self, text: &str) -> usize;

    /// Tells whether a text is too long to go out whole: what is over is cut off, with `…` at its end.
    fn cuts(&self, _text: &str) -> bool {
        false
    }

    /// Asks for a token; `None` where none is needed. Asking has no effect, so it may always be repeated.
    fn token_request(&self) -> Option<HttpRequest> {
        None
    }

    /// Reads the answer to [`Channel::token_request`]; the error is `Retry` or `Permanent`. Owners ask
    /// [`setup::Provider::token`], whose words hold no secret.
    fn token(&self, _answer: &Answer) -> Result<Token, Outcome> {
        Err(Outcome::Permanent { why: "this channel needs no token".to_owned() })
    }

    /// Builds the request of a step; the error says why this can never be sent.
    fn request(&self, out: &Outgoing<'_>, step: Step, token: Option<&Token>) -> Result<Request, String>;

    /// Judges the answer. `RenewToken` comes at most once a step, `NextAddress` only while there is one. Owners ask
    /// [`setup::Provider::outcome`], whose words hold no secret.
    fn outcome(&self, out: &Outgoing<'_>, step: Step, answer: &Answer) -> Outcome;

    /// Believes and reads a call of the provider. What comes out may repeat what came before: providers call again
    /// until they are answered with 200.
    fn hear(&self, call: &InboundCall<'_>, now_ms: i64) -> Result<Heard, Refused>;
}

/// Returns the address of a step.
fn address<'a>(out: &Outgoing<'a>, step: Step) -> Result<&'a Address, String> {
    out.to.get(step.address).ok_or_else(|| "the recipient has no address on this channel".to_owned())
}

/// An address of another kind of channel: a mistake of ours.
fn foreign(kind: ChannelKind) -> String {
    format!("the recipient's address is not one of {}", kind.as_str())
}

/// Joins a base URL and a path.
fn join(base: &str, path: &str) -> String {
    format!("{}/{path}", base.trim_end_matches('/'))
}

#[cfg(test)]
mod fixtures;

//! E-mail: one letter a message, over SMTP (`email/smtp.rs`). What people answer by e-mail is not read.
//!
//! - `Message-ID` is made of our id. Servers do not compare it, so an unknown outcome is final.
//! - `Auto-Submitted: auto-generated` keeps other machines from answering.
//! - What senders write cannot become a header: control characters are taken out, the rest is encoded by `lettre`.
//! - Nor can it end the letter: a CR that stands alone, which some servers take for the end of a line, becomes one.
use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Mailboxes, Message, SinglePart};

use super::{
    Answer, Channel, Heard, InboundCall, Limits, Outcome, Outgoing, Rate, Refused, Request, Step, Token, address,
    foreign, judge,
};
use crate::domain::channel::{Address, ChannelKind};
use crate::domain::secret::Secret;

mod smtp;

pub use smtp::{greet, post};

/// Characters of a subject and of a name.
const SUBJECT_MAX: usize = 200;
/// Latest date that is written, in epoch milliseconds: the year 2200. A damaged row must not stop us.
const DATE_MAX_MS: u64 = 7_258_118_400_000;
/// Servers say no limits; this is what small ones bear.
const LIMITS: Limits =
    Limits { channel: &[Rate { count: 10, per_ms: 1_000 }], address: Some(Rate { count: 30, per_ms: 60_000 }) };

/// How the way to the server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// From the first byte, as on port 465.
    Tls,
    /// After `STARTTLS`, as on port 587; a server without it is refused.
    StartTls,
    /// Not at all: for a relay on this machine. No password is sent.
    Plain,
}

/// A mail server, and who we are to it.
#[derive(Clone, Debug)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub credentials: Option<(String, Secret)>,
}

/// A mailbox to send from.
#[derive(Clone, Debug)]
pub struct Email {
    pub server: Server,
    /// `name@example.org`.
    pub from: String,
}

/// A letter with its envelope.
#[derive(Clone)]
pub struct Letter {
    pub server: Server,
    pub from: lettre::Address,
    pub to: lettre::Address,
    /// Headers and body; ASCII only.
    pub content: Vec<u8>,
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.content.len();
        f.debug_struct("Letter").field("server", &self.server).field("bytes", &bytes).finish_non_exhaustive()
    }
}

/// How a conversation with a mail server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpEnd {
    /// It has the letter.
    Accepted,
    /// 4xx.
    Later,
    /// 5xx, or it lacks what we need.
    Never,
    /// It broke off, or took too long. Once the letter was on its way, the server may have it.
    Broken { letter_sent: bool },
}

/// How it ended, and in what words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpAnswer {
    pub end: SmtpEnd,
    pub words: String,
}

/// `Auto-Submitted` (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted(String);

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(value: &str) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        Ok(Self(value.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.clone())
    }
}

impl Email {
    fn message_id(&self, out: &Outgoing<'_>) -> String {
        let domain = self.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
        format!("<{}@{domain}>", out.id)
    }
}

/// Tells whether letters can be sent from an address.
pub fn is_address(text: &str) -> bool {
    mailbox_address(text).is_ok()
}

fn mailbox_address(text: &str) -> Result<lettre::Address, String> {
    let address = text.trim().parse::<lettre::Address>().ok().filter(|_| text.is_ascii());
    // A letter is made only with what can be read again from its header: no `[127.0.0.1]` as a domain.
    let address = address.filter(|address| address.to_string().parse::<Mailboxes>().is_ok());
    address.ok_or_else(|| "this is no e-mail address in ASCII".to_owned())
}

/// Takes out what could end a header's line.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_MAX).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells whether a text is the id of a letter: `<…@…>` in visible ASCII.
fn is_message_id(text: &str) -> bool {
    let inner = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    inner.is_some_and(|inner| {
        inner.len() <= 250
            && inner.contains('@')
            && inner.bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>')
    })
}

impl Channel for Email {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Email
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn parts(&self, _text: &str) -> usize {
        1
    }

    fn request(&self, out: &Outgoing<'_>, step: Step, _token: Option<&Token>) -> Result<Request, String> {
        let Address::Email(to) = address(out, step)? else { return Err(foreign(ChannelKind::Email)) };
        if self.server.security == Security::Plain && self.server.credentials.is_some() {
            return Err("a password is never sent without TLS".to_owned());
        }
        let to = mailbox_address(to)?;
        let from = mailbox_address(&self.from).map_err(|why| format!("the channel's sender: {why}"))?;
        let name = Some(one_line(out.from)).filter(|name| !name.is_empty());
        let sent_ms = u64::try_from(out.created_at).unwrap_or(0).min(DATE_MAX_MS);
        let mut builder = Message::builder()
            .from(Mailbox::new(name, from.clone()))
            .to(Mailbox::new(None, to.clone()))
            .subject(one_line(out.subject))
            .date(SystemTime::UNIX_EPOCH + Duration::from_millis(sent_ms))
            .message_id(Some(self.message_id(out)))
            .header(AutoSubmitted("auto-generated".to_owned()));
        if let Some(answered) = out.reply_to.filter(|id| is_message_id(id)) {
            builder = builder.in_reply_to(answered.to_owned()).references(answered.to_owned());
        }
        let text = out.text.replace("\r\n", "\n").replace('\r', "\n");
        let letter = builder.singlepart(SinglePart::plain(text)).map_err(|error| error.to_string())?;
        Ok(Request::Mail(Letter { server: self.server.clone(), from, to, content: letter.formatted() }))
    }

    fn outcome(&self, out: &Outgoing<'_>, step: Step, answer: &Answer) -> Outcome {
        let answer = match answer {
            Answer::Smtp(answer) => answer,
            Answer::None { may_have_arrived, why } => return judge::silence(*may_have_arrived, why),
            Answer::Http(_) => return judge::foreign(),
        };
        let why = judge::words(&answer.words);
        match answer.end {
            SmtpEnd::Accepted => Outcome::Sent {
                external_id: self.message_id(out),
                chat: address(out, step).map(|to| to.as_str().to_owned()).unwrap_or_default(),
            },
            SmtpEnd::Later => Outcome::Retry { after_ms: None, why },
            SmtpEnd::Never => Outcome::Permanent { why },
            SmtpEnd::Broken { letter_sent } => judge::silence(letter_sent, &why),
        }
    }

    fn hear(&self, _call: &InboundCall<'_>, _now_ms: i64) -> Result<Heard, Refused> {
        Err(Refused::Closed)
    }
}

#[cfg(test)]
mod tests;

//! What providers call us with.
use bytes::Bytes;

/// Bytes of a call that are read; a longer one is refused with 413 before it comes here.
pub const INBOUND_BYTES_MAX: usize = 1 << 20;

/// Characters of one text; the rest is cut off, with `…` at its end.
const TEXT_MAX: usize = 65_536;
/// Bytes of an id; a message with a longer one is not read.
const ID_BYTES_MAX: usize = 256;
/// Characters of a name.
const NAME_MAX: usize = 120;
/// Messages of one call.
const MESSAGES_MAX: usize = 1_000;

/// A call of a provider, as it came.
#[derive(Clone, Copy, Debug)]
pub struct InboundCall<'a> {
    /// `GET` or `POST`.
    pub method: super::Method,
    /// Names in small letters.
    pub headers: &'a [(&'a str, &'a str)],
    /// Decoded pairs of the query.
    pub query: &'a [(&'a str, &'a str)],
    /// The raw bytes: signatures are over them.
    pub body: &'a [u8],
}

impl<'a> InboundCall<'a> {
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    pub(super) fn query(&self, name: &str) -> Option<&'a str> {
        self.query.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }
}

/// What a call that is believed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The provider checks whether this address is ours: answer 200 with just this.
    Challenge { content_type: &'static str, body: Bytes },
    /// Lines of people, in their order; maybe none. Answer 200 when they are on disk.
    Messages(Vec<Inbound>),
    /// The same, with messages of ours that the provider had taken and could not deliver.
    WithFailures { lines: Vec<Inbound>, failed: Vec<Undelivered> },
}

/// A message of ours that the provider had taken and could not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The provider's ids of the chat; it is known by one of them.
    pub chats: Vec<String>,
    /// The provider's id of the message.
    pub external_id: String,
    /// Its words.
    pub why: String,
    /// When, by the provider's clock, in epoch milliseconds.
    pub at: Option<i64>,
}

impl Undelivered {
    /// `None` if an id is empty or too long: it is none of ours.
    fn bounded(mut self) -> Option<Self> {
        self.chats.retain(|chat| is_id(chat));
        let fits = !self.chats.is_empty() && is_id(&self.external_id);
        fits.then_some(self)
    }
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.contains('\0')
}

/// A line of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The provider's id of the line, unique on its chat.
    pub external_id: String,
    /// The provider's id of the chat.
    pub chat: String,
    /// Who speaks, in the provider's words: `open_id`, user id, telephone number.
    pub sender_ref: String,
    /// Other names by which the same sender may be known; Feishu's `user_id`.
    pub sender_alias: Option<String>,
    pub sender_name: Option<String>,
    pub text: String,
    /// The id of the line that this one answers, on the same chat.
    pub reply_to_external_id: Option<String>,
    /// When, by the provider's clock, in epoch milliseconds.
    pub sent_at: Option<i64>,
}

impl Inbound {
    /// Keeps the line within its bounds; `None` if it has no text or an id that is empty or too long.
    pub(super) fn bounded(mut self) -> Option<Self> {
        if ![&self.external_id, &self.chat, &self.sender_ref].into_iter().all(|id| is_id(id)) {
            return None;
        }
        self.sender_alias = self.sender_alias.filter(|id| is_id(id));
        self.reply_to_external_id = self.reply_to_external_id.filter(|id| is_id(id));
        self.sender_name = self.sender_name.map(|name| super::judge::words(&cut(&name, NAME_MAX)));
        self.sender_name = self.sender_name.filter(|name| !name.is_empty());
        // PostgreSQL has no NUL in a text.
        self.text = cut(&self.text.replace('\0', ""), TEXT_MAX);
        (!self.text.trim().is_empty()).then_some(self)
    }
}

/// Reads lines within their bounds.
pub(super) fn heard(lines: impl Iterator<Item = Inbound>) -> Heard {
    Heard::Messages(lines.filter_map(Inbound::bounded).take(MESSAGES_MAX).collect())
}

/// Reads lines and failures within their bounds.
pub(super) fn heard_with(lines: impl Iterator<Item = Inbound>, failed: impl Iterator<Item = Undelivered>) -> Heard {
    let failed: Vec<Undelivered> = failed.filter_map(Undelivered::bounded).take(MESSAGES_MAX).collect();
    match heard(lines) {
        Heard::Messages(lines) if !failed.is_empty() => Heard::WithFailures { lines, failed },
        heard => heard,
    }
}

/// The word for what a provider has learned since this was written.
pub(super) const UNKNOWN: &str = "something that is not known here";

/// What stands for something that is no text, with what its sender wrote to it.
pub(super) fn not_text(what: &str, caption: Option<&str>) -> String {
    match caption.map(str::trim).filter(|caption| !caption.is_empty()) {
        Some(caption) => format!("[{what}] {caption}"),
        None => format!("[{what}]"),
    }
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", text.split_at(at).0),
    }
}

/// Why a call is not believed. What it held is not told, not even to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its signature, token or secret is wrong or missing: 401.
    Unproven,
    /// It was signed too long ago or for the future: 401.
    Stale,
    /// It is believed, but is not what the provider documents: 400.
    Shape(&'static str),
    /// This channel takes no calls, or lacks the secret to believe one: 404.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Inbound {
        Inbound {
            external_id: "1".into(),
            chat: "c".into(),
            sender_ref: "s".into(),
            sender_alias: Some(String::new()),
            sender_name: Some(" \n ".into()),
            text: text.into(),
            reply_to_external_id: Some("x".repeat(ID_BYTES_MAX + 1)),
            sent_at: None,
        }
    }

    #[test]
    fn lines_are_kept_within_their_bounds() {
        let kept = line("a\0b").bounded().expect("a line");
        assert_eq!(
            (kept.text.as_str(), kept.sender_alias, kept.sender_name, kept.reply_to_external_id),
            ("ab", None, None, None)
        );
        let long = line(&"ä".repeat(TEXT_MAX + 5)).bounded().expect("a line");
        assert_eq!(long.text.chars().count(), TEXT_MAX + 1);
        assert!(long.text.ends_with('…'));
        for blank in ["", " ", "\0", "\n"] {
            assert_eq!(line(blank).bounded(), None, "{blank:?}");
        }
        let changes: [fn(&mut Inbound); 3] = [
            |line| line.external_id.clear(),
            |line| line.chat = "x".repeat(ID_BYTES_MAX + 1),
            |line| line.sender_ref = "\0".into(),
        ];
        for change in changes {
            let mut line = line("text");
            change(&mut line);
            assert_eq!(line.bounded(), None);
        }
        let Heard::Messages(lines) = heard(std::iter::repeat_with(|| line("x")).take(MESSAGES_MAX + 1)) else {
            panic!("lines");
        };
        assert_eq!(lines.len(), MESSAGES_MAX);
    }
}

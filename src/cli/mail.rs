//! `send`, and what `agent` does as an agent: a client of the mailbox family, as small as one can be.
use std::io::Read;
use std::time::Duration;

use awc::http::Method;
use clap::Args;
use serde_json::{Value, json};

use super::client::{self, Answered, exchange};
use super::failure::Failure;
use super::output::{complain, date, json as print_json, say, text};
use super::{Common, Format, secrets};
use crate::config::PublicUrl;
use crate::domain::agent::LEASE_S;
use crate::domain::ids::MessageId;
use crate::domain::secret::Secret;

/// How long a call may take, beside what it waits for messages.
const CALL: Duration = Duration::from_secs(60);
/// Bytes of text that one poll brings at most: as JSON it fits into what is read of an answer.
const POLL_BYTES_MAX: u32 = 1 << 20;
/// Longest text that is read from standard input; the broker takes less.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// As which agent, and where.
#[derive(Debug, Args)]
pub(super) struct As {
    /// Where the broker is [default: the server that runs on the data directory]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    key: secrets::Key,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Poll {
    /// Seconds to wait if nothing is there
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60))]
    wait: u32,
    /// Messages at most [default: as the broker has it]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: Option<u32>,
    /// Seconds for which the messages are this agent's [default: as it was registered]
    #[arg(long, value_name = "SECONDS", value_parser = lease())]
    lease: Option<u32>,
    /// Have replies and notices come again until `agent ack` names them
    #[arg(long)]
    ack: bool,
    #[command(flatten)]
    asker: As,
}

#[derive(Debug, Args)]
pub(super) struct Report {
    /// The message, as `agent poll` shows it
    message_id: MessageId,
    /// The answer; `-` reads it from standard input
    result: String,
    /// The attempt that it is about; it is refused if the message was handed out again since
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    attempt: Option<i32>,
    #[command(flatten)]
    asker: As,
}

#[derive(Debug, Args)]
pub(super) struct Ack {
    /// Replies and notices, as `agent poll` shows them
    #[arg(required = true, num_args = 1..=100)]
    message_ids: Vec<MessageId>,
    #[command(flatten)]
    asker: As,
}

#[derive(Debug, Args)]
pub(super) struct Outgoing {
    /// To whom: an id, a slug, a name, or a part of a name that only one has
    #[arg(long, value_name = "TARGET")]
    to: String,
    /// What to say; `-` reads it from standard input
    text: String,
    /// A name of your own for this message: with the same one it is sent once [default: a new one]
    #[arg(long, value_name = "NAME")]
    message_id: Option<String>,
    /// The message because of which it is sent
    #[arg(long, value_name = "MESSAGE_ID")]
    in_reply_to: Option<MessageId>,
    /// By which way: `agent`, or to a person `feishu`, `telegram`, `whatsapp`, `email` or `webhook` [default: the first
    /// that works]
    #[arg(long, value_name = "KIND")]
    channel: Option<String>,
    #[command(flatten)]
    asker: As,
}

fn lease() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*LEASE_S.start())..=i64::from(*LEASE_S.end()))
}

/// Gets messages and shows them.
pub(super) async fn poll(common: &Common, poll: &Poll) -> Result<(), Failure> {
    let mailbox = Mailbox::reach(common, &poll.asker).await?;
    let mut path = format!("poll?wait={}&max_bytes={POLL_BYTES_MAX}", poll.wait);
    for (field, value) in [("limit", poll.limit), ("lease", poll.lease)] {
        path.extend(value.map(|value| format!("&{field}={value}")));
    }
    if poll.ack {
        path.push_str("&ack=explicit");
    }
    let polled = mailbox.call(Method::GET, &path, None, Duration::from_secs(u64::from(poll.wait))).await?;
    if poll.asker.format.json {
        return print_json(&polled);
    }
    tell(&polled);
    Ok(())
}

/// Says that a message is done.
pub(super) async fn report(common: &Common, report: &Report) -> Result<(), Failure> {
    let mailbox = Mailbox::reach(common, &report.asker).await?;
    let mut body = json!({ "message_id": report.message_id, "result": given(&report.result)? });
    if let (Some(attempt), Some(fields)) = (report.attempt, body.as_object_mut()) {
        fields.insert("delivery_attempt".to_owned(), attempt.into());
    }
    let done = mailbox.post("report", &body).await?;
    if report.asker.format.json {
        return print_json(&done);
    }
    say(format_args!("Message {} is done.", report.message_id));
    Ok(())
}

/// Says that replies and notices have arrived.
pub(super) async fn ack(common: &Common, ack: &Ack) -> Result<(), Failure> {
    let mailbox = Mailbox::reach(common, &ack.asker).await?;
    let acked = mailbox.post("ack", &json!({ "message_ids": ack.message_ids })).await?;
    let count = |field: &str| acked.get(field).and_then(Value::as_array).map_or(0, Vec::len);
    if ack.asker.format.json {
        print_json(&acked)?;
    } else {
        say(format_args!("{} acknowledged.", count("acked")));
    }
    match count("unknown") {
        0 => Ok(()),
        n => Err(Failure::new(format!("{n} cannot be acknowledged: not in this mailbox, a request, or ended"))),
    }
}

/// Writes to somebody.
pub(super) async fn send(common: &Common, send: &Outgoing) -> Result<(), Failure> {
    let mailbox = Mailbox::reach(common, &send.asker).await?;
    // Whoever does not know whether it was sent repeats it under the same name.
    let name = send.message_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let mut body = json!({ "target": send.to, "content": given(&send.text)?, "message_id": name });
    let because = send.in_reply_to.map(|id| id.to_string());
    for (field, value) in [("in_reply_to", because), ("channel", send.channel.clone())] {
        if let (Some(value), Some(fields)) = (value, body.as_object_mut()) {
            fields.insert(field.to_owned(), value.into());
        }
    }
    let sent = match mailbox.ask(Method::POST, "send-message", Some(&body), Duration::ZERO).await {
        Ok(answered) if answered.status.is_success() => answered.body,
        Ok(answered) if is_final(&answered) => return Err(refused(&answered)),
        Ok(answered) => return Err(unsure(&refused(&answered), &name)),
        Err(failure) => return Err(unsure(&failure, &name)),
    };
    if send.asker.format.json {
        return print_json(&sent);
    }
    let (id, target) = (text(&sent, "message_id"), plain(text(&sent, "target")));
    let (status, channel) = (text(&sent, "status"), text(&sent, "channel"));
    if channel.is_empty() {
        say(format_args!("Message {id} to {target} is {status}."));
    } else {
        say(format_args!("Message {id} to {target} is {status} by {channel}."));
        // What there is to know besides: that it waits, or was cut.
        let more = plain(text(&sent, "message"));
        if !more.is_empty() {
            complain(more);
        }
    }
    Ok(())
}

/// Tells whether a repeat would get the same refusal: the call was wrong, or the provider will not take the message.
fn is_final(answered: &Answered) -> bool {
    let code = answered.body.pointer("/error/code").and_then(Value::as_str);
    answered.status.is_client_error() || code == Some("channel_failed")
}

/// Reads a text that was given as an argument or comes from standard input.
fn given(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(TEXT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// The mailbox of an agent, at a broker that may be anywhere.
struct Mailbox {
    url: String,
    key: Secret,
    http: awc::Client,
}

impl Mailbox {
    async fn reach(common: &Common, asker: &As) -> Result<Self, Failure> {
        let key = asker.key.read()?;
        let url = match &asker.url {
            // The refusal does not repeat it: it may hold a password.
            Some(url) => {
                let url: PublicUrl = url.parse().map_err(|error: String| Failure::usage(format!("--url {error}")))?;
                url.as_str().to_owned()
            }
            None => {
                let config = common.load_quietly()?;
                let found = client::address(&config).await;
                found
                    .ok_or_else(|| Failure::new("no server runs on the data directory: say with --url where one is"))?
            }
        };
        Ok(Self { url, key, http: awc::Client::builder().disable_redirects().finish() })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body), Duration::ZERO).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>, wait: Duration) -> Result<Value, Failure> {
        let answered = self.ask(method, path, body, wait).await?;
        if answered.status.is_success() { Ok(answered.body) } else { Err(refused(&answered)) }
    }

    /// Makes a call, whatever is answered.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>, wait: Duration) -> Result<Answered, Failure> {
        let request = self
            .http
            .request(method, format!("{}/api/gateway/{path}", self.url))
            .timeout(CALL + wait)
            .insert_header(("X-Api-Key", self.key.reveal()));
        exchange(request, body, &self.url).await
    }
}

/// Says how to repeat a message of which nobody knows whether it was sent.
fn unsure(failure: &Failure, name: &str) -> Failure {
    Failure::new(format!("{failure}; repeat with --message-id {name}"))
}

/// Makes one sentence of a refusal.
fn refused(answered: &Answered) -> Failure {
    let mut sentence = plain(&client::sentence(answered.status, &answered.body).to_string());
    let candidates = answered.body.pointer("/error/details/candidates").and_then(Value::as_array);
    // People have no slug.
    let field = |one: &Value| if text(one, "slug").is_empty() { "id" } else { "slug" };
    let names: Vec<&str> = candidates.into_iter().flatten().map(|one| text(one, field(one))).collect();
    if !names.is_empty() {
        sentence = format!("{sentence}: {}", names.join(", "));
    }
    if let Some(seconds) = answered.retry_after_s {
        sentence = format!("{sentence}; try again in {seconds} s");
    }
    Failure::new(sentence)
}

/// Prints messages for people.
fn tell(polled: &Value) {
    let messages = polled.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for message in messages {
        let names = ["sender_agent_name", "sender_user_name"].map(|field| text(message, field));
        let from = names.into_iter().find(|name| !name.is_empty()).unwrap_or("the broker");
        let attempt = message.get("delivery_attempt").and_then(Value::as_i64).unwrap_or_default();
        say(format_args!(
            "{}  {} from {}, attempt {attempt}, leased until {} UTC",
            text(message, "id"),
            text(message, "kind"),
            plain(from),
            date(text(message, "lease_until")),
        ));
        for line in text(message, "content").lines() {
            say(format_args!("  {}", plain(line)));
        }
    }
    if polled.get("paused").and_then(Value::as_bool).unwrap_or(false) {
        complain("The agent is paused: it gets nothing until an operator lets it run again.");
    } else if messages.is_empty() {
        complain("Nothing waits.");
    }
    let remaining = polled.get("remaining").and_then(Value::as_u64).unwrap_or(0);
    if remaining > 0 {
        complain(format_args!("{remaining} more can be polled now."));
    }
}

/// Takes out of a stranger's text what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use awc::http::StatusCode;

    use super::*;

    #[test]
    fn a_strangers_text_moves_no_cursor() {
        assert_eq!(plain("a\tb é 🚀"), "a\tb é 🚀");
        assert_eq!(plain("\u{1b}[2Jx\r\u{9b}"), "\u{fffd}[2Jx\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = |status: StatusCode, retry_after_s: Option<u64>, body: Value| {
            refused(&Answered { status, retry_after_s, body }).to_string()
        };
        let busy = json!({ "error": { "code": "store_busy", "message": "too much to do" } });
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, Some(2), busy), "too much to do; try again in 2 s");
        let candidates = json!([{ "slug": "ben-1", "name": "Ben" }, { "slug": "ben-2", "name": "Ben" }]);
        let several =
            json!({ "error": { "message": "several are called so", "details": { "candidates": candidates } } });
        assert_eq!(refused(StatusCode::CONFLICT, None, several), "several are called so: ben-1, ben-2");
        let candidates =
            json!([{ "id": "1", "slug": null, "name": "Eve" }, { "id": "2", "slug": null, "name": "Eve" }]);
        let several = json!({ "error": { "message": "who?", "details": { "candidates": candidates } } });
        assert_eq!(refused(StatusCode::CONFLICT, None, several), "who?: 1, 2");
        let wrong = json!({ "error": { "code": "unauthenticated", "message": "Invalid API key" } });
        assert_eq!(refused(StatusCode::UNAUTHORIZED, None, wrong), "Invalid API key");
    }
}

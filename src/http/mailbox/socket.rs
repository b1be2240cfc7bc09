//! What an agent's socket does: its frames are the calls of this family, carried out by the same functions.
use std::sync::Arc;

use bytestring::ByteString;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::asking;
use super::message::{self, Message, Room};
use super::poll::Window;
use super::send::{self, Written};
use super::{heartbeat, moves, people, report};
use crate::actors::agent_mailbox::{Ask, Leased, Ticket};
use crate::actors::agent_session::{Called, Desk, Handed, Inbound, Out, Picked, Read};
use crate::domain::agent::KeyFacts;
use crate::domain::error::{Error, ErrorCode};
use crate::http::body::{self, Received};
use crate::http::idempotency::Key;
use crate::http::state::AppState;

/// Longest `id` of a frame in bytes, where it is a text.
const ID_BYTES_MAX: usize = 255;
/// The frames that are known.
const KNOWN: &str = "poll, report, nack, fail, extend, ack, heartbeat, send, ping";

/// The edge, as the socket of one agent sees it.
pub(in crate::http) struct AgentDesk {
    pub(in crate::http) state: Arc<AppState>,
    /// What the socket was opened with.
    pub(in crate::http) key: Arc<KeyFacts>,
}

/// A message that is pushed: the fields that it has in the answer to a poll.
#[derive(Serialize)]
struct Pushed<'a> {
    #[serde(rename = "type")]
    frame: &'static str,
    #[serde(flatten)]
    message: &'a Message,
}

impl Desk for AgentDesk {
    fn read(&self, text: &str) -> Read {
        let mut fields = match body::frame(text, self.state.config.limits.json_depth_max) {
            Ok(fields) => fields,
            Err(error) => return Read { id: None, what: Err(error) },
        };
        match id_of(fields.remove("id")) {
            Ok(id) => Read { id, what: self.wanted(fields) },
            Err(error) => Read { id: None, what: Err(error) },
        }
    }

    fn messages(&self, ask: Ask, picked: Picked) -> LocalBoxFuture<'static, Result<Vec<Handed>, Error>> {
        let (state, key) = (self.state.clone(), self.key.clone());
        async move {
            let (leased, ticket) = asking::stand(&state, &key.agent, ask, &picked).await?;
            let config = &state.config.mailbox;
            let room = Room { lines: config.history_lines, line_bytes: config.history_bytes_max, bytes: ask.bytes };
            let messages = message::shown(&state, key.agent.party_id, &leased, room).await;
            leased.iter().zip(&messages).zip(ticket.each()).map(handed).collect::<Result<Vec<Handed>, Error>>()
        }
        .boxed_local()
    }
}

impl AgentDesk {
    /// Reads what a frame wants. A call is made when it is its turn, as the agent is then.
    fn wanted(&self, mut fields: Map<String, Value>) -> Result<Inbound, Error> {
        let Some(Value::String(kind)) = fields.remove("type") else {
            return Err(bad("a frame is an object with a `type`, for example {\"type\":\"ping\"}".to_owned()));
        };
        match kind.as_str() {
            "ping" => Ok(Inbound::Ping),
            "poll" => {
                let window: Received<Window> = self.fields(fields)?;
                let key = self.current()?;
                window.value.ask(&key, &self.state.config.mailbox).map(Inbound::Poll)
            }
            "report" => {
                let new: Received<report::New> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&report::take(&state, &key, new.value).await?) }))
            }
            "nack" => {
                let new: Received<moves::NewNack> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&moves::give_back(&state, &key, new.value).await?) }))
            }
            "fail" => {
                let new: Received<moves::NewFailure> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&moves::give_up(&state, &key, new.value).await?) }))
            }
            "extend" => {
                let new: Received<moves::NewExtension> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&moves::prolong(&state, &key, new.value).await?) }))
            }
            "ack" => {
                let new: Received<moves::NewAck> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&moves::acknowledge(&state, &key, new.value).await?) }))
            }
            "heartbeat" => {
                let new: Received<heartbeat::Beat> = self.fields(fields)?;
                Ok(self.call(|state, key| async move { json(&heartbeat::hear(&state, &key, new.value).await?) }))
            }
            "send" => {
                let new: Received<send::New> = body::of_frame_but(&self.state, fields, send::KEY_FIELD)?;
                Ok(self.turn(|state, key| async move {
                    let written = send::write(&state, &key, Key::default(), new).await?;
                    Ok(match written {
                        Written::Answer(answer) => Called::Now(json(&answer)?),
                        // Its place is taken; what the provider says of it holds up no other frame.
                        Written::ToPerson { sent, long } => {
                            Called::Later(async move { json(&people::told(&state, *sent, long).await?) }.boxed_local())
                        }
                    })
                }))
            }
            _ => {
                let kind: String = kind.chars().take(40).collect();
                Err(bad(format!("frames of type `{kind}` are not known; known are {KNOWN}")))
            }
        }
    }

    /// Reads the fields of a frame as those of the call that it stands for.
    fn fields<T: DeserializeOwned>(&self, fields: Map<String, Value>) -> Result<Received<T>, Error> {
        body::of_frame(&self.state, fields)
    }

    /// Returns the key as it is now, if it counts.
    fn current(&self) -> Result<Arc<KeyFacts>, Error> {
        let now_ms = self.state.clock.now_ms();
        let found = self.state.directory.known(|directory| directory.agents().current(self.key.key_id, now_ms))?;
        found.ok_or_else(|| Error::new(ErrorCode::Unauthenticated, "Invalid API key"))
    }

    /// Makes a call of it that is answered when its work is done.
    fn call<F>(&self, work: impl FnOnce(Arc<AppState>, Arc<KeyFacts>) -> F + 'static) -> Inbound
    where
        F: Future<Output = Result<Value, Error>> + 'static,
    {
        self.turn(move |state, key| async move { work(state, key).await.map(Called::Now) })
    }

    /// Makes a call of it, which is checked as one that comes over HTTP: whether this node answers, and whether the key
    /// counts. It notes that the key was used.
    fn turn<F>(&self, work: impl FnOnce(Arc<AppState>, Arc<KeyFacts>) -> F + 'static) -> Inbound
    where
        F: Future<Output = Result<Called, Error>> + 'static,
    {
        let desk = Self { state: self.state.clone(), key: self.key.clone() };
        let call = async move {
            asking::check(&desk.state)?;
            let key = desk.current()?;
            desk.state.directory.agents().note_seen(key.key_id, desk.state.clock.now_ms());
            work(desk.state, key).await
        };
        Inbound::Call(call.boxed_local())
    }
}

/// What the client calls a frame by: a text or a number.
fn id_of(id: Option<Value>) -> Result<Option<Value>, Error> {
    match id {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if id.len() <= ID_BYTES_MAX => Ok(Some(Value::String(id))),
        Some(Value::Number(id)) => Ok(Some(Value::Number(id))),
        Some(_) => Err(bad(format!("`id` of a frame is a number, or a text of at most {ID_BYTES_MAX} bytes"))),
    }
}

/// Puts a message that was leased into its frame.
fn handed(((leased, message), ticket): ((&Leased, &Message), Ticket)) -> Result<Handed, Error> {
    let frame = serde_json::to_string(&Pushed { frame: "message", message }).map_err(Error::internal)?;
    let out = Out {
        message_id: leased.line.id,
        conversation_id: leased.line.conversation_id,
        attempt: leased.attempt,
        lease_until: leased.lease_until,
    };
    Ok(Handed { frame: ByteString::from(frame), out, ticket })
}

fn json<T: Serialize>(answer: &T) -> Result<Value, Error> {
    serde_json::to_value(answer).map_err(Error::internal)
}

fn bad(sentence: String) -> Error {
    Error::new(ErrorCode::BadFrame, sentence)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_is_called_by_a_number_or_a_short_text() {
        let long = "x".repeat(ID_BYTES_MAX);
        for id in [json!("a"), json!(7), json!(1.5), json!(long)] {
            assert_eq!(id_of(Some(id.clone())).expect("an id"), Some(id));
        }
        assert_eq!((id_of(None).expect("none"), id_of(Some(Value::Null)).expect("none")), (None, None));
        for wrong in [json!(true), json!([1]), json!({}), json!(format!("{long}x"))] {
            assert_eq!(id_of(Some(wrong)).expect_err("refused").code(), ErrorCode::BadFrame);
        }
    }
}

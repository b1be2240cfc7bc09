//! Speaks the frames of an ancestor to a person who talks to an agent, and our own to the session: an actor between the
//! two that changes the words and nothing else.
//!
//! Owner: the transport actor that made it, one for each socket that wants these frames, on the same thread. Bounds,
//! rights and closing are the session's, as without it; it holds no frame back.
//!
//! Invariants
//! - CNV-1: lines go out in the order in which the session sends them.
//! - SEC-2: it hears of the session's one conversation only, so that a push reaches nobody else who watches the agent.
mod words;

use actix::prelude::*;
use bytestring::ByteString;

use self::words::Said;
use super::browser_session::{FromTransport, Outgoing};

pub use self::words::{broken, error};

/// The ancestor's code for a socket that has no right, or no more.
const NO_RIGHT: u16 = 4001;
/// For a session that is not the caller's.
const NOT_YOURS: u16 = 4003;
/// For what will not work the next time either.
const NO_USE: u16 = 4002;
/// For what may work in a moment.
const LATER: u16 = 1013;

pub struct AgentDialect {
    session: Recipient<FromTransport>,
    transport: Recipient<Outgoing>,
    /// The session that the client names.
    wanted: Option<String>,
    connected: bool,
}

impl AgentDialect {
    pub fn new(session: Recipient<FromTransport>, transport: Recipient<Outgoing>, wanted: Option<String>) -> Self {
        Self { session, transport, wanted, connected: false }
    }

    /// Puts a frame of the session into the ancestor's words, if it has any for it.
    fn translate(&mut self, frame: &str) -> Option<ByteString> {
        match words::said(frame)? {
            Said::Session(session_id) => {
                if self.connected {
                    return None;
                }
                if self.wanted.as_ref().is_some_and(|wanted| *wanted != session_id) {
                    self.close(NOT_YOURS, "Not authorized for this session");
                    return None;
                }
                self.connected = true;
                Some(words::connected(&session_id))
            }
            Said::Refused(code) if !self.connected => match refusal(&code) {
                Some((code, reason)) => {
                    self.close(code, reason);
                    None
                }
                None => words::refused(frame),
            },
            Said::Refused(_) => words::refused(frame),
            Said::Words(frame) => Some(frame),
        }
    }

    /// Says why and closes. The session hears of the end by the transport.
    fn close(&self, code: u16, reason: &'static str) {
        self.transport.do_send(Outgoing::Frames(vec![error(reason).into()]));
        self.transport.do_send(Outgoing::Close { code, reason });
    }
}

/// Says how a socket ends that was refused its session. `None`: the code answers a frame of the client's, which was
/// refused before its turn; all that has its turn comes behind what names the session.
fn refusal(code: &str) -> Option<(u16, &'static str)> {
    match code {
        "bad_frame" | "rate_limited" => None,
        "forbidden" | "not_found" => Some((NOT_YOURS, "Not authorized for this session")),
        "invalid_request" => Some((NO_USE, "Setup failed")),
        _ => Some((LATER, "Setup failed for now")),
    }
}

impl Actor for AgentDialect {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        // What the session says then names it.
        self.session.do_send(FromTransport::Text(words::SUBSCRIBE.into()));
    }
}

impl Handler<Outgoing> for AgentDialect {
    type Result = ();

    /// Bounded by the session, which waits for each batch.
    fn handle(&mut self, msg: Outgoing, _ctx: &mut Self::Context) {
        match msg {
            Outgoing::Frames(frames) => {
                let frames = frames.iter().filter_map(|frame| self.translate(frame)).collect();
                self.transport.do_send(Outgoing::Frames(frames));
            }
            Outgoing::Close { code: 1008, reason } => self.close(NO_RIGHT, reason),
            Outgoing::Close { code: 4404, reason } => self.close(NO_USE, reason),
            other => self.transport.do_send(other),
        }
    }
}

impl Handler<FromTransport> for AgentDialect {
    type Result = ();

    fn handle(&mut self, msg: FromTransport, ctx: &mut Self::Context) {
        match msg {
            FromTransport::Text(text) => {
                let text = words::asked(&text);
                // Its turn to be read comes when the session has room; the transport waits as long.
                let sent = self.session.send(FromTransport::Text(text));
                ctx.wait(sent.into_actor(self).map(|_, _, _| ()));
            }
            FromTransport::Gone => {
                self.session.do_send(FromTransport::Gone);
                ctx.stop();
            }
            other => self.session.do_send(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again() {
        for (code, closed) in [
            ("bad_frame", None),
            ("rate_limited", None),
            ("forbidden", Some(NOT_YOURS)),
            ("not_found", Some(NOT_YOURS)),
            ("invalid_request", Some(NO_USE)),
            ("store_busy", Some(LATER)),
            ("standby", Some(LATER)),
            ("shutting_down", Some(LATER)),
            ("storage_full", Some(LATER)),
            ("internal", Some(LATER)),
        ] {
            assert_eq!(refusal(code).map(|(code, _)| code), closed, "{code}");
        }
    }
}

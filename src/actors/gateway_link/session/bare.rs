//! Runs whose last event has no text.
//!
//! From 2026.9 on a gateway takes back what an answer after a tool call has streamed, and ends the run without a message;
//! the answer stands in the run's last `agent` event, before or behind that end, and in the log. Whoever says nothing on
//! purpose ends in the same way. On protocol 3 a question may be put off like this, and be answered under another id.
use super::{BARE_LOOK_MS, BARE_WAIT_MS, Effect, End, RESUME_LOOK_MS, Run, Session, Stage};
use crate::gateway::frames::{ChatEvent, TerminalReply};

impl Run {
    /// Tells whether this end leaves open what was answered.
    pub(super) fn is_bare(&self, event: &ChatEvent, protocol: u32) -> bool {
        let may_be_put_off = protocol >= 4 || self.question.is_some();
        event.text.is_none() && self.text.visible().is_empty() && may_be_put_off && !self.abort_wanted
    }

    /// The gateway has said that the run is over, and its answer is looked for.
    pub(super) fn is_over_bare(&self, protocol: u32) -> bool {
        self.ended_bare && protocol >= 4
    }
}

impl Session {
    /// The run at hand ended without a text: its answer is taken from where it stands.
    pub(super) fn end_bare(&mut self, event: &ChatEvent, now_ms: i64) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = &mut self.run else { return Vec::new() };
        if let Some(reply) = run.reply.take().filter(|_| protocol >= 4) {
            return self.end(End { said_at: event.timestamp_ms, ..End::answered(reply.text, event.usage.clone()) });
        }
        run.ended_bare = true;
        run.is_seen = true;
        if protocol >= 4 {
            run.stage = Stage::Resuming { until: now_ms + BARE_WAIT_MS };
            // Its word may be the next one that comes.
            return self.look_later(BARE_LOOK_MS);
        }
        if !matches!(run.stage, Stage::Resuming { .. }) {
            run.stage = Stage::Resuming { until: now_ms + self.options.resume_wait_ms };
        }
        self.look_later(RESUME_LOOK_MS)
    }

    /// The log cannot be read: a run that is over waits no longer than its time.
    pub(super) fn give_up_bare(&mut self, now_ms: i64) -> Option<Vec<Effect>> {
        let run = self.run.as_ref().filter(|run| run.is_over_bare(self.protocol))?;
        let is_due = matches!(run.stage, Stage::Resuming { until } if now_ms >= until);
        is_due.then(|| self.end(End::answered(None, None)))
    }

    /// The gateway says what a run has answered.
    pub(in super::super) fn on_reply(&mut self, reply: TerminalReply) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = self.run.as_mut().filter(|run| run.run_id == reply.run_id) else { return Vec::new() };
        match run.stage {
            Stage::Resuming { .. } if run.is_over_bare(protocol) => self.end(End::answered(reply.text, None)),
            // What it has streamed, and its last event, tell more.
            _ if run.text.visible().is_empty() => {
                run.reply = Some(reply);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

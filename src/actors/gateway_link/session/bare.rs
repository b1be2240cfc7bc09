//! Runs whose last event has no text.
//!
//! From 2026.9 on a gateway takes back what an answer behind a tool has streamed, and ends the run without a message; whoever
//! says nothing on purpose ends in the same way. The answer stands in the log, some moments later. The run's last `agent`
//! event, before or behind that end, tells whether there is one, and its last part, cut at 4,096 characters: it is taken
//! only where the log has nothing. On protocol 3 a question may be put off like this, and be answered under another id.
use super::{Effect, End, RESUME_LOOK_MS, Run, Session, Stage};
use crate::gateway::frames::{ChatEvent, ChatState, TerminalReply};

/// How long the answer is looked for in the log; a log that does not answer is waited for as long again.
pub(super) const BARE_WAIT_MS: i64 = 2_000;

impl Run {
    /// Tells whether this end leaves open what was answered. What has come of it may be older than what was taken back.
    pub(super) fn is_bare(&self, event: &ChatEvent, protocol: u32) -> bool {
        let may_be_put_off = self.question.is_some() && self.text.visible().is_empty() && !self.abort_wanted;
        event.text.is_none() && (protocol >= 4 || may_be_put_off)
    }

    /// The gateway has said that the run is over, and its answer is looked for.
    pub(super) fn is_over_bare(&self, protocol: u32) -> bool {
        self.ended_bare && protocol >= 4
    }

    /// When a new attempt begins, what was said of the last one counts no more. Deltas may be told late, behind that word.
    pub(super) fn note_attempt(&mut self, event: &ChatEvent) {
        if event.state == ChatState::Status && !self.ended_bare {
            self.reply = None;
        }
    }

    /// The gateway has said that there is no answer to see; it speaks of the last part of it only.
    fn is_silent(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.text.is_none())
    }

    /// Ends it where the gateway has said that there is no answer. `None`: the log is to be read, which has all of one.
    pub(super) fn end_as_said(&mut self) -> Option<End> {
        (self.is_silent() && self.text.visible().is_empty()).then(|| self.bare_end())
    }

    /// What was answered, as far as it is known without the log: what has come of it, else what the gateway says. A text
    /// that was cut is none: the log's will be a late line.
    pub(super) fn bare_end(&mut self) -> End {
        let said = self.reply.take().filter(|_| self.text.visible().is_empty()).and_then(|reply| reply.text);
        End::answered(said.filter(|text| !TerminalReply::is_cut(text)), None)
    }
}

impl Session {
    /// The gateway speaks this protocol from now on.
    pub(super) fn speak(&mut self, protocol: u32) {
        if std::mem::replace(&mut self.protocol, protocol) != protocol
            && let Some(run) = &mut self.run
        {
            // An end without a text means something else there.
            run.ended_bare = false;
        }
    }

    /// The run at hand ended without a text: its answer is looked for.
    pub(super) fn end_bare(&mut self, now_ms: i64) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = &mut self.run else { return Vec::new() };
        run.ended_bare = true;
        run.is_seen = true;
        if protocol >= 4 {
            run.stage = Stage::Resuming { until: if run.is_silent() { now_ms } else { now_ms + BARE_WAIT_MS } };
            // A page that was asked for before is older than this end: it does not count, and is not waited for.
            run.heard += 1;
            self.looking = None;
            return self.look();
        }
        if !matches!(run.stage, Stage::Resuming { .. }) {
            run.stage = Stage::Resuming { until: now_ms + self.options.resume_wait_ms };
        }
        self.look_later(RESUME_LOOK_MS)
    }

    /// The gateway says what a run has answered. Where it says that there is nothing, the next page of the log decides.
    pub(in super::super) fn on_reply(&mut self, reply: TerminalReply, now_ms: i64) {
        let protocol = self.protocol;
        let Some(run) = self.run.as_mut().filter(|run| run.run_id == reply.run_id) else { return };
        if reply.text.is_none() && run.reply.as_ref().is_some_and(|known| known.text.is_some()) {
            return;
        }
        run.reply = Some(reply);
        if run.is_silent() && run.is_over_bare(protocol) && matches!(run.stage, Stage::Resuming { .. }) {
            run.stage = Stage::Resuming { until: now_ms };
        }
    }

    /// Looks for the answer of a run that is over. `None` if there is no such run; a log that cannot be read holds nothing
    /// up for long.
    pub(super) fn tick_bare(&mut self, now_ms: i64) -> Option<Vec<Effect>> {
        let protocol = self.protocol;
        let run = self.run.as_mut().filter(|run| run.is_over_bare(protocol))?;
        let until = match run.stage {
            Stage::Resuming { until } => until,
            Stage::Unsure => now_ms + BARE_WAIT_MS,
            _ => return None,
        };
        run.stage = Stage::Resuming { until };
        if now_ms >= until + BARE_WAIT_MS {
            let end = run.bare_end();
            return Some(self.end(end));
        }
        let is_looking = self.looking.is_some_and(|look| look.turn_id == run.turn_id);
        Some(if is_looking { Vec::new() } else { self.look() })
    }
}

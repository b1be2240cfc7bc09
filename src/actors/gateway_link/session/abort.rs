//! Somebody wants a run to end.
use super::{Effect, End, RESUME_LOOK_MS, Run, Session, Stage};
use crate::domain::ids::TurnId;

impl Session {
    /// Ends the run at hand; with `queued` also what waits behind it. If another turn than the `named` one runs by now,
    /// or none, nothing is done.
    pub(in super::super) fn abort(&mut self, named: Option<TurnId>, queued: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        let running = self.run.as_ref().map(|run| run.turn_id);
        if named.is_some() && named != running {
            return effects;
        }
        if queued && !self.queue.is_empty() {
            effects.push(Effect::Cancel(self.queue.drain(..).map(|question| question.delivery_id).collect()));
        }
        // What is over upstream has nothing left to stop: its answer is read in the log.
        let is_over = |run: &Run| self.link_up && run.is_over_bare(self.protocol);
        let Some(run) = self.run.as_mut().filter(|run| !is_over(run)) else { return effects };
        run.abort_wanted = true;
        match run.stage {
            Stage::Running if self.link_up => effects.extend(self.ask_to_abort()),
            // Nothing runs upstream that could be told to stop.
            Stage::Held | Stage::Resuming { .. } => effects.extend(self.end(End::aborted(None))),
            // What comes next asks for it.
            Stage::Beginning | Stage::Sending | Stage::Running | Stage::Unsure | Stage::Ending(_) => {}
        }
        effects
    }

    /// The same on a gateway that is not asked any more: the run ends with what came of it.
    pub(in super::super) fn abort_unasked(&mut self, named: Option<TurnId>, queued: bool) -> Vec<Effect> {
        let mut effects = self.abort(named, queued);
        let is_left = |run: &Run| run.abort_wanted && matches!(run.stage, Stage::Unsure);
        if self.run.as_ref().is_some_and(is_left) {
            effects.extend(self.end(End::aborted(None)));
        }
        effects
    }

    /// Asks the gateway to end the run. Its end is an event; should none come, it is asked again, and the log as well.
    pub(super) fn ask_to_abort(&mut self) -> Vec<Effect> {
        let Some(run_id) = self.run.as_ref().map(|run| run.run_id.clone()) else { return Vec::new() };
        let mut effects = vec![Effect::Abort { run_id }];
        effects.extend(self.look_later(RESUME_LOOK_MS));
        effects
    }
}

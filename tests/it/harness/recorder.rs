//! Keeps all events that a store tells, in order, and can hold the writer's thread between its commit and its answers.
use std::sync::Mutex;

use clawbroker::domain::event::{Event, Publish};
use tokio::sync::mpsc;

#[derive(Default)]
pub(crate) struct Recorder {
    events: Mutex<Vec<Event>>,
    gate: Mutex<Option<Gate>>,
}

struct Gate {
    arrived: mpsc::UnboundedSender<()>,
    go: std::sync::mpsc::Receiver<()>,
}

/// The other end of a gate. The writer goes on when this is dropped, so that a failing test does not hang.
pub(crate) struct Held {
    arrived: mpsc::UnboundedReceiver<()>,
    _go: std::sync::mpsc::Sender<()>,
}

impl Held {
    /// Waits until the writer has committed and stands before its answers.
    pub(crate) async fn arrived(&mut self) {
        self.arrived.recv().await.expect("the writer comes to the gate");
    }
}

impl Recorder {
    /// Holds the writer the next time it has something to tell.
    pub(crate) fn hold(&self) -> Held {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let (go, going) = std::sync::mpsc::channel();
        *self.gate.lock().unwrap() = Some(Gate { arrived, go: going });
        Held { arrived: arrivals, _go: go }
    }

    /// Hands out what was told since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

impl Publish for Recorder {
    fn publish(&self, events: Vec<Event>) {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            // The test may have failed and gone; then there is nobody to wait for.
            let _ = gate.arrived.send(());
            let _ = gate.go.recv();
        }
        self.events.lock().unwrap().extend(events);
    }
}

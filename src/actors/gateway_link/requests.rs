//! Requests to the gateway that wait for an answer: bounded, timed, failed at once when the connection ends.
use std::collections::{HashMap, VecDeque};

use serde_json::Value;
use tokio::sync::oneshot;

use super::session::Purpose;
use crate::actors::messages::UpstreamSession;
use crate::domain::error::Error;
use crate::domain::ids::ConversationId;

/// What a request is for.
pub(super) enum For {
    Agents,
    Models,
    SessionList,
    /// The hello is answered by hand: see the handshake.
    Connect,
    Send {
        conversation_id: ConversationId,
    },
    /// The event tells what came of it.
    Abort,
    History {
        conversation_id: ConversationId,
        purpose: Purpose,
    },
    List(oneshot::Sender<Result<Vec<UpstreamSession>, Error>>),
    Delete(oneshot::Sender<Result<(), Error>>),
    /// Asked for its time only.
    Test(oneshot::Sender<Result<u32, Error>>),
}

/// A request on its way or waiting.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) params: Value,
    pub(super) why: For,
}

struct InFlight {
    why: For,
    sent_at: tokio::time::Instant,
}

/// The table of requests of one connection.
#[derive(Default)]
pub(super) struct Requests {
    next_id: u64,
    in_flight: HashMap<String, InFlight>,
    waiting: VecDeque<Request>,
    pub(super) sent_total: u64,
    pub(super) timed_out_total: u64,
    /// Requests for which there was no room.
    pub(super) refused_total: u64,
}

impl Requests {
    /// Begins anew for another connection; the counters go on.
    pub(super) fn reset(&mut self) {
        self.next_id = 0;
        self.in_flight.clear();
        self.waiting.clear();
    }

    /// Takes a request in; gives it back when `waiting_max` wait already (LIM-1).
    pub(super) fn push(&mut self, request: Request, waiting_max: usize) -> Result<(), Request> {
        if self.waiting.len() >= waiting_max {
            self.refused_total += 1;
            return Err(request);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Returns the next request that may go out, as a frame, while fewer than `in_flight_max` are on their way.
    pub(super) fn next_frame(&mut self, in_flight_max: usize) -> Option<String> {
        if self.in_flight.len() >= in_flight_max {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.next_id += 1;
        self.sent_total += 1;
        let id = format!("c{}", self.next_id);
        let frame = crate::gateway::frames::request(&id, request.method, &request.params);
        self.in_flight.insert(id, InFlight { why: request.why, sent_at: tokio::time::Instant::now() });
        Some(frame)
    }

    /// Finds what an answer is for, and how long it took in milliseconds.
    pub(super) fn take(&mut self, id: &str) -> Option<(For, u64)> {
        let found = self.in_flight.remove(id)?;
        let took_ms = u64::try_from(found.sent_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some((found.why, took_ms))
    }

    /// Takes out the requests that have waited too long for their answer.
    pub(super) fn take_timed_out(&mut self, timeout: std::time::Duration) -> Vec<For> {
        let late: Vec<String> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.sent_at.elapsed() >= timeout)
            .map(|(id, _)| id.clone())
            .collect();
        self.timed_out_total += late.len() as u64;
        late.iter().filter_map(|id| self.in_flight.remove(id)).map(|request| request.why).collect()
    }

    /// Takes out everything, when the connection has ended.
    pub(super) fn take_all(&mut self) -> Vec<For> {
        let waiting = self.waiting.drain(..).map(|request| request.why);
        self.in_flight.drain().map(|(_, request)| request.why).chain(waiting).collect()
    }

    pub(super) fn len(&self) -> (usize, usize) {
        (self.in_flight.len(), self.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request { method: "chat.abort", params: Value::Null, why: For::Abort }
    }

    #[test]
    fn full_table_gives_requests_back_and_counts_them() {
        let mut requests = Requests::default();
        assert!(requests.push(request(), 2).is_ok() && requests.push(request(), 2).is_ok());
        assert!(requests.push(request(), 2).is_err());
        assert_eq!((requests.len(), requests.refused_total), ((0, 2), 1));
        // What goes out makes room.
        assert!(requests.next_frame(1).is_some() && requests.next_frame(1).is_none());
        assert!(requests.push(request(), 2).is_ok());
        assert_eq!((requests.len(), requests.refused_total), ((1, 2), 1));
        requests.reset();
        assert_eq!((requests.len(), requests.refused_total), ((0, 0), 1), "another connection begins empty");
    }
}
